"""From a user's words, on the command line and in job.yaml, to a JobSpec, or to a Sweep where there is a grid."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from tfspawner.base.userfile import LOADER, brief, expanded, load_yaml, named, read_text
from tfspawner.errors import ConfigurationError
from tfspawner.plan.grid import Sweep, parse_grid
from tfspawner.plan.secrecy import is_masked
from tfspawner.plan.spec import KUBERNETES_ONLY, JobSpec, flag_of
from tfspawner.plan.words import _is_on_command_line, _word_of

from .envfile import read_env_file

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
# job.yaml's keys are the flags' names; these differ from the options' own
_KEYS = {
    "command": "command_file", "env-file": "env_files", "env": "env_pairs", "timeout": "timeout_s",
    "start-timeout": "start_timeout_s", "stall-timeout": "stall_timeout_s", "hold": "hold_s", "ttl": "ttl_s", "node-selector": "node_selector_pairs",
    "toleration": "tolerations", "image-pull-secret": "image_pull_secrets", "volume": "volumes",
    "legacy-keras": "legacy_keras",
}  # fmt: skip
_LISTS = ("env_files", "collect", "restart_on", "tolerations", "image_pull_secrets", "volumes", "egress", "args")
_PAIRS = ("env_pairs", "node_selector_pairs")
_DURATIONS = ("timeout_s", "start_timeout_s", "stall_timeout_s", "hold_s", "ttl_s")
_PATHS = ("script", "workdir", "command_file", "pod_file", "template_dir", "kubeconfig", "out")
_FLAGS = ("chief", "evaluator", "keep", "detach", "legacy_keras")
_NUMBERS = ("workers", "ps", "gpus", "port", "restarts", "start_tries", "parallel")
_TEXTS = (
    "on",
    "name",
    "tag",
    "artifacts",
    "cpu",
    "memory",
    "gpu_type",
    "image",
    "namespace",
    "context",
    "queue",
    "service_account",
)


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
    """What a command line asks for, over what its -f file says, over what a run's record says; and notes."""
    given = {key: value for key, value in options.items() if value is not None and value != ()}
    path = given.pop("job_file", None)
    stored = {**(recorded or {}), **(read_job_file(path) if path else {})}
    notes = []
    if given.get("on", stored.get("on", "local")) == "local":
        unused = [name for name in KUBERNETES_ONLY if stored.pop(_word_of(name), None) is not None]
        if unused:
            shown = ", ".join(flag_of(name)[2:] for name in unused)
            notes.append(f"note: {path or 'the record'}: {shown}: for Kubernetes alone, not used on this machine")
        if given.get("image") and not _is_on_command_line("image"):
            del given["image"]  # from the environment: where it is not used, it does no harm
    where = f"-f {named(path)}: " if path else ""
    pairs = {key: {**_pairs(key, stored.get(key, {}), where), **_pairs(key, given.get(key, ()))} for key in _PAIRS}
    grid = {**stored.pop("grid", {}), **parse_grid(given.pop("grid", ()))}
    merged = {**stored, **given}
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
        if "=" in env_file.name and not env_file.exists():  # without what is behind it, which may be a secret
            raise ConfigurationError(
                f"{where or '--'}env-file {named(env_file.name.partition('=')[0])}=… is no file",
                hint=f"KEY=VALUE goes to {'env:' if where else '--env'}",
            )
        env.update(read_env_file(env_file))
    if path and "env_pairs" in merged:
        env_files.append(path)  # its values are as secret
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
    """The options of a run's spec.json; without its name, and without the variables, whose values it has not."""
    known = {f.name: f for f in fields(JobSpec)}
    options = {}
    for name, value in spec.items():
        if name not in known or name in ("name", "env", "env_files", "detach"):
            continue
        if name in _PATHS:
            value = Path(value)
        options[name] = tuple(value) if isinstance(value, list) else value
    options["has_secret"] = bool(spec.get("env"))  # which may stand among the arguments, as ***
    if "node_selector" in options:
        options["node_selector_pairs"] = options.pop("node_selector")
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
        if name not in (*_LISTS, *_PAIRS, *_DURATIONS, *_PATHS, *_FLAGS, *_NUMBERS, *_TEXTS, "grid"):
            raise ConfigurationError(
                f"-f {named(path)}: there is no option {brief(key)}",
                hint="its keys are run's long flags: tf-spawner run --help",
            )
        if name in options:
            raise ConfigurationError(f"-f {named(path)}: {brief(key)} is set a second time, in another spelling")
        if value is not None:
            options[name] = _stored_value(name, value, path, str(key))
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


