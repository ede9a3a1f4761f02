"""The messages between agents, and to the launcher: each field with its check."""

from __future__ import annotations

import itertools
import re
import time
from typing import Any

from .checks import (
    Check,
    fields,
    flag,
    lines,
    metric,
    network_address,
    number,
    one_of,
    or_none,
    relative_name,
    shown,
    text,
    whole_number,
)
from .protocol import FINISHED, KINDS, PHASES, RESULTS, STATES

MOST_METRICS = 100

MOST_GPUS = 256

LONGEST_REPORT, MARKS_OF_REPORT = 1 << 20, 20_000  # bytes and marks of JSON (see read_json) that one replica may send

MARKS_OF_ANSWER = 2_000_000  # that an agent reads of another: all checkpoint files, all addresses

LONGEST_WANTED, MARKS_OF_WANTED = 64 << 20, 500_000  # the same of a request for files

CLOCKS_DIFFER_S = 366 * 86400.0  # a year: how far machines' clocks may be apart


def metrics_of(value: Any) -> dict[str, float]:
    """Metrics by name; only the first ones are taken. Raises ValueError, as all of these do."""
    if type(value) is not dict:
        raise ValueError(f"{shown(value)} is not an object")
    return {text(name, 100): metric(measured) for name, measured in itertools.islice(value.items(), MOST_METRICS)}


def progress_of(value: Any) -> dict[str, Any]:
    """Keras's progress as Log keeps it; an epoch or step must come with the total."""
    progress = fields(value, PROGRESS)
    for parts in (("epoch", "epochs"), ("step", "steps"), ("epoch_s", "epoch_since")):
        if parts[0] in progress and parts[1] not in progress:
            raise ValueError(f"it has no {parts[1]}")
    return progress


def gpus_of(value: Any) -> list[dict[str, Any]]:
    """A replica's report of its GPUs."""
    if type(value) is not list or len(value) > MOST_GPUS:
        raise ValueError(f"{shown(value)} is not a list of GPUs")
    return [fields(gpu, GPU, ("use", "memory")) for gpu in value]


def usage_of(value: Any) -> dict[str, Any]:
    """A replica's report of its use of CPU, memory and GPUs."""
    return fields(value, USAGE, ("cpu", "memory", "gpus") if value else ())


PROGRESS: dict[str, Check] = {
    "epoch": whole_number,
    "epochs": whole_number,
    "epoch_since": number,
    "epoch_s": number,
    "step": whole_number,
    "steps": or_none(whole_number),
    "metrics": metrics_of,
    "rate": number,
}

GPU: dict[str, Check] = {
    "name": text,
    "use": or_none(number),
    "memory": or_none(whole_number),
    "memory_total": or_none(whole_number),
    "error": text,
}

USAGE: dict[str, Check] = {"cpu": number, "memory": whole_number, "gpus": gpus_of, "gpus_missing": text}

UNKEPT: dict[str, Check] = {"bytes": whole_number, "why": text}

STORED: dict[str, Check] = {"uri": text, "files": whole_number, "size": whole_number, "failure": or_none(text)}

REPORT: dict[str, Check] = {
    "replica": text,
    "state": one_of(*STATES),
    "message": text,
    "since": number,
    "life": text,
    "address": network_address,
    "agent": network_address,
    "generation": whole_number,
    "met": lambda value: value if value == -1 and type(value) is int else whole_number(value),
    "checkpoint": whole_number,
    "progress": progress_of,
    "usage": usage_of,
    "log_size": whole_number,
    "silent_s": number,
    "started": number,
    "finished": number,
    "pid": whole_number,
    "exit_code": or_none(whole_number),
    "kind": one_of(*KINDS),
    "hint": or_none(text),
    "tail": lines,
    "stands": lines,
    "peer_lost": flag,
    "blames": text,
    "storing": text,
    "unkept": lambda value: fields(value, UNKEPT, tuple(UNKEPT)),
    "stored": or_none(lambda value: fields(value, STORED, ("uri", "files", "size", "failure"))),
    "revision": whole_number,
}


def report_of(value: Any, replicas: Any, most_restarts: int) -> dict[str, Any]:
    """A replica's report, its known fields within bounds. Raises ValueError if it is invalid."""
    needed = ("replica", "state", "since", "message", "address", "agent", "life", "generation", "met")
    report = fields(value, REPORT, needed)
    if report["replica"] not in replicas:
        raise ValueError(f"there is no replica {shown(report['replica'])}")
    if max(report["generation"], report["met"]) > most_restarts:
        raise ValueError(f"there are {most_restarts} restarts at most")
    if report["state"] in FINISHED and "finished" not in report:
        raise ValueError("it has ended, and does not say when")
    if report.get("blames") not in replicas:  # a script's log may name any
        report.pop("blames", None)
    return report


ORDER: dict[str, Check] = {
    "version": whole_number,
    "generation": whole_number,
    "phase": one_of(*PHASES),
    "result": one_of(*RESULTS),
    "released": flag,
    "kept": flag,
    "stalled": flag,
}


def order_of(value: Any) -> dict[str, Any]:
    """The order in a coordinator's answer."""
    return fields(value, ORDER, tuple(ORDER))


FILE: dict[str, Check] = {
    "path": relative_name,
    "size": whole_number,
    "sha256": text,
    "mtime_ns": whole_number,
}

FILE_HEAD: dict[str, Check] = {"path": text, "size": whole_number, "missing": flag, "end": flag}


def checkpoint_of(value: Any) -> list[dict[str, Any]]:
    """The files that another agent's /checkpoints lists."""
    files = value.get("files") if type(value) is dict else None
    if type(files) is not list:
        raise ValueError(f"{shown(value)} is not a list of files")
    return [fields(file, FILE, tuple(FILE)) for file in files]


def log_place(header: str | None) -> int:
    """A place in a log, from a header; with a base it has 19 digits. Raises ValueError if it is invalid."""
    if not re.fullmatch("[0-9]{1,19}", header or ""):
        raise ValueError(f"{shown(header)} is no place in a log")
    return whole_number(int(str(header)))


def next_offset(header: str | None, offset: int) -> int:
    """Where a log's answer begins: at the requested offset, or at the base of a process that replaced the other.

    Raises ValueError for another place. A base is 2^32 times the time at which that process began.
    """
    begins = log_place(header)
    is_base = begins > offset and not begins & 0xFFFFFFFF and begins >> 32 <= time.time() + CLOCKS_DIFFER_S
    if begins != offset and not is_base:
        raise ValueError(f"its log at {begins} came, and at {offset} was asked for")
    return begins
