"""Reads a run's record and checks every value, whoever wrote it. Refuses links that lead out of the folder."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, BinaryIO, Literal, Union, get_args, get_origin, get_type_hints

from tfspawner.base.names import MOST_ENTRIES, is_safe, shown
from tfspawner.base.shapes import (
    Shape,
    Wrong,
    damaged,
    is_not,
    json_of,
    listed,
    mapped,
    measure,
    number,
    opened,
    optional,
    read,
    read_bytes,
    reason,
    record,
    switch,
    text,
    whole,
)
from tfspawner.errors import Command, ConfigurationError, Hint
from tfspawner.plan.checks import is_name
from tfspawner.plan.spec import JobSpec

from .folder import SPEC_FILE, RunFolder

SPEC_BYTES, REPORT_BYTES, SWEEP_BYTES, BASES_BYTES = 16 << 20, 256 << 20, 64 << 20, 16 << 20
EVENT_BYTES, EVENTS_BYTES, MOST_EVENTS = 1 << 18, 1 << 30, 500_000  # in a line; in the whole file; events kept
MOST_REPLICAS, MOST_POINTS, MOST_RESTARTS, MOST_ARGS = 100_000, 10_000, 100_000, 100_000
LATEST = 1e11  # seconds since 1970: the year 5138
_REPLICA = re.compile(r"(chief|worker|ps|evaluator)-(0|[1-9]\d{0,5})")

Note = Callable[[str], None]
Event = dict[str, Any]  # time, event (its kind), and the fields that EVENTS lists for that kind


def is_replica(name: str) -> bool:
    """Whether a replica can have this name, for example worker-0."""
    return bool(_REPLICA.fullmatch(name))


def job(value: Any) -> str:
    """The shape of a job's name."""
    if not is_name(value):
        raise is_not(value, "a job's name")
    return str(value)


def file_path(value: Any) -> str:
    """The shape of a path below a replica's folder."""
    if not is_safe(value):
        raise is_not(value, "a path below the replica's folder")
    return str(value)


REPLICA = text(pattern=_REPLICA.pattern, must="a replica's name")
WORD = text(pattern=r"[a-z][a-z -]{0,39}", must="a word")
LINE = text(4096, lines=False, must="a text")
VARIABLE = text(256, pattern=r"[A-Za-z_][A-Za-z0-9_.-]*", must="a variable's name")
TIME, SECONDS = number(0, LATEST), number(0, LATEST)
SHA256 = text(pattern="[0-9a-f]{64}", must="a SHA-256")
ID = text(pattern="[A-Za-z0-9_-]{0,64}", must="a job's id")
FILE = record({"path": file_path, "size": whole(0, 1 << 62), "sha256": SHA256})

REPORT = record(
    {
        "job": job,
        "result": WORD,
        "seconds": SECONDS,
        "replicas": listed(
            record(
                {"replica": REPLICA, "state": WORD},
                {"node": LINE, "message": text(), "exit_code": optional(whole(-(1 << 31), 1 << 32))},
            ),
            MOST_REPLICAS,
        ),
    },
    {
        "cause": optional(
            record(
                {},
                {
                    "replica": optional(REPLICA),
                    "message": optional(text()),
                    "hint": optional(text()),
                    "tail": optional(listed(text(), 1000)),
                },
            )
        ),
        "restarts": listed(
            record(
                {},
                {
                    "generation": whole(0, MOST_RESTARTS),
                    "time": TIME,
                    "replica": optional(REPLICA),
                    "message": optional(text()),
                },
            ),
            MOST_RESTARTS,
        ),
        "files": mapped(REPLICA, listed(FILE, MOST_ENTRIES), MOST_REPLICAS),
        "artifacts": optional(LINE),
        "missing": optional(text()),
        "whole": listed(REPLICA, MOST_REPLICAS),
    },
)

EVENTS: dict[str, Shape] = {
    "phase": record({"phase": WORD}),
    "replica": record({"replica": REPLICA, "state": WORD}),
    "pod": record({"replica": REPLICA, "state": WORD}),
    "usage": record(
        {"replica": REPLICA, "cpu": number(0), "memory": number(0, 1 << 62)},
        {"gpus": listed(number(0), 1000), "gpu_memory": number(0, 1 << 62)},
    ),
}
_HEAD = record({"time": TIME, "event": WORD})


# ---- spec.json: the fields of JobSpec, by their own types ---------------------------------------


def path(value: Any) -> str:
    """The shape of a path in a record: a line of text that is not empty."""
    checked: str = LINE(value)
    if not checked:
        raise is_not(value, "a path")
    return checked


