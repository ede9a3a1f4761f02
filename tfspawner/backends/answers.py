"""Parses what agents send into typed, bounded values, and accepts only the job's own replicas.

The functions raise ValueError with words that follow "sent no status: ", as in "phase: 'x' is none of ...".
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict, TypeVar, cast

from tfspawner.base.cause import Cause
from tfspawner.base.terminal import harmless
from tfspawner.replica.checks import fields, flag, number, or_none, read_json, shown, text, whole_number
from tfspawner.replica.protocol import LOG_ANSWER, PHASES, STATES
from tfspawner.replica.reports import ORDER, REPORT, log_place, order_of, progress_of

MARKS, MARKS_A_REPLICA = 10_000, 2_000  # JSON marks (see read_json) in an answer, and on top for each replica
MOST_RESTARTS = 1000
LONGEST_ENTRY = 64 << 10  # characters of one entry in a list of files
LISTS = ("files", "folders", "skipped", "unreadable")
_DECODER = json.JSONDecoder()
_BEHIND = frozenset(" \t\r\n,:]}")  # the characters that may follow a value
_SPACE = re.compile(r"[ \t\r\n]*")
Value = TypeVar("Value")


class Order(TypedDict):
    """The gang's phase and result; the version changes with them."""

    version: int
    generation: int
    phase: str
    result: str | None
    released: bool
    kept: bool
    stalled: bool


class Report(TypedDict):
    """One replica's state, and what goes with it."""

    state: str
    since: float
    message: NotRequired[str]
    progress: NotRequired[dict[str, Any]]
    usage: NotRequired[dict[str, Any]]
    exit_code: NotRequired[int | None]
    unkept: NotRequired[dict[str, Any]]
    storing: NotRequired[str]
    stored: NotRequired[dict[str, Any] | None]
    revision: NotRequired[int]


class Restart(TypedDict):
    """When the gang restarted, and why."""

    replica: str
    message: str
    kind: NotRequired[str | None]
    generation: int
    time: float


class Gang(Order):
    """All that the coordinator knows: about all replicas, or about those with news."""

    cause: Cause | None
    times: dict[str, float]
    replicas: dict[str, Report]
    restarts: list[Restart]
    restarts_allowed: int
    behind: dict[str, float]


class Brief(Order):
    """The gang in one line."""

    times: dict[str, float]
    states: dict[str, int]
    usage: dict[str, Any]
    progress: dict[str, Any]
    behind: dict[str, float]
    restarts: int


@dataclass(frozen=True, slots=True)
class Output:
    """A frame with the next bytes of a replica's log."""

    replica: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Part:
    """A frame with a file's bytes from offset on; `missing` if the file is gone, or shorter now."""

    path: str
    offset: int
    size: int
    missing: bool


def cleaned(value: Value) -> Value:
    """The value with each of its texts on one line, and without control characters."""
    if isinstance(value, str):
        plain = value if value.isprintable() else harmless(value).replace("\n", " ")
        return cast(Value, plain)
    if isinstance(value, dict):
        return cast(Value, {cleaned(key): cleaned(inner) for key, inner in value.items()})
    if isinstance(value, list):
        return cast(Value, [cleaned(inner) for inner in value])
    return value


def json_of(data: bytes, replicas: int = 0) -> Any:
    """Parses an answer's JSON. Raises ValueError if it is larger than that many replicas can need."""
    return read_json(data, MARKS + replicas * MARKS_A_REPLICA)


def order(value: Any) -> Order:
    """The gang's phase and result from a coordinator's answer."""
    return cast(Order, order_of(value))


def gang(value: Any, replicas: Collection[str]) -> Gang:
    """A coordinator's status."""
    checks = {
        **ORDER,
        "cause": or_none(lambda cause: _cause(cause, replicas)),
        "times": _times,
        "replicas": lambda reports: _reports(reports, replicas),
        "restarts": lambda restarts: _restarts(restarts, replicas),
        "restarts_allowed": whole_number,
        "behind": lambda behind: _by_name(behind, replicas, number),
    }
    status = cleaned(fields(value, checks, tuple(checks)))
    return cast(Gang, {**status, "cause": status["cause"] and Cause.of(status["cause"])})


def own_report(value: Any, replica: str, replicas: Collection[str]) -> Report | None:
    """What an agent's status says about its own replica; None if it says nothing yet."""
    status = fields(value, {"replicas": lambda reports: _reports(reports, replicas)}, ("replicas",))
    return cast(Report | None, cleaned(status["replicas"].get(replica)))


def brief(value: Any, replicas: Collection[str]) -> Brief:
    """A coordinator's status in one line."""
    checks = {
        **ORDER,
        "times": _times,
        "states": lambda states: _by_name(states, STATES, whole_number),
        "usage": lambda usage: fields(usage, _SUMS, tuple(_SUMS) if usage else ()),
        "progress": progress_of,
        "behind": lambda behind: _by_name(behind, replicas, number),
        "restarts": whole_number,
    }
    return cast(Brief, cleaned(fields(value, checks, tuple(checks))))


def frame(head: Any, replicas: Collection[str], *, has_output: bool) -> Output | Gang | None:
    """A frame of the coordinator's stream; None at its end."""
    if type(head) is dict and "gang" in head:
        return gang(head["gang"], replicas)
    values = fields(head, {"end": flag, "replica": text, "offset": whole_number, "size": whole_number})
    if values.get("end"):
        return None
    _known(values.get("replica"), replicas)
    if not has_output:
        raise ValueError("output, which was not asked for")
    if "offset" not in values or not 0 < values.get("size", 0) <= LOG_ANSWER:
        raise ValueError("output without an offset, or of no size that one has")
    return Output(values["replica"], values["offset"], values["size"])


