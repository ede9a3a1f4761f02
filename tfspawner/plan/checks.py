"""Checks a JobSpec's values, each alone and several together. All raise ConfigurationError."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from tfspawner.base.names import brief
from tfspawner.base.shapes import Wrong
from tfspawner.base.shapes import text as text_shape
from tfspawner.base.userfile import A_FOLDER, kind_of, named, wrong_path
from tfspawner.errors import ConfigurationError
from tfspawner.replica.protocol import PORT

from .egress import destinations
from .limits import (
    LONGEST_LINE,
    MAX_ENV_BYTES,
    MAX_REPLICAS,
    MAX_SECONDS,
    MAX_SECRET_BYTES,
    MOST_ITEMS,
    MOST_LABELS,
    MOST_LIST_BYTES,
    MOST_NAME,
    MOST_TEXT_BYTES,
    MOST_VARIABLES,
)
from .options import ANY_BYTES, Kind, Option

_LINE = text_shape(LONGEST_LINE, lines=False)
_NAME = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_GPU_TYPE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9. _-]{0,61}[A-Za-z0-9])?")
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][0-9]+)?", re.ASCII)
_IMAGE = re.compile(
    r"(?:[a-zA-Z0-9.-]+(?::[0-9]+)?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[a-f0-9]{64})?"
)
_S3_FOLDER = re.compile(r"s3://[A-Za-z0-9][A-Za-z0-9._-]*(?:/[^\x00-\x1f\x7f*?\[]*)?")
_RESERVED_ENV = ("TF_CONFIG", "WORKER_NUMBER", "TOT_WORKERS")
_FACTORS = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18} | {
    f"{letter}i": 1024.0**power for power, letter in enumerate("KMGTPE", 1)
}


def quantity(value: str) -> float:
    """A Kubernetes quantity ("500m", "2Gi") as a number: cores, or bytes. Raises ValueError."""
    match = _QUANTITY.fullmatch(value)
    if not match:
        raise ValueError(f"not a Kubernetes quantity: {brief(value)}")
    suffix = match[2] or ""
    is_exponent = len(suffix) > 1 and suffix[0] in "eE" and suffix != "Ei"
    number = float(match[0]) if is_exponent else float(match[1]) * _FACTORS.get(suffix, 1.0)
    if math.isinf(number):
        raise ValueError(f"not a Kubernetes quantity, for its size: {value[:20]!r}…")
    return number


# ---- a value alone ------------------------------------------------------------------------------


def converted(values: Mapping[str, Any], options: Mapping[str, Option]) -> dict[str, object]:
    """The values as the fields hold them, with Paths for path-like values and tuples for lists. Also checks texts."""
    by_kind = [(name, options[name]) for kind in Kind for name in options if options[name].kind is kind]
    fields = {name: _converted(name, values[name], option) for name, option in by_kind}
    for kind in (Kind.PATH, Kind.TEXT, Kind.TEXTS, Kind.PAIRS):
        for name, option in by_kind:
            if option.kind is kind and name != "env":
                _check_texts(name, fields[name], option)
    return fields


def _converted(name: str, value: Any, option: Option) -> object:
    if value is None and option.is_optional:
        return None
    kind, fits, convert = _KINDS[option.kind]
    if not fits(value):
        what = f"must be {kind}" if name == "env" else f"is {brief(value)}; it must be {kind}"  # no secret is shown
        raise ConfigurationError(f"{name} {what}")
    return convert(value)


def _check_texts(name: str, value: Any, option: Option) -> None:
    """Refuses texts, alone or in a list, that are too long or that no program or record could take."""
    if option.kind is Kind.PATH:
        if value is not None and (reason := _no_path(str(value))):
            raise ConfigurationError(f"{name} is {brief(str(value))}, which is no path: {reason}")
        return
    listed = [value] if isinstance(value, str) else [*value, *value.values()] if isinstance(value, dict) else value
    for text in listed or ():
        is_line = name != "args" and not (isinstance(value, dict) and text not in value)
        if reason := _wrong_text(text, ANY_BYTES in option.traits) or (_wrong_line(text) if is_line else None):
            what = "an argument of the script" if name == "args" else f"{name} is {brief(text)}, which"
            raise ConfigurationError(f"{what} {reason}", hint="give it as one line of text, or leave it out")
    most = MOST_LABELS if option.kind is Kind.PAIRS else MOST_ITEMS
    if isinstance(value, list | tuple | dict) and len(value) > most:
        raise ConfigurationError(f"{name} has {len(value):,} entries, and {most:,} are possible")
    if sum(map(len, listed or ())) > MOST_LIST_BYTES:
        raise ConfigurationError(
            f"{name} has more than {MOST_LIST_BYTES:,} characters in all, which no job can take along",
            hint="put them into a file in the script's folder",
        )


def check_bounds(name: str, value: Any, option: Option) -> None:
    """Refuses a number outside the option's bounds, where it has some."""
    if value is None or not option.bounds:
        return
    least, most = option.bounds
    if not least <= value <= most:
        rule = f"{least} or more" if value < least else f"at most {most:,}"
        raise ConfigurationError(f"{name} is {brief(value)}; it must be a whole number, {rule}")


