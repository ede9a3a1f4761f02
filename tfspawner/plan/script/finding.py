"""A Finding in a script, and the questions about a script and its job that several rules ask."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .reading import UNKNOWN, Call, Import, Script

_SHARED = re.compile(r"[a-z0-9]+://|/(eos|afs|nfs|mnt|shared)/")
STOCK_IMAGE = re.compile(r"(?:.*/)?tensorflow/tensorflow(?::((?:2\.(\d+)|latest|nightly)\S*))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One problem in the script; is_error: it is sure to fail; `line` counts from 1."""

    kind: str
    line: int | None
    message: str
    hint: str
    is_error: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What the rules must know about the job and the script's folder."""

    workers: int
    gpus: int
    image: str | None
    legacy_keras: bool
    on: str
    s3_plugin: bool
    restarts: int
    local_modules: frozenset[str]
    mounts: tuple[str, ...]
    collect: tuple[str, ...]


def warn(kind: str, at: ast.AST | Call | Import | None, message: str, hint: str) -> Finding:
    """A finding at the line of this node; without a line if `at` is None."""
    node = at.node if isinstance(at, Call | Import) else at
    return Finding(kind=kind, line=getattr(node, "lineno", None), message=message, hint=hint)


def short(name: str) -> str:
    """A name of TensorFlow's as scripts write it: tf.…"""
    return re.sub(r"^tensorflow\.", "tf.", name)


def has_helpers(script: Script, job: Job) -> bool:
    """Whether the script imports modules from its own folder, which are not read."""
    return any(
        imported.name.startswith(".") or imported.name.partition(".")[0] in job.local_modules
        for imported in script.imports
    )


def is_keras_3(script: Script, job: Job) -> bool:
    """Whether tf.keras is Keras 3: by the job's option, unless the script sets the variable itself."""
    settings = [setting for setting in script.settings if setting.name == "TF_USE_LEGACY_KERAS"]
    if not settings:
        return not job.legacy_keras
    return script.text(settings[0].value) in ("0", "False", "false")


def is_shared(path: str, job: Job) -> bool:
    """Whether this path is the same place for every replica; a relative path is each worker's own."""
    if UNKNOWN in path:
        return False
    if _SHARED.match(path):
        return True
    if job.on == "local":
        return path.startswith(("/", "~/"))
    return any(f"{path}/".startswith(f"{mount.rstrip('/')}/") for mount in job.mounts)


def has_new_tensorflow(job: Job) -> bool:
    """Whether the job's TensorFlow is known to be 2.17 or newer, by the image's name."""
    if job.image is None:
        return True
    match = STOCK_IMAGE.fullmatch(job.image)
    return match is not None and (match[2] is None or int(match[2]) >= 17)


Rule = Callable[[Script, Job], Iterator[Finding]]