def _shape_of(name: str, kind: Any) -> Shape:
    if get_origin(kind) in (UnionType, Union):
        (inner,) = (member for member in get_args(kind) if member is not type(None))
        return optional(_shape_of(name, inner))
    if get_origin(kind) is Literal:
        return text(pattern="|".join(get_args(kind)), must=f"of {', '.join(get_args(kind))}")
    if name in ("workers", "ps"):
        return whole(0, MOST_REPLICAS)
    if get_origin(kind) is tuple:
        return listed(text() if name == "args" else LINE, MOST_ARGS)
    shapes: dict[Any, Shape] = {
        Path: path,
        str: LINE,
        bool: switch,
        int: whole(-(1 << 31), 1 << 31),
        float: number(-1e12, 1e12),
    }
    return shapes.get(kind) or mapped(LINE, text(), 1000)


@cache
def spec_shape() -> Shape:
    """The shape of what `described` in job.py writes; a field without a value is absent."""
    shapes = {name: _shape_of(name, kind) for name, kind in get_type_hints(JobSpec).items()}
    shapes["env"] = listed(VARIABLE, 10_000)  # the names
    return record({"script": shapes.pop("script")}, {**shapes, "job": job, "code_sha256": SHA256})


def _always_there() -> list[str]:
    """The fields that have a value in every job, if only a default."""
    empty: tuple[Any, ...] = (None, (), {}, MISSING)
    return ["env", *(f.name for f in fields(JobSpec) if f.default not in empty and f.name != "restart_on")]