def check_seconds(name: str, value: float | None) -> None:
    """Refuses a time below 0 or above ten years."""
    if value is not None and not 0 <= value <= MAX_SECONDS:
        rule = "must not be negative" if value < 0 else f"must be at most {MAX_SECONDS:,}, which are ten years"
        raise ConfigurationError(f"{name} is {value:g}; it {rule}")


def _check_match(pattern: re.Pattern[str], name: str, value: str | None, rule: str) -> None:
    if value is not None and not pattern.fullmatch(value):
        raise ConfigurationError(f"{name} is {brief(value)}; it must be {rule}")


def check_quantity(name: str, value: str | None) -> None:
    """Refuses what is not a Kubernetes quantity above 0, and too little memory for Python to start."""
    if value is None:
        return
    try:
        number = quantity(value)
    except ValueError:
        number = 0
    if not number:
        raise ConfigurationError(
            f"{name} is {brief(value)}, which is not a Kubernetes quantity",
            hint='write like "512Mi" or "4Gi"' if name == "memory" else 'write like "2" or "500m"',
        )
    if name == "memory" and number < 16 * 1024**2:
        raise ConfigurationError(f"memory is {brief(value)}, which is {number:g} bytes", hint='write like "4Gi"')


def is_name(text: object) -> bool:
    """Whether a job can have this name."""
    return isinstance(text, str) and len(text) <= 63 and bool(_NAME.fullmatch(text))


def is_namespace(text: str) -> bool:
    """Whether a namespace can have this name."""
    return bool(_NAMESPACE.fullmatch(text))


def check_place(on: str) -> None:
    """Refuses a place that is not a backend."""
    if on not in ("local", "kubernetes"):
        raise ConfigurationError(f"on is {brief(on)}; it must be 'local' or 'kubernetes'")


def check_names(name: str | None, tag: str | None, queue: str | None) -> None:
    """Refuses invalid names of a job, a label or a LocalQueue."""
    _check_match(_NAME, "name", name, "lower-case letters, digits and '-', beginning with a letter")
    _check_match(_LABEL, "tag", tag, "letters, digits, '.', '_' and '-', at most 63")
    _check_match(_LABEL, "queue", queue, "a LocalQueue's name")


def check_words(namespace: str | None, artifacts: str | None, image: str | None) -> None:
    """Refuses invalid names of a namespace, a bucket's folder or an image."""
    _check_match(_NAMESPACE, "namespace", namespace, "lower-case letters, digits and '-', at most 63")
    _check_match(_S3_FOLDER, "artifacts", artifacts, "like s3://bucket/folder")
    _check_match(_IMAGE, "image", image, "like registry/name:tag")