def _kind_of(name: str, value: Any) -> str:
    """What a value must be, in YAML's words."""
    if name in _NUMBERS:
        quoted = isinstance(value, str) and re.fullmatch("[+-]?[0-9]{1,99}", value.strip())
        return f"a whole number{', without quotes' if quoted else ''}"
    if name in _FLAGS:
        return "true or false"
    return "a path" if name in _PATHS else "a text, or a list of texts" if name in _LISTS else "a text"


def _stored_value(name: str, value: Any, path: Path, key: str) -> Any:
    """A job.yaml's value as the command line would have given it."""
    told = "a mapping" if isinstance(value, dict) else brief(value)  # without what is in it, which may be a secret
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value) and name in _LISTS:
        told = "a list with a mapping or a list in it"
    hint = "variables go to env:, like env: {KEY: VALUE}" if name == "env_files" else None
    wrong = ConfigurationError(f"-f {named(path)}: {key} is {told}; it must be {_kind_of(name, value)}", hint=hint)
    if name in _PATHS:
        if not isinstance(value, str):
            raise wrong
        return Path(value) if name == "out" else path.parent / expanded(Path(value), f"-f {named(path)}: {key}")
    if name in _LISTS:
        values = value if isinstance(value, list) else [value]
        if not all(map(_is_scalar, values)):
            raise wrong
        if name == "env_files":
            return tuple(path.parent / expanded(Path(_scalar(item)), f"-f {named(path)}: {key}") for item in values)
        return tuple(map(_scalar, values))
    if name in _PAIRS:
        if isinstance(value, dict):
            for k, v in value.items():  # without the value: it may be a secret
                if not (_is_scalar(k) and _is_scalar(v)):
                    raise ConfigurationError(
                        f"-f {named(path)}: {key}: {named(k)} must have a text", hint='the empty one is ""'
                    )
            return {_scalar(k): _scalar(v) for k, v in value.items()}
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(item, str) for item in values):
            raise ConfigurationError(f"-f {named(path)}: {key} must be a mapping, or a list of KEY=VALUE")
        return tuple(values)
    if name == "grid":
        if not value or not isinstance(value, dict) or not all(isinstance(item, list) for item in value.values()):
            raise ConfigurationError(
                f"-f {named(path)}: grid must be a mapping of lists", hint="grid: {lr: [1e-3, 1e-4]}"
            )
        return {_scalar(name): listed for name, listed in value.items()}
    if name in _DURATIONS:
        try:
            return duration(value)
        except ValueError as error:
            raise ConfigurationError(f"-f {named(path)}: {key}: {error}") from None
    if name in _FLAGS and not isinstance(value, bool):
        raise wrong
    if name in _NUMBERS and (isinstance(value, bool) or not isinstance(value, int)):
        raise wrong
    if name in _TEXTS:
        if not _is_scalar(value):
            raise wrong
        return _scalar(value)
    return value


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
    found = {}
    for word in words:
        name, equals, value = str(word).partition("=")
        if not equals or not name:
            shown = f" {brief(name)}" if equals or key != "env_pairs" else ""  # it may be a secret
            flag = flag_of(key.removesuffix("_pairs"))
            raise ConfigurationError(f"{where}{flag[2:] if where else flag}{shown} is not KEY=VALUE")
        found[name] = value
    return found
