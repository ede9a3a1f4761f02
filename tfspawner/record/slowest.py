"""Which replica came last, and which took longest for its epochs, as far as a run's record has measured it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

TRAINERS = ("chief", "worker")
LATE_S = 1.0  # events are half a second apart
SLOWER = 1.05  # times longer than the fastest
BLURRED = 0.25  # of a time: if it is no better known, nothing is said of it
UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
WAITS = {
    "pending": "waiting for a node",
    "starting": "for its container to start",
    "getting the code": "getting the code",
}
_TOOK = re.compile(r"(?<![\w.])([0-9]{1,12})(us|ms|s)(/epoch|/step)?(?![\w/])")


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds, and by how much they may be more or less: Keras prints whole seconds, or milliseconds of a step."""

    seconds: float
    within: float


@dataclass(slots=True, kw_only=True)
class Start:
    """When a replica was there with its code, and how long it was in which state before."""

    at: float = 0.0
    spent: dict[str, float] = field(default_factory=dict)


def took(line: str, steps: int) -> Took | None:
    """How long an epoch took, from its last line of Keras's: by what is told most exactly there."""
    told = [
        Took(int(number) * UNITS[unit] * times, UNITS[unit] * times / 2)
        for number, unit, per in _TOOK.findall(line)
        for times in [steps if per == "/step" else 1]
    ]
    return min(told, key=lambda found: found.within, default=None)


def pace(epochs: Mapping[int, Took]) -> Took | None:
    """The mean of the epochs but the first, which builds the graph; None where they are hardly known."""
    later = [found for epoch, found in epochs.items() if epoch > min(epochs)]
    if not later:
        return None
    mean = Took(fmean(found.seconds for found in later), fmean(found.within for found in later))
    return mean if mean.within <= BLURRED * mean.seconds else None


def starts(events: Iterable[Mapping[str, Any]]) -> dict[str, Start]:
    """Of each replica, how it came to be there when all began to run; empty where they never did."""
    state: dict[str, tuple[str, float]] = {}
    found: dict[str, Start] = {}
    for event in events:
        if event["event"] in ("launched", "given back"):
            state, found = {}, {}
        elif event["event"] == "phase" and event["phase"] == "running":
            for replica, (name, since) in state.items():
                _spend(found, replica, name, since, event["time"])
            return {replica: start for replica, start in found.items() if start.at}
        elif event["event"] in ("pod", "replica"):
            replica = event["replica"]
            name, since = state.get(replica, ("", event["time"]))
            _spend(found, replica, name, since, event["time"])
            state[replica] = (event["state"], event["time"])
    return {}


def _spend(found: dict[str, Start], replica: str, name: str, since: float, until: float) -> None:
    """Adds a stretch in a state in which the replica was not there yet; behind it, it may be."""
    start = found.setdefault(replica, Start(at=since))
    if name in WAITS:
        start.spent[name] = start.spent.get(name, 0.0) + until - since
        start.at = until


def slowest_to_start(events: Iterable[Mapping[str, Any]]) -> str:
    """Who came last, by how much, and what it was doing; or that all came together."""
    found = starts(events)
    if len(found) < 2:
        return ""
    first, *_, last = sorted(found, key=lambda replica: found[replica].at)
    late_s = found[last].at - found[first].at
    if late_s < LATE_S:
        return f"To start: all {len(found)} were there within {LATE_S:g} s."
    spent = sorted(found[last].spent.items(), key=lambda item: -item[1])
    words = ", ".join(f"{seconds:.1f} s {WAITS[name]}" for name, seconds in spent if seconds >= LATE_S / 2)
    return f"To start: {last} came last, {late_s:.1f} s after the first{f' ({words})' if words else ''}."


def trained(events: Iterable[Mapping[str, Any]]) -> dict[str, Took]:
    """How long each replica that succeeded was running, since the last restart."""
    began: dict[str, float] = {}
    found: dict[str, Took] = {}
    for event in events:
        if event["event"] == "restart":
            began, found = {}, {}
        elif event["event"] == "replica" and event["state"] == "running":
            began[event["replica"]] = event["time"]
        elif event["event"] == "replica" and event["state"] == "succeeded" and event["replica"] in began:
            found[event["replica"]] = Took(event["time"] - began[event["replica"]], LATE_S / 2)
    return {replica: told for replica, told in found.items() if told.within <= BLURRED * told.seconds}


def slowest_in_training(paces: Mapping[str, Took], wholes: Mapping[str, Took]) -> str:
    """Which trainer took longest for an epoch, or, where Keras tells none, in all: if by more than their times are blurred."""
    by_epochs, in_all = (
        {r: told for r, told in of.items() if r.rsplit("-", 1)[0] in TRAINERS} for of in (paces, wholes)
    )
    trainers, span = (by_epochs, "for an epoch") if len(by_epochs) > 1 else (in_all, "in all")
    if len(trainers) < 2:
        return ""
    fast, *_, slow = sorted(trainers, key=lambda replica: trainers[replica].seconds)
    least, most = trainers[fast], trainers[slow]
    if most.seconds < SLOWER * least.seconds or most.seconds - least.seconds <= least.within + most.within:
        mean = fmean(told.seconds for told in trainers.values())
        why = "; under a strategy that mirrors the model each waits for the slowest" if by_epochs is trainers else ""
        return f"In training: all {len(trainers)} took the same {span}, {seconds_words(mean)}{why}."
    more = 100 * (most.seconds / least.seconds - 1)
    return (
        f"In training: {slow} took {seconds_words(most.seconds)} {span}, {more:.0f} % longer than the fastest, "
        f"{fast} ({seconds_words(least.seconds)})."
    )


def seconds_words(seconds: float) -> str:
    """Three digits of a time."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def used(events: Iterable[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """Of each replica that was measured: mean processors, and the most memory in bytes."""
    found: dict[str, list[tuple[float, float]]] = {}
    for event in events:
        if event["event"] == "usage":
            found.setdefault(event["replica"], []).append((event["cpu"], event["memory"]))
    return {replica: (fmean(cpu for cpu, _ in all_), max(size for _, size in all_)) for replica, all_ in found.items()}