def check_restart_on(words: Iterable[str], known: Iterable[str]) -> None:
    """Refuses a word that is not a reason to restart."""
    unknown = [word for word in words if word not in known]
    if unknown:
        raise ConfigurationError(f"restart_on is {brief(unknown[0])}; it must be of {', '.join(known)}")


def check_collect(patterns: Iterable[str]) -> None:
    """Refuses the empty pattern."""
    if "" in patterns:
        raise ConfigurationError(
            "collect is '', which is no file", hint="name files as the script does: --collect '/tmp/mymodel*'"
        )


def check_egress(words: Iterable[str]) -> None:
    """Refuses words that do not name addresses."""
    destinations(words)


# ---- several values together --------------------------------------------------------------------


def check_files(**paths: Path | None) -> None:
    """Refuses a path that names no existing file; a keyword is what the file is, such as pod_file."""
    for what, path in paths.items():
        if path is not None and (kind := kind_of(path)):
            raise ConfigurationError(
                f"{what.replace('_', ' ')} {named(path)} {kind}", hint=f"name an existing file (here: {Path.cwd()})"
            )


def check_folders(**paths: Path | None) -> None:
    """Refuses a path that names no existing folder; a keyword is the option."""
    for name, path in paths.items():
        if path is not None and kind_of(path) != A_FOLDER:
            raise ConfigurationError(f"--{name.replace('_', '-')} {named(path)} is not a folder")


def check_inside(script: Path, script_path: Path, workdir: Path | None, folder: Path) -> None:
    """Refuses a script outside the folder that travels."""
    if not script_path.is_relative_to(folder):
        raise ConfigurationError(
            f"script {named(script)} is not inside --workdir {named(str(workdir))}",
            hint="name a folder that holds the script: it is what travels to the replicas",
        )


def check_roles(workers: int, ps: int, has_chief: bool, replicas: int) -> None:
    """Refuses too many replicas in all, and roles without any that trains."""
    if replicas > MAX_REPLICAS:
        raise ConfigurationError(
            f"{replicas:,} replicas are asked for, and {MAX_REPLICAS:,} are possible: TF_CONFIG, one variable "
            "of at most 128 KiB, names them all",
            hint="ask for fewer replicas",
        )
    if workers + has_chief < 1:
        raise ConfigurationError("workers is 0 and there is no chief: nothing would train", hint="give -w 1 or more")
    if ps and not workers:
        raise ConfigurationError("parameter servers need workers, and workers is 0", hint="give -w 1 or more")


def check_gpu_type(gpu_type: str | None, gpus: int) -> None:
    """Refuses an invalid GPU product, and one without a number of GPUs."""
    _check_match(_GPU_TYPE, "gpu_type", gpu_type, "a GPU's product or a part of its name, like A100")
    if gpu_type and not gpus:
        raise ConfigurationError(
            f"gpu_type is {gpu_type!r}, and no GPU is asked for",
            hint="say how many for each replica: --gpus 1",
        )


def check_start_tries(start_tries: int | None, detach: bool) -> None:
    """Refuses further tries of a detached job, which nobody would be there to make."""
    if start_tries and detach:
        raise ConfigurationError("start_tries needs the launcher to stay: it cannot go with detach")


def check_kubernetes_only(flags: Collection[str]) -> None:
    """Refuses flags that mean nothing on this machine."""
    if flags:
        raise ConfigurationError(
            f"{', '.join(flags)} would do nothing on this machine", hint="add --on kubernetes, or leave it out"
        )


def check_port(port: int | None, on: str, replicas: int, default: int) -> None:
    """Refuses the agents' own port, and on this machine one with too few ports above it for all replicas."""
    most = 65536 - (replicas if on == "local" else 1)
    if port is not None and not 1024 <= port <= most:
        raise ConfigurationError(f"port is {brief(port)}; it must be 1024 to {most}")
    if on == "kubernetes" and port == PORT:
        raise ConfigurationError(f"port {PORT} is the agents' own", hint=f"leave --port out: {default}")


