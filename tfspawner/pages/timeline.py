"""Bars that show when each replica was in which state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tfspawner.base.words import age

from .charts import COLOURED, GANG

MOST_ROWS, MOST_BARS = 48, 2000  # replicas in the timeline, and bars of each


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A stretch of time in one state, in per cent of the run's length."""

    state: str
    left: float
    width: float
    tooltip: str


def length_s(events: list[dict[str, Any]]) -> float:
    """Seconds from the first event to the last."""
    return events[-1]["time"] - events[0]["time"] if events else 0.0


def timeline(events: list[dict[str, Any]]) -> list[tuple[str, list[Bar]]]:
    """[(replica, its bars)]; the first row is of the gang's phases."""
    if not length_s(events):
        return []
    rows: dict[str, list[tuple[float, str]]] = {GANG: []}
    reported = set()
    for event in events:
        if event["event"] == "phase":
            rows[GANG].append((event["time"], event["phase"]))
        elif event["event"] == "replica":
            reported.add(event["replica"])
            rows.setdefault(event["replica"], []).append((event["time"], event["state"]))
        elif event["event"] == "pod" and event["replica"] not in reported:  # else its agent knows better
            state = "starting" if event["state"] == "running" else event["state"]
            rows.setdefault(event["replica"], []).append((event["time"], state))
    shown = list(rows.items())[: MOST_ROWS + 1]
    began, ended = events[0]["time"], events[-1]["time"]
    return [(name, list(bars(changes[:MOST_BARS], began, ended))) for name, changes in shown if changes]


def bars(changes: Iterable[tuple[float, str]], began: float, ended: float) -> Iterator[Bar]:
    """The stretches between the changes of state; the last one lasts until the end."""
    whole = ended - began
    for (since, state), (until, _) in pairwise([*changes, (ended, "")]):
        yield Bar(
            state=state if state in COLOURED else "",
            left=100 * (since - began) / whole,
            width=100 * (until - since) / whole,
            tooltip=f"{state}: {age(until - since)}, from {since - began:.1f} s",
        )
