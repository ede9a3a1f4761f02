"""Turns the command line and job.yaml into a JobSpec, or into a Sweep if there is a grid."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tfspawner.base.names import brief
from tfspawner.base.userfile import LOADER, expanded, load_yaml, named, read_text
from tfspawner.errors import ConfigurationError
from tfspawner.plan.grid import SWEEP_OPTIONS, Sweep, parse_grid
from tfspawner.plan.options import (
    GRID,
    NUMBER,
    ONCE,
    PAIRS,
    PATH,
    PATHS,
    SECONDS,
    SWITCH,
    TEXT,
    TEXTS,
    WHOLE_SECONDS,
    Kind,
    Option,
)
from tfspawner.plan.secrecy import is_masked
from tfspawner.plan.spec import KUBERNETES_ONLY, OPTIONS, JobSpec, flag_of

from .envfile import read_env_file

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
# By their names among the command line's parsed options, which job.yaml may use, too; and by job.yaml's keys.
_KNOWN = {one.parameter: one for one in (*OPTIONS.values(), *SWEEP_OPTIONS.values())}
_KEYS = {one.key: name for name, one in _KNOWN.items()}
_PAIRS = tuple(name for name, one in _KNOWN.items() if one.kind is PAIRS)


def duration(value: object) -> float:
    """Seconds, from a number or text such as 90, "90s", "5m", "2h" or "1d". Raises ValueError."""
    text = str(value).strip() if isinstance(value, str | int | float) and not _is_huge(value) else ""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smhd]?)", text)
    if not match:
        raise ValueError(f"{brief(value)} is not a duration; write like 90s, 5m, 2h or 1d")
    return float(match[1]) * _UNITS[match[2]]


def make_spec(
    options: Mapping[str, Any], args: tuple[str, ...], recorded: Mapping[str, Any] | None = None
) -> tuple[JobSpec | Sweep, list[str]]:
    """The job or sweep, and notes. Flags override the -f file, which overrides a run's record."""
    flags = {key: value for key, value in options.items() if value is not None and value != ()}
    path = flags.pop("job_file", None)
    stored = {**(recorded or {}), **(read_job_file(path) if path else {})}
    notes = []
    if flags.get("on", stored.get("on", "local")) == "local":
        unused = [name for name in KUBERNETES_ONLY if stored.pop(OPTIONS[name].parameter, None) is not None]
        if unused:
            shown = ", ".join(flag_of(name)[2:] for name in unused)
            notes.append(f"note: {path or 'the record'}: {shown}: for Kubernetes alone, not used on this machine")
        if flags.get("image") and not _is_on_command_line("image"):
            del flags["image"]  # it came from the environment, and does no harm if unused
    where = f"-f {named(path)}: " if path else ""
    pairs = {key: {**_pairs(key, stored.get(key, {}), where), **_pairs(key, flags.get(key, ()))} for key in _PAIRS}
    grid = {**stored.pop("grid", {}), **parse_grid(flags.pop("grid", ()))}
    merged = {**stored, **flags}
    parallel = merged.pop("parallel", None)
    merged_args = args or tuple(merged.pop("args", ()))
    merged.pop("args", None)
    if merged.pop("has_secret", False) and not args and is_masked(merged_args):
        raise ConfigurationError(
            "the record has *** in place of a secret among the script's arguments",
            hint="give the arguments again, behind --",
        )
    if "script" not in merged:
        raise ConfigurationError("no training script is named", hint="tf-spawner run train.py -w 2")
    env: dict[str, str] = {}
    env_files = [Path(env_file) for env_file in merged.pop("env_files", ())]
    for env_file in env_files:
        if "=" in env_file.name and not env_file.exists():  # without the value, which may be a secret
            raise ConfigurationError(
                f"{where or '--'}env-file {named(env_file.name.partition('=')[0])}=… is no file",
                hint=f"KEY=VALUE goes to {'env:' if where else '--env'}",
            )
        env.update(read_env_file(env_file))
    if path and "env_pairs" in merged:
        env_files.append(path)  # its values are secret, too
    env.update(pairs["env_pairs"])
    for key in _PAIRS:
        merged.pop(key, None)
    if merged.get("ttl_s") is not None:
        merged["ttl_s"] = int(merged["ttl_s"])
    spec = JobSpec(
        **merged, args=merged_args, env=env, env_files=tuple(env_files), node_selector=pairs["node_selector_pairs"]
    )
    if grid:
        return Sweep(spec=spec, grid=grid, parallel=1 if parallel is None else parallel, file=path), notes
    if parallel is not None:
        raise ConfigurationError(
            "--parallel is how many points of a grid run at a time, and there is no grid", hint="add --grid NAME=V1,V2"
        )
    return spec, notes


