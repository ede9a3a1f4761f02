"""What is to be launched: JobSpec, checked as it is made, with nothing left to be guessed later."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from tfspawner import agent
from tfspawner.base.shapes import Wrong
from tfspawner.base.shapes import text as text_shape
from tfspawner.base.userfile import A_FOLDER, brief, kind_of, named, wrong_path
from tfspawner.errors import ConfigurationError

from .egress import destinations

DEFAULT_IMAGE = "tensorflow/tensorflow:2.21.0"
DEFAULT_PORT = 2222
MAX_ENV_BYTES = 128 * 1024 - 1  # Linux's bound for one NAME=VALUE (MAX_ARG_STRLEN)
MOST_NAME = 253  # of a variable: a Secret's key
MAX_SECRET_BYTES = 1024 * 1024
# TF_CONFIG is one variable, and each address takes up to 24 of its bytes. Jobs of 1,000 workers were tried.
MAX_REPLICAS = 5400
MAX_INT32 = 2**31 - 1  # Kubernetes's bound for ttlSecondsAfterFinished and backoffLimitPerIndex
MAX_SECONDS = 10 * 365 * 86400  # ten years; Python's own waits end at 292
MAX_GPUS = 1000  # of one replica; a node has 16, or 56 parts of some
MOST_TEXT_BYTES = 128 * 1024 - 1  # of one argument or name (Linux's MAX_ARG_STRLEN)
MOST_LIST_BYTES = 512 * 1024  # of a list or mapping in all: it goes into a ConfigMap of 1 MiB, and onto a command line
MOST_VARIABLES = 2000  # each is looked for in the code and in the output, in all its spellings
MOST_ITEMS, MOST_LABELS = 100_000, 1000  # of a list and of a mapping that a record takes, see recorded.py
RESTART_ON = ("lost", "stalled", "failed")
ROLES = ("chief", "worker", "ps", "evaluator")
LONGEST_LINE = 4096  # characters of a text that stands on one line

_LINE = text_shape(LONGEST_LINE, lines=False)
_NAME = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_GPU_TYPE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9. _-]{0,61}[A-Za-z0-9])?")
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][0-9]+)?", re.ASCII)
_IMAGE = re.compile(
    r"(?:[a-zA-Z0-9.-]+(?::[0-9]+)?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[a-f0-9]{64})?"
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


KUBERNETES_ONLY = (
    "cpu", "memory", "image", "namespace", "context", "kubeconfig", "ttl_s", "queue", "node_selector", "tolerations",
    "service_account", "image_pull_secrets", "volumes", "egress", "pod_file", "template_dir", "start_tries",
)  # fmt: skip


_PATHS = ("script", "workdir", "command_file", "out", "kubeconfig", "pod_file", "template_dir")
_FREE_TEXTS = ("args", "collect")  # may hold what is no UTF-8, as names of files do
_LISTS = ("args", "collect", "restart_on", "tolerations", "image_pull_secrets", "volumes", "egress")
_MAPPINGS = ("env", "node_selector")
_NUMBERS = ("workers", "ps", "gpus", "port", "ttl_s", "restarts", "start_tries")
_BOUNDS = {
    "workers": (0, MAX_REPLICAS), "ps": (0, MAX_REPLICAS), "gpus": (0, MAX_GPUS), "restarts": (0, MAX_INT32),
    "ttl_s": (0, MAX_INT32), "start_tries": (1, MAX_INT32),
}  # fmt: skip
_SECONDS = ("timeout_s", "start_timeout_s", "stall_timeout_s", "hold_s")
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
_SWITCHES = ("chief", "evaluator", "keep", "detach", "legacy_keras")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """One job: a script and the replicas that run it.

    Quantities are Kubernetes's ("4", "500m", "8Gi"), times are in seconds. `env` reaches the replicas
    through a Secret, so no value of it stands in a manifest. The fields in KUBERNETES_ONLY have no
    meaning for the local backend, which refuses them. Raises ConfigurationError, naming
    the field and the value.
    """

    script: Path
    args: tuple[str, ...] = ()
    workers: int = 2
    chief: bool = False
    ps: int = 0
    evaluator: bool = False
    gpus: int = 0
    gpu_type: str | None = None
    on: Literal["local", "kubernetes"] = "local"
    name: str | None = None
    tag: str | None = None
    workdir: Path | None = None
    command_file: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    env_files: tuple[Path, ...] = ()  # that env was read from: they do not travel with the code
    port: int | None = None
    collect: tuple[str, ...] = ()
    artifacts: str | None = None
    out: Path = Path("runs")
    timeout_s: float | None = None
    start_timeout_s: float | None = None
    stall_timeout_s: float | None = None
    restarts: int = 0
    restart_on: tuple[str, ...] = ("lost", "stalled")
    hold_s: float = 24 * 3600
    keep: bool = False
    detach: bool = False
    legacy_keras: bool = True
    cpu: str | None = None
    memory: str | None = None
    image: str | None = None
    namespace: str | None = None
    context: str | None = None
    kubeconfig: Path | None = None
    ttl_s: int | None = None
    start_tries: int | None = None
    queue: str | None = None
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[str, ...] = ()
    service_account: str | None = None
    image_pull_secrets: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    egress: tuple[str, ...] = ()
    pod_file: Path | None = None
    template_dir: Path | None = None

    def __post_init__(self) -> None:
        self._check_types()
        self._check_files()
        self._check_roles()
        self._check_values()
        if self.on == "local":
            self._refuse_kubernetes_only()

    def _check_types(self) -> None:
        """Makes paths of path-like values and tuples of lists, and refuses what is of another kind, too large or no text."""
        for name in _PATHS:
            self._convert(name, "a path", lambda v: isinstance(v, str | Path), Path)
        self._convert(
            "env_files", "a list of paths", lambda v: isinstance(v, list | tuple) and _are(v, str | Path), _paths
        )
        for name in _LISTS:
            self._convert(name, "a list of texts", lambda v: isinstance(v, list | tuple) and _are(v, str), tuple)
        for name in _MAPPINGS:
            self._convert(
                name, "a mapping of texts", lambda v: isinstance(v, Mapping) and _are([*v, *v.values()], str), dict
            )
        for name in _NUMBERS:
            self._convert(name, "a whole number", lambda v: isinstance(v, int) and not isinstance(v, bool), int)
        for name in _SECONDS:
            self._convert(name, "a number of seconds", _is_seconds, float)
        for name in _TEXTS:
            self._convert(name, "a text", lambda v: isinstance(v, str), str)
        for name in _SWITCHES:
            self._convert(name, "True or False", lambda v: isinstance(v, bool), bool)
        self._check_texts()

    def _convert(self, name: str, kind: str, fits: Callable[[Any], bool], convert: Callable[[Any], object]) -> None:
        value = getattr(self, name)
        if value is None and name in _OPTIONAL:
            return
        if not fits(value):
            is_value = (
                f"must be {kind}" if name == "env" else f"is {brief(value)}; it must be {kind}"
            )  # no secret is shown
            raise ConfigurationError(f"{name} {is_value}")
        object.__setattr__(self, name, convert(value))

    def _check_texts(self) -> None:
        for name in _PATHS:
            path = getattr(self, name)
            if path is not None and (reason := _no_path(str(path))):
                raise ConfigurationError(f"{name} is {brief(str(path))}, which is no path: {reason}")
        for name in (*_TEXTS, *_LISTS, "node_selector"):
            value = getattr(self, name)
            listed = (
                [value] if isinstance(value, str) else [*value, *value.values()] if isinstance(value, dict) else value
            )
            for text in listed or ():
                is_line = name != "args" and not (isinstance(value, dict) and text not in value)
                if reason := _wrong_text(text, name in _FREE_TEXTS) or (_wrong_line(text) if is_line else None):
                    what = "an argument of the script" if name == "args" else f"{name} is {brief(text)}, which"
                    raise ConfigurationError(f"{what} {reason}", hint="give it as one line of text, or leave it out")
            most = MOST_LABELS if name == "node_selector" else MOST_ITEMS
            if isinstance(value, list | tuple | dict) and len(value) > most:
                raise ConfigurationError(f"{name} has {len(value):,} entries, and {most:,} are possible")
            if sum(map(len, listed or ())) > MOST_LIST_BYTES:
                raise ConfigurationError(
                    f"{name} has more than {MOST_LIST_BYTES:,} characters in all, which no job can take along",
                    hint="put them into a file in the script's folder",
                )

    @property
    def roles(self) -> dict[str, int]:
        """Replicas per role, in TF_CONFIG's order; the first role's replica 0 coordinates."""
        counts = {"chief": int(self.has_chief), "worker": self.workers, "ps": self.ps, "evaluator": int(self.evaluator)}
        return {role: count for role, count in counts.items() if count}

    @property
    def replicas(self) -> list[str]:
        """Their names, role-index; the first coordinates."""
        return [f"{role}-{index}" for role, count in self.roles.items() for index in range(count)]

    @property
    def gpu_replicas(self) -> list[str]:
        """Those that get --gpus: parameter servers hold variables, and need none."""
        return [replica for replica in self.replicas if self.gpus and not replica.startswith("ps-")]

    @property
    def has_chief(self) -> bool:
        """Parameter servers need a coordinating chief, so asking for them asks for it."""
        return self.chief or self.ps > 0

    @property
    def folder(self) -> Path:
        """The folder that travels to the replicas: --workdir, else the script's own."""
        return (self.workdir or self.script.parent).resolve()

    @property
    def script_path(self) -> Path:
        """The script's own path, its folder resolved; it may itself be a link."""
        return self.script.parent.resolve() / self.script.name

    def _check_files(self) -> None:
        for what, path in (("script", self.script), ("command file", self.command_file), ("pod file", self.pod_file)):
            if path is not None and (kind := kind_of(path)):
                raise ConfigurationError(
                    f"{what} {named(path)} {kind}", hint=f"name an existing file (here: {Path.cwd()})"
                )
        for what, path in (("--workdir", self.workdir), ("--template-dir", self.template_dir)):
            if path is not None and kind_of(path) != A_FOLDER:
                raise ConfigurationError(f"{what} {named(path)} is not a folder")
        if not self.script_path.is_relative_to(self.folder):
            raise ConfigurationError(
                f"script {named(self.script)} is not inside --workdir {named(str(self.workdir))}",
                hint="name a folder that holds the script: it is what travels to the replicas",
            )

    def _check_roles(self) -> None:
        if self.on not in ("local", "kubernetes"):
            raise ConfigurationError(f"on is {brief(self.on)}; it must be 'local' or 'kubernetes'")
        for name, (least, most) in _BOUNDS.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                rule = f"{least} or more" if value < least else f"at most {most:,}"
                raise ConfigurationError(f"{name} is {brief(value)}; it must be a whole number, {rule}")
        if sum(self.roles.values()) > MAX_REPLICAS:
            raise ConfigurationError(
                f"{sum(self.roles.values()):,} replicas are asked for, and {MAX_REPLICAS:,} are possible: TF_CONFIG, one variable "
                "of at most 128 KiB, names them all",
                hint="ask for fewer replicas",
            )
        if self.workers + self.has_chief < 1:
            raise ConfigurationError(
                "workers is 0 and there is no chief: nothing would train", hint="give -w 1 or more"
            )
        if self.ps and not self.workers:
            raise ConfigurationError("parameter servers need workers, and workers is 0", hint="give -w 1 or more")

    def _check_values(self) -> None:
        _check_match(_NAME, "name", self.name, "lower-case letters, digits and '-', beginning with a letter")
        _check_match(_LABEL, "tag", self.tag, "letters, digits, '.', '_' and '-', at most 63")
        _check_match(_LABEL, "queue", self.queue, "a LocalQueue's name")
        _check_match(_GPU_TYPE, "gpu_type", self.gpu_type, "a GPU's product or a part of its name, like A100")
        if self.gpu_type and not self.gpus:
            raise ConfigurationError(
                f"gpu_type is {self.gpu_type!r}, and no GPU is asked for",
                hint="say how many for each replica: --gpus 1",
            )
        _check_match(_NAMESPACE, "namespace", self.namespace, "lower-case letters, digits and '-', at most 63")
        _check_match(_S3_FOLDER, "artifacts", self.artifacts, "like s3://bucket/folder")
        _check_match(_IMAGE, "image", self.image, "like registry/name:tag")
        for name in ("cpu", "memory"):
            value = getattr(self, name)
            if value is not None:
                _check_quantity(name, value)
        most_port = 65536 - (len(self.replicas) if self.on == "local" else 1)
        if self.port is not None and not 1024 <= self.port <= most_port:
            raise ConfigurationError(f"port is {brief(self.port)}; it must be 1024 to {most_port}")
        if self.on == "kubernetes" and self.port == agent.PORT:
            raise ConfigurationError(f"port {agent.PORT} is the agents' own", hint=f"leave --port out: {DEFAULT_PORT}")
        if self.start_tries and self.detach:
            raise ConfigurationError("start_tries needs the launcher to stay: it cannot go with detach")
        unknown = [word for word in self.restart_on if word not in RESTART_ON]
        if unknown:
            raise ConfigurationError(f"restart_on is {brief(unknown[0])}; it must be of {', '.join(RESTART_ON)}")
        for name in _SECONDS:
            value = getattr(self, name)
            if value is not None and not 0 <= value <= MAX_SECONDS:
                rule = "must not be negative" if value < 0 else f"must be at most {MAX_SECONDS:,}, which are ten years"
                raise ConfigurationError(f"{name} is {value:g}; it {rule}")
        if "" in self.collect:
            raise ConfigurationError(
                "collect is '', which is no file", hint="name files as the script does: --collect '/tmp/mymodel*'"
            )
        destinations(self.egress)
        if len(self.env) > MOST_VARIABLES:
            raise ConfigurationError(
                f"{len(self.env):,} environment variables are asked for, and {MOST_VARIABLES:,} are possible"
            )
        for key in self.env:
            if not _ENV_NAME.fullmatch(key):
                raise ConfigurationError(f"{brief(key)} is not a name for an environment variable")
            if len(key) > MOST_NAME:
                raise ConfigurationError(
                    f"the environment variable {brief(key)} has a name of over {MOST_NAME} characters"
                )
            if key in _RESERVED_ENV or key.startswith("TFSPAWNER_"):
                raise ConfigurationError(f"the environment variable {key} is set by tf-spawner itself; leave it out")
            _check_env_value(key, self.env[key])
        if self.on == "kubernetes" and sum(len(value.encode()) for value in self.env.values()) > MAX_SECRET_BYTES:
            raise ConfigurationError("the environment variables are more than a Secret holds, 1 MiB")

    def _refuse_kubernetes_only(self) -> None:
        given = [name for name in KUBERNETES_ONLY if getattr(self, name)]
        if given:
            flags = ", ".join(flag_of(name) for name in given)
            raise ConfigurationError(
                f"{flags} would do nothing on this machine", hint="add --on kubernetes, or leave it out"
            )


