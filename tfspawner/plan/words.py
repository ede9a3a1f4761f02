"""A recorded spec as the words of the command line that would give it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from .grid import grid_word
from .spec import JobSpec, flag_of


def words_of(spec: Mapping[str, Any], more: Sequence[str] = ()) -> list[str]:
    """The command line's words behind `run` for a run's spec.json, and more options; of variables the names alone."""
    words = [str(spec["script"])]
    for field in fields(JobSpec):
        value = spec.get(field.name)
        if field.name in ("script", "args", "name", "detach") or value is None:
            continue
        if value == (list(field.default) if isinstance(field.default, tuple) else field.default):
            continue
        flag = flag_of(field.name)
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        elif isinstance(value, list):
            words += [word for item in value for word in (flag, f"{item}=..." if field.name == "env" else str(item))]
        elif isinstance(value, Mapping):
            words += [word for key, text in value.items() for word in (flag, f"{key}={text}")]
        elif str(value) != str(field.default):
            words += [flag, f"{value:g}" if isinstance(value, float) else str(value)]
    return [*words, *more, *(["--", *spec["args"]] if spec.get("args") else [])]


def sweep_words(record: Mapping[str, Any]) -> list[str]:
    """The same for a sweep's sweep.json, with its name: they go on with it."""
    grid = [word for name, values in record["grid"].items() for word in ("--grid", grid_word(name, values))]
    parallel = ["--parallel", str(record["parallel"])] if record["parallel"] > 1 else []
    return words_of(record["spec"], ["--name", record["sweep"], *grid, *parallel])


def _is_on_command_line(name: str) -> bool:
    import click
    from click.core import ParameterSource

    context = click.get_current_context(silent=True)
    return context is None or context.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _word_of(field: str) -> str:
    return "node_selector_pairs" if field == "node_selector" else field