def check_env(env: Mapping[str, str], on: str) -> None:
    """Refuses variables that no process or Secret can have, and those that tf-spawner sets; shows no value."""
    if len(env) > MOST_VARIABLES:
        raise ConfigurationError(
            f"{len(env):,} environment variables are asked for, and {MOST_VARIABLES:,} are possible"
        )
    for key, value in env.items():
        if not _ENV_NAME.fullmatch(key):
            raise ConfigurationError(f"{brief(key)} is not a name for an environment variable")
        if len(key) > MOST_NAME:
            raise ConfigurationError(f"the environment variable {brief(key)} has a name of over {MOST_NAME} characters")
        if key in _RESERVED_ENV or key.startswith("TFSPAWNER_"):
            raise ConfigurationError(f"the environment variable {key} is set by tf-spawner itself; leave it out")
        _check_env_value(key, value)
    if on == "kubernetes" and sum(len(value.encode()) for value in env.values()) > MAX_SECRET_BYTES:
        raise ConfigurationError("the environment variables are more than a Secret holds, 1 MiB")


def _check_env_value(key: str, value: str) -> None:
    """Says what is wrong with a value without showing it: it may be a secret."""
    try:
        size = len(f"{key}={value}".encode())
    except UnicodeEncodeError:
        why = "it is not UTF-8"
    else:
        if size <= MAX_ENV_BYTES and "\0" not in value:
            return
        why = "it holds a NUL" if "\0" in value else f"it has {size:,} bytes, and {MAX_ENV_BYTES:,} are possible"
    raise ConfigurationError(f"the environment variable {key} cannot be passed on: {why}")


def _are(values: Iterable[object], kind: Any) -> bool:
    return all(isinstance(value, kind) for value in values)


def _paths(values: Iterable[str | Path]) -> tuple[Path, ...]:
    return tuple(map(Path, values))


def _wrong_text(text: str, may_be_bytes: bool) -> str | None:
    """Why a text can be neither a program's argument nor part of a Kubernetes object."""
    if "\0" in text:
        return "holds a NUL"
    try:
        size = len(os.fsencode(text) if may_be_bytes else text.encode())
    except UnicodeEncodeError:
        return "holds half of a surrogate pair, which is no text"
    return f"has {size:,} bytes, and {MOST_TEXT_BYTES:,} are possible" if size > MOST_TEXT_BYTES else None


def _no_path(path: str) -> str | None:
    """Why a path is invalid, or one that a record could not name."""
    line = _wrong_line(path)
    return wrong_path(path) or (f"it {line}" if line else None)


def _wrong_line(text: str) -> str | None:
    """Why a text cannot be used in records and messages, which have one line for it."""
    try:
        _LINE(text)
    except Wrong:
        return (
            "has more than 4,096 characters"
            if len(text) > LONGEST_LINE
            else "holds a line's end or a control character"
        )
    return None


def _is_seconds(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e12 and math.isfinite(value)


def _is_list_of(kind: Any) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list | tuple) and _are(value, kind)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping) and _are([*value, *value.values()], str)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_a(kind: Any) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


# What a value must be, in words; whether it is; what the field holds.
_KINDS: dict[Kind, tuple[str, Callable[[Any], bool], Callable[[Any], object]]] = {
    Kind.PATH: ("a path", _is_a(str | Path), Path),
    Kind.PATHS: ("a list of paths", _is_list_of(str | Path), _paths),
    Kind.TEXTS: ("a list of texts", _is_list_of(str), tuple),
    Kind.PAIRS: ("a mapping of texts", _is_mapping, dict),
    Kind.NUMBER: ("a whole number", _is_whole, int),
    Kind.WHOLE_SECONDS: ("a whole number", _is_whole, int),
    Kind.SECONDS: ("a number of seconds", _is_seconds, float),
    Kind.TEXT: ("a text", _is_a(str), str),
    Kind.SWITCH: ("True or False", _is_a(bool), bool),
}
