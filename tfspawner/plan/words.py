"""A recorded spec as the words of the command line that would give it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .grid import grid_word
from .options import ONCE
from .spec import OPTIONS


def words_of(spec: Mapping[str, Any], extra: Sequence[str] = ()) -> list[str]:
    """The words after `run` for a run's spec.json, with extra options; of variables only the names."""
    words = [str(spec["script"])]
    for name, option in OPTIONS.items():
        value = spec.get(name)
        if not option.words or ONCE in option.traits or value is None:
            continue
        default = option.default
        if value == (list(default) if isinstance(default, tuple) else default):
            continue
        if isinstance(value, bool):
            words.append(option.flag if value else f"--no-{option.key}")
        elif isinstance(value, list):
            words += [word for item in value for word in (option.flag, f"{item}=..." if name == "env" else str(item))]
        elif isinstance(value, Mapping):
            words += [word for key, text in value.items() for word in (option.flag, f"{key}={text}")]
        elif str(value) != str(default):
            words += [option.flag, f"{value:g}" if isinstance(value, float) else str(value)]
    return [*words, *extra, *(["--", *spec["args"]] if spec.get("args") else [])]


def sweep_words(record: Mapping[str, Any]) -> list[str]:
    """The same for a sweep's sweep.json, with its name: they go on with it."""
    grid = [word for name, values in record["grid"].items() for word in ("--grid", grid_word(name, values))]
    parallel = ["--parallel", str(record["parallel"])] if record["parallel"] > 1 else []
    return words_of(record["spec"], ["--name", record["sweep"], *grid, *parallel])