def recorded_options(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a run's spec.json, without its name and without the variables, whose values are not recorded."""
    options: dict[str, Any] = {}
    for name, value in spec.items():
        option = OPTIONS.get(name)
        if not option or ONCE in option.traits or name in ("env", "env_files"):
            continue
        if option.kind is PATH:
            value = Path(value)
        options[option.parameter] = tuple(value) if isinstance(value, list) else value
    options["has_secret"] = bool(spec.get("env"))  # which may stand among the arguments, as ***
    return options


def recorded_sweep(record: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a sweep's sweep.json, as recorded_options gives those of a run."""
    return {**recorded_options(record["spec"]), "grid": record["grid"], "parallel": record["parallel"]}


def read_job_file(path: Path) -> dict[str, Any]:
    """The options of a job.yaml: its keys are the flags' names; paths are relative to the file."""
    documents = load_yaml(read_text(path, "-f"), _loader(), f"-f {named(path)}", unique=True)
    stored = documents[0] if documents else None
    if len(documents) != 1 or not isinstance(stored, dict):
        raise ConfigurationError(f"-f {named(path)} must hold options, like 'workers: 4'")
    options = {}
    for key, value in stored.items():
        word = str(key).replace("_", "-")
        name = _KEYS.get(word, word.replace("-", "_"))
        if name not in _KNOWN:
            raise ConfigurationError(
                f"-f {named(path)}: there is no option {brief(key)}",
                hint="its keys are run's long flags: tf-spawner run --help",
            )
        if name in options:
            raise ConfigurationError(f"-f {named(path)}: {brief(key)} is set a second time, in another spelling")
        if value is not None:
            options[name] = _stored_value(_KNOWN[name], value, path, str(key))
    return options


def _loader() -> Any:
    """YAML in which a value is the text that stands there, unless it is null, true, false or a whole number.

    So `on: kubernetes` is one of our keys, `tag: 1.10` keeps its zero, and `0010` is no octal number.
    """

    class Loader(LOADER):  # type: ignore[misc] # known at run time alone
        yaml_implicit_resolvers: dict[str, Any] = {}

    for tag, pattern, first in (
        ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("bool", "true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("int", "[-+]?(?:0|[1-9][0-9]*)$", list("-+0123456789")),
    ):
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"(?:{pattern})$"), first)
    return Loader


def _kind_of(kind: Kind, value: Any) -> str:
    """What a value must be, in YAML's terms."""
    if kind is NUMBER:
        quoted = isinstance(value, str) and re.fullmatch("[+-]?[0-9]{1,99}", value.strip())
        return f"a whole number{', without quotes' if quoted else ''}"
    texts = "a text, or a list of texts"
    return {SWITCH: "true or false", PATH: "a path", PATHS: texts, TEXTS: texts}.get(kind, "a text")


def _stored_value(option: Option, value: Any, path: Path, key: str) -> Any:
    """A value of job.yaml in the form that the command line gives."""
    where = f"-f {named(path)}: {key}"
    if option.kind is PAIRS:
        return _stored_pairs(value, where)
    if option.kind is GRID:
        return _stored_grid(value, f"-f {named(path)}: grid")
    if option.kind in (SECONDS, WHOLE_SECONDS):
        try:
            return duration(value)
        except ValueError as error:
            raise ConfigurationError(f"{where}: {error}") from None
    if option.kind in (TEXTS, PATHS):
        values = value if isinstance(value, list) else [value]
        if not all(map(_is_scalar, values)):
            raise _wrong_kind(option, value, where)
        if option.kind is TEXTS:
            return tuple(map(_scalar, values))
        return tuple(path.parent / expanded(Path(_scalar(item)), where) for item in values)
    fits: dict[Kind, Callable[[Any], bool]] = {
        PATH: lambda value: isinstance(value, str),
        SWITCH: lambda value: isinstance(value, bool),
        NUMBER: lambda value: isinstance(value, int) and not isinstance(value, bool),
        TEXT: _is_scalar,
    }
    if not fits[option.kind](value):
        raise _wrong_kind(option, value, where)
    if option.kind is PATH:  # the runs' folder does not depend on where job.yaml is
        return Path(value) if option.name == "out" else path.parent / expanded(Path(value), where)
    return _scalar(value) if option.kind is TEXT else value


def _wrong_kind(option: Option, value: Any, where: str) -> ConfigurationError:
    actual = "a mapping" if isinstance(value, dict) else brief(value)  # without what is in it, which may be a secret
    is_nested = isinstance(value, list) and any(isinstance(item, dict | list) for item in value)
    if is_nested and option.kind in (TEXTS, PATHS):
        actual = "a list with a mapping or a list in it"
    hint = "variables go to env:, like env: {KEY: VALUE}" if option.kind is PATHS else None
    return ConfigurationError(f"{where} is {actual}; it must be {_kind_of(option.kind, value)}", hint=hint)


def _stored_pairs(value: Any, where: str) -> dict[str, str] | tuple[str, ...]:
    if isinstance(value, dict):
        for name, text in value.items():  # without the text: it may be a secret
            if not (_is_scalar(name) and _is_scalar(text)):
                raise ConfigurationError(f"{where}: {named(name)} must have a text", hint='the empty one is ""')
        return {_scalar(name): _scalar(text) for name, text in value.items()}
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str) for item in values):
        raise ConfigurationError(f"{where} must be a mapping, or a list of KEY=VALUE")
    return tuple(values)


def _stored_grid(value: Any, where: str) -> dict[str, Any]:
    if not value or not isinstance(value, dict) or not all(isinstance(item, list) for item in value.values()):
        raise ConfigurationError(f"{where} must be a mapping of lists", hint="grid: {lr: [1e-3, 1e-4]}")
    return {_scalar(name): listed for name, listed in value.items()}


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | int | float) and not _is_huge(value)


def _is_huge(value: Any) -> bool:
    """Whether it is a number with more digits than Python writes down, 4,300."""
    return isinstance(value, int) and value.bit_length() > 10_000


def _scalar(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _pairs(key: str, words: Any, where: str = "") -> dict[str, str]:
    if isinstance(words, Mapping):
        return dict(words)
    pairs = {}
    for word in words:
        name, equals, value = str(word).partition("=")
        if not equals or not name:
            shown = f" {brief(name)}" if equals or key != "env_pairs" else ""  # it may be a secret
            flag = _KNOWN[key].flag
            raise ConfigurationError(f"{where}{flag[2:] if where else flag}{shown} is not KEY=VALUE")
        pairs[name] = value
    return pairs


def _is_on_command_line(name: str) -> bool:
    import click
    from click.core import ParameterSource

    context = click.get_current_context(silent=True)
    return context is None or context.get_parameter_source(name) is ParameterSource.COMMANDLINE
