"""Which replica was the last to start, and which was the slowest in training, by the measurements in a run's record."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from tfspawner.replica.protocol import is_trainer

LATE_S = 1.0  # less is not called late: events are half a second apart
SLOWER = 1.05  # times the fastest; less is not called slower
BLURRED = 0.25  # a time whose error is a larger share of it is not used
UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
WAITS = {
    "pending": "waiting for a node",
    "starting": "for its container to start",
    "getting the code": "getting the code",
}
_TOOK = re.compile(r"(?<![\w.])([0-9]{1,12})(us|ms|s)(/epoch|/step)?(?![\w/])")


@dataclass(frozen=True, slots=True)
class Took:
    """A duration, and its error in seconds: Keras prints whole seconds, or whole milliseconds for a step."""

    seconds: float
    within: float


@dataclass(slots=True, kw_only=True)
class Start:
    """When a replica was ready with its code, and how long it had been in each state before."""

    at: float = 0.0
    spent: dict[str, float] = field(default_factory=dict)


def took(line: str, steps: int) -> Took | None:
    """How long an epoch took, by the most exact time in the last line that Keras printed for it."""
    readings = [
        Took(int(number) * UNITS[unit] * times, UNITS[unit] * times / 2)
        for number, unit, per in _TOOK.findall(line)
        for times in [steps if per == "/step" else 1]
    ]
    return min(readings, key=lambda reading: reading.within, default=None)


def pace(epochs: Mapping[int, Took]) -> Took | None:
    """The mean of all epochs but the first, which builds the graph; None if it is too inexact."""
    later = [duration for epoch, duration in epochs.items() if epoch > min(epochs)]
    if not later:
        return None
    mean = Took(fmean(duration.seconds for duration in later), fmean(duration.within for duration in later))
    return mean if mean.within <= BLURRED * mean.seconds else None


def starts(events: Iterable[Mapping[str, Any]]) -> dict[str, Start]:
    """How each replica started, up to when all were running; empty if that never happened."""
    state: dict[str, tuple[str, float]] = {}
    by_replica: dict[str, Start] = {}
    for event in events:
        if event["event"] in ("launched", "given back"):
            state, by_replica = {}, {}
        elif event["event"] == "phase" and event["phase"] == "running":
            for replica, (name, since) in state.items():
                _spend(by_replica, replica, name, since, event["time"])
            return {replica: start for replica, start in by_replica.items() if start.at}
        elif event["event"] in ("pod", "replica"):
            replica = event["replica"]
            name, since = state.get(replica, ("", event["time"]))
            _spend(by_replica, replica, name, since, event["time"])
            state[replica] = (event["state"], event["time"])
    return {}


def _spend(by_replica: dict[str, Start], replica: str, name: str, since: float, until: float) -> None:
    """Adds the time in one state; if the replica was not ready in it, it may be ready from then on."""
    start = by_replica.setdefault(replica, Start(at=since))
    if name in WAITS:
        start.spent[name] = start.spent.get(name, 0.0) + until - since
        start.at = until


def slowest_to_start(events: Iterable[Mapping[str, Any]]) -> str:
    """Says which replica started last, how late, and why; or that all started together."""
    began = starts(events)
    if len(began) < 2:
        return ""
    first, *_, last = sorted(began, key=lambda replica: began[replica].at)
    late_s = began[last].at - began[first].at
    if late_s < LATE_S:
        return f"To start: all {len(began)} were there within {LATE_S:g} s."
    spent = sorted(began[last].spent.items(), key=lambda item: -item[1])
    words = ", ".join(f"{seconds:.1f} s {WAITS[name]}" for name, seconds in spent if seconds >= LATE_S / 2)
    return f"To start: {last} came last, {late_s:.1f} s after the first{f' ({words})' if words else ''}."


def trained(events: Iterable[Mapping[str, Any]]) -> dict[str, Took]:
    """How long each replica that succeeded ran, since the last restart."""
    began: dict[str, float] = {}
    durations: dict[str, Took] = {}
    for event in events:
        if event["event"] == "restart":
            began, durations = {}, {}
        elif event["event"] == "replica" and event["state"] == "running":
            began[event["replica"]] = event["time"]
        elif event["event"] == "replica" and event["state"] == "succeeded" and event["replica"] in began:
            durations[event["replica"]] = Took(event["time"] - began[event["replica"]], LATE_S / 2)
    return {replica: span for replica, span in durations.items() if span.within <= BLURRED * span.seconds}


def slowest_in_training(paces: Mapping[str, Took], wholes: Mapping[str, Took]) -> str:
    """Says which trainer took longest for an epoch, or in all if Keras printed no epochs; or that none took longer."""
    by_epochs, in_all = ({r: duration for r, duration in of.items() if is_trainer(r)} for of in (paces, wholes))
    trainers, span = (by_epochs, "for an epoch") if len(by_epochs) > 1 else (in_all, "in all")
    if len(trainers) < 2:
        return ""
    fast, *_, slow = sorted(trainers, key=lambda replica: trainers[replica].seconds)
    least, most = trainers[fast], trainers[slow]
    if most.seconds < SLOWER * least.seconds or most.seconds - least.seconds <= least.within + most.within:
        mean = fmean(duration.seconds for duration in trainers.values())
        why = "; under a strategy that mirrors the model each waits for the slowest" if by_epochs is trainers else ""
        return f"In training: all {len(trainers)} took the same {span}, {seconds_words(mean)}{why}."
    percent = 100 * (most.seconds / least.seconds - 1)
    return (
        f"In training: {slow} took {seconds_words(most.seconds)} {span}, {percent:.0f} % longer than the fastest, "
        f"{fast} ({seconds_words(least.seconds)})."
    )


def seconds_words(seconds: float) -> str:
    """A duration with three digits."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def used(events: Iterable[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """For each measured replica: its mean use of processors, and its largest use of memory in bytes."""
    samples: dict[str, list[tuple[float, float]]] = {}
    for event in events:
        if event["event"] == "usage":
            samples.setdefault(event["replica"], []).append((event["cpu"], event["memory"]))
    return {
        replica: (fmean(cpu for cpu, _ in all_), max(size for _, size in all_)) for replica, all_ in samples.items()
    }