def read_whole(folder: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """A run's or sweep's spec, and the sweep's record. Raises ConfigurationError if a field is missing or unknown."""
    swept = read_sweep(folder)
    spec = swept["spec"] if swept else read_spec(folder)
    if not spec:
        raise ConfigurationError(
            f"{folder} has no {SPEC_FILE}: it was fetched, and launched elsewhere",
            hint="say all anew: tf-spawner run",
        )
    place = RunFolder(folder).sweep if swept else RunFolder(folder).spec
    keys = read(place, lambda value: list(value["spec"] if swept else value), SWEEP_BYTES, "")
    hint = "it is damaged, or of another version: say all anew, by tf-spawner run"
    lacking = [name for name in _always_there() if name not in spec]
    if lacking:
        raise damaged(place, f" does not say: {', '.join(lacking)}", hint)
    unknown = [key for key in keys if key not in spec]
    if unknown:
        raise damaged(place, f" has what no job has: {shown(unknown[0][:64])}", hint)
    whole_spec = {"restart_on": [], **spec}
    return whole_spec, swept and {**swept, "spec": whole_spec}


def _hint(folder: Path) -> Hint:
    name = folder.name if is_name(folder.name) else "JOB"
    fetch = Command("fetch", name)
    return Hint("if the job is still there: ", fetch, "; else leave this run out, or remove that file")


# ---- reading ------------------------------------------------------------------------------------


def read_report(folder: Path) -> dict[str, Any] | None:
    """report.json; None if there is none."""
    report: dict[str, Any] | None = read(RunFolder(folder).report, REPORT, REPORT_BYTES, _hint(folder))
    return report


def read_spec(folder: Path) -> dict[str, Any]:
    """spec.json; empty if there is none, as after a fetch on another machine."""
    spec: dict[str, Any] | None = read(RunFolder(folder).spec, spec_shape(), SPEC_BYTES, _hint(folder))
    return spec or {}


def _point(value: Any) -> dict[str, Any]:
    point: dict[str, Any] = _POINT(value)
    if not re.fullmatch(r".+-[1-9]\d{0,8}", point["job"]):
        raise is_not(point["job"], "a sweep's name and a number").at("job")
    return point


FLAG = text(200, pattern=r"[A-Za-z_][A-Za-z0-9_.-]*", must="a flag's name")
VALUE = text(lines=False, pattern=".+", must="a value")
_POINT = record(
    {
        "job": job,
        "values": mapped(FLAG, VALUE, 100),
        "id": ID,
        "result": WORD,
        "error": text(),
        "seconds": SECONDS,
        "metrics": mapped(LINE, measure, 10_000),
    }
)


def _sweep(value: Any) -> dict[str, Any]:
    sweep: dict[str, Any] = record(
        {
            "sweep": job,
            "id": ID,
            "grid": mapped(FLAG, listed(VALUE, MOST_POINTS), 100),
            "parallel": whole(1, 100),
            "spec": spec_shape(),
            "files": mapped(text(4096), SHA256, MOST_ENTRIES),
            "points": listed(_point, MOST_POINTS),
        }
    )(value)
    for at, point in enumerate(sweep["points"]):
        if point["job"].rpartition("-")[0] != sweep["sweep"]:
            raise is_not(point["job"], f"a job of sweep {sweep['sweep']}").at("job").at(at).at("points")
    for job_name, count in Counter(point["job"] for point in sweep["points"]).items():
        if count > 1:
            raise Wrong(f"has {shown(job_name)} twice").at("points")
    for name, values in sweep["grid"].items():
        if not values:
            raise Wrong("has no values").at(name).at("grid")
    return sweep


def read_sweep(folder: Path) -> dict[str, Any] | None:
    """sweep.json; None if there is none."""
    hint = "sweeps go on from it: give another --name, or move the folder away to begin anew"
    sweep: dict[str, Any] | None = read(RunFolder(folder).sweep, _sweep, SWEEP_BYTES, hint)
    return sweep


def read_bases(folder: Path) -> dict[str, list[int]]:
    """{replica: [offset of its last pod's first byte, that byte's place in the log file]}."""
    offset = whole(0, (1 << 64) - 1)
    shape = mapped(REPLICA, several(offset, 2), MOST_REPLICAS)
    hint = "give another --out, or move the run's folder away"
    bases: dict[str, list[int]] | None = read(run_with_logs(folder, hint).bases, shape, BASES_BYTES, hint)
    return bases or {}


def several(of: Shape, count: int) -> Shape:
    """A list of exactly `count` entries."""

    def shape(value: Any) -> list[Any]:
        items: list[Any] = listed(of, count)(value)
        if len(items) != count:
            raise is_not(value, f"a list of {count}")
        return items

    return shape


def read_id(folder: Path) -> str | None:
    """The id of the job whose record this is; None if it has none."""
    data = read_bytes(RunFolder(folder).id, 64, "give another --out, or move the run's folder away")
    return None if data is None else data.decode(errors="replace")


def read_events(folder: Path, note: Note = lambda text: None) -> list[Event]:
    """The events of events.jsonl; times never run backwards. Damaged lines are left out, with one warning for all.

    There is no warning for a last line that is cut off: a launcher that was killed leaves that.
    """
    place = RunFolder(folder).events
    events: list[Event] = []
    wrong: list[str] = []
    last = 0.0
    try:
        file = opened(place)
        if file is None:
            return []
        with file:
            for count, line in enumerate(_lines(file), 1):
                try:
                    event = _event(line)
                except Wrong as error:
                    if line.endswith(b"\n"):
                        wrong.append(f"line {count}: {error}") if not wrong else wrong.append("")
                    continue
                last = event["time"] = max(last, event["time"])
                events.append(event)
                if len(events) >= MOST_EVENTS:
                    note(f"warning: {place}: it has more than {MOST_EVENTS:,} events: the first ones are shown")
                    break
    except OSError as error:
        raise damaged(place, f" cannot be read: {reason(error)}", _hint(folder)) from None
    if wrong:
        rest = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        note(f"warning: {place}, {wrong[0]}{rest}: left out")
    return events


def _event(line: bytes) -> Event:
    if len(line) > EVENT_BYTES:
        raise Wrong(f"is longer than {EVENT_BYTES:,} bytes")
    try:
        value = json_of(line)
    except Wrong as error:
        raise Wrong(error.what.replace("line 1, ", "").replace("line 1: ", "")) from None
    head: Event = _HEAD(value)
    return {**head, **EVENTS[head["event"]](value)} if head["event"] in EVENTS else head


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines; one that is too long is cut, and still too long for _event()."""
    remaining = EVENTS_BYTES
    while remaining > 0 and (line := file.readline(EVENT_BYTES + 1)):
        rest = line
        while len(rest) > EVENT_BYTES and not rest.endswith(b"\n"):
            remaining -= len(rest)
            rest = file.readline(EVENT_BYTES + 1)
        remaining -= len(rest)
        yield line if rest is line else line + b"\n"


# ---- logs ---------------------------------------------------------------------------------------


def run_with_logs(folder: Path, hint: str = "") -> RunFolder:
    """The run in a folder, whose logs may not exist yet. Raises ConfigurationError for a link out of the run."""
    run = RunFolder(folder)
    if run.logs.is_symlink() or (run.logs.exists() and not run.logs.is_dir()):
        raise damaged(run.logs, " is not a folder of the run", hint or "a run has its own logs: leave it out")
    return run


def log_file(folder: Path, replica: str) -> Path | None:
    """A replica's log; None if the run has none, or a link in its place."""
    path = run_with_logs(folder).log(replica)
    return path if is_replica(replica) and path.is_file() and not path.is_symlink() else None


def log_files(folder: Path) -> dict[str, Path]:
    """{replica: its log}, sorted by role and then by number."""

    def order(replica: str) -> tuple[str, int]:
        role, _, index = replica.rpartition("-")
        return role, int(index)

    names = sorted((path.stem for path in run_with_logs(folder).logs.glob("*.log") if is_replica(path.stem)), key=order)
    return {name: path for name in names if (path := log_file(folder, name))}