def part(head: Any) -> Part | None:
    """A frame of files; None at the end."""
    values = fields(head, {"end": flag, "path": text, "offset": whole_number, "size": whole_number, "missing": flag})
    if values.get("end"):
        return None
    missing = values.get("missing", False)
    if "path" not in values or not (missing or {"offset", "size"} <= values.keys()):
        raise ValueError("a file without a path, an offset or a size")
    return Part(values["path"], values.get("offset", 0), 0 if missing else values["size"], missing)


def is_wanted(value: Any) -> bool:
    """Whether the coordinator still needs the code."""
    return bool(fields(value, {"wanted": flag}, ("wanted",))["wanted"])


def log_head(headers: Mapping[str, str]) -> tuple[bool, int]:
    """The headers of a log's answer: whether the output ends there, and where the log ended at that time."""
    end = headers.get("X-End")
    if end not in ("0", "1"):
        raise ValueError("it does not say whether it ends there")
    return end == "1", log_place(headers.get("X-Size"))


# ---- parts of answers ---------------------------------------------------------------------------

_SUMS: dict[str, Callable[[Any], Any]] = {
    "cpu": number,
    "memory": whole_number,
    "gpus": lambda gpus: fields(
        gpus,
        {"count": whole_number, "use": or_none(number), "memory": or_none(whole_number)},
        ("count", "use", "memory"),
    ),
}
_RESTART: dict[str, Callable[[Any], Any]] = {
    "replica": text,
    "message": text,
    "kind": or_none(text),
    "generation": whole_number,
    "time": number,
}


def _by_name(value: Any, names: Collection[str], check: Callable[[Any], Any]) -> dict[str, Any]:
    if type(value) is not dict:
        raise ValueError(f"{shown(value)} is not an object")
    for name in value:
        _known(name, names)
    return {name: check(inner) for name, inner in value.items()}


def _known(name: Any, names: Collection[str]) -> None:
    if name not in names:
        raise ValueError(f"there is no {shown(name)}")


def _times(value: Any) -> dict[str, Any]:
    return _by_name(value, ("began", *PHASES), number)


def _of_a_replica(
    value: Any, checks: Mapping[str, Callable[[Any], Any]], needed: tuple[str, ...], replicas: Collection[str]
) -> dict[str, Any]:
    checked = fields(value, checks, needed)
    _known(checked["replica"], replicas)
    return checked


def _cause(value: Any, replicas: Collection[str]) -> dict[str, Any]:
    """Why a gang ended: a replica's report, or a cause that is no replica's."""
    cause = fields(value, {**REPORT, "replica": or_none(text)}, ("replica", "message"))
    if cause["replica"] is not None:
        _known(cause["replica"], replicas)
    return cause


def _reports(value: Any, replicas: Collection[str]) -> dict[str, Any]:
    return _by_name(value, replicas, lambda report: fields(report, REPORT, ("state", "since")))


def _restarts(value: Any, replicas: Collection[str]) -> list[dict[str, Any]]:
    if type(value) is not list or len(value) > MOST_RESTARTS:
        raise ValueError(f"{shown(value)} is not a list of restarts")
    needed = ("replica", "message", "generation", "time")
    return [_of_a_replica(restart, _RESTART, needed, replicas) for restart in value]


# ---- a list of files, parsed piece by piece -----------------------------------------------------


def listing(pieces: Iterable[bytes]) -> Iterator[tuple[str, Any]]:
    """(list's name, entry) for all lists of a manifest. Holds one entry at a time in memory."""
    source = _Text(pieces)
    source.take("{")
    missing = set(LISTS)
    while not source.took("}"):
        if len(missing) < len(LISTS):
            source.take(",")
        name = source.value()
        source.take(":")
        if name not in missing:
            raise ValueError(f"there is no list {shown(name)} to come")
        missing.remove(name)
        source.take("[")
        has_more = not source.took("]")
        while has_more:
            yield name, source.value()
            has_more = not source.took("]")
            if has_more:
                source.take(",")
    if missing or source.next():
        raise ValueError("some of its lists are missing, or more came")


class _Text:
    """JSON text, with only a small part of it in memory at a time."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.pieces, self.decoder = iter(pieces), codecs.getincrementaldecoder("utf-8")()
        self.text, self.at, self.is_over = "", 0, False

    def more(self) -> None:
        piece = next(self.pieces, b"")
        self.is_over = not piece
        self.text = self.text[self.at :] + self.decoder.decode(piece, self.is_over)
        self.at = 0

    def next(self) -> str:
        """The next character that is not white space; "" at the end."""
        while True:
            self.at = _SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]  # it matches "" as well
            if self.at < len(self.text) or self.is_over:
                return self.text[self.at : self.at + 1]
            self.more()

    def took(self, character: str) -> bool:
        has_come = self.next() == character
        self.at += has_come
        return has_come

    def take(self, character: str) -> None:
        if not self.took(character):
            raise ValueError(f"{shown(self.next())} came where {character} is to be")

    def value(self) -> Any:
        """The next value, whole."""
        self.next()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
                is_whole = self.is_over or self.text[end : end + 1] in _BEHIND  # else a number may continue
            except (ValueError, RecursionError):
                value, end, is_whole = None, len(self.text), False
            if end - self.at > LONGEST_ENTRY or (self.is_over and not is_whole):
                raise ValueError("one of its entries is too long, or no JSON")
            if is_whole:
                self.at = end
                return value
            self.more()