_FLAGS = {
    "tolerations": "toleration", "image_pull_secrets": "image-pull-secret", "volumes": "volume", "ttl_s": "ttl",
    "timeout_s": "timeout", "start_timeout_s": "start-timeout", "stall_timeout_s": "stall-timeout", "hold_s": "hold",
    "command_file": "command",
}  # fmt: skip


_OPTIONAL = frozenset(field.name for field in fields(JobSpec) if field.default is None)


def _are(values: Iterable[object], kind: Any) -> bool:
    return all(isinstance(value, kind) for value in values)


def _paths(values: Iterable[str | Path]) -> tuple[Path, ...]:
    return tuple(map(Path, values))


def _wrong_text(text: str, may_be_bytes: bool) -> str | None:
    """Why a text can be neither an argument of a program nor stand in an object."""
    if "\0" in text:
        return "holds a NUL"
    try:
        size = len(os.fsencode(text) if may_be_bytes else text.encode())
    except UnicodeEncodeError:
        return "holds half of a surrogate pair, which is no text"
    return f"has {size:,} bytes, and {MOST_TEXT_BYTES:,} are possible" if size > MOST_TEXT_BYTES else None


def _no_path(path: str) -> str | None:
    """Why a path is none, or none that a record could name."""
    line = _wrong_line(path)
    return wrong_path(path) or (f"it {line}" if line else None)


def _wrong_line(text: str) -> str | None:
    """Why a text cannot stand in a record and in messages, each on one line."""
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


def is_name(text: object) -> bool:
    """Whether a job can have this name."""
    return isinstance(text, str) and len(text) <= 63 and bool(_NAME.fullmatch(text))


def is_namespace(text: str) -> bool:
    """Whether a namespace can have this name."""
    return bool(_NAMESPACE.fullmatch(text))


def flag_of(name: str) -> str:
    """The command line's flag for a JobSpec field."""
    return "--" + _FLAGS.get(name, name).replace("_", "-")


def _check_match(pattern: re.Pattern[str], name: str, value: str | None, rule: str) -> None:
    if value is not None and not pattern.fullmatch(value):
        raise ConfigurationError(f"{name} is {brief(value)}; it must be {rule}")


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


def _check_quantity(name: str, value: str) -> None:
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
