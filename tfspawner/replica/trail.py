"""Which trainers are behind the others."""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import Any


class Trail:
    """When each trainer was where: one that comes to a place much later than half of them is behind.

    Where one of them tells of whole epochs alone, all are compared by their epochs.
    """

    def __init__(self) -> None:
        self.places: dict[str, tuple[int, float]] = {}  # epoch and step, the furthest: an evaluation counts anew
        self.told_at: dict[str, float] = {}
        self.tells_steps: set[str] = set()
        self.passed: list[tuple[int, float]] = []  # places where half of the trainers were,
        self.passed_at: list[float] = []  # and since when

    def take(self, replica: str, progress: dict[str, Any], now: float) -> None:
        """Takes in how far a replica has got."""
        if not progress:
            return
        place = progress.get("epoch", 0), progress.get("step", 0)
        if "step" in progress and progress["step"] != progress.get("steps"):
            self.tells_steps.add(replica)
        self.places[replica], self.told_at[replica] = max(place, self.places.get(replica, place)), now
        middle = sorted(self.places.values())[len(self.places) // 2]
        if not self.passed or middle > self.passed[-1]:
            self.passed.append(middle)
            self.passed_at.append(now)
        if len(self.passed) > 1000:
            del self.passed[:-500:2], self.passed_at[:-500:2]

    def late(self) -> dict[str, float]:
        """How long half of the trainers had been further when each last reported its place, in s; 0: they were not."""
        by_epochs = self.tells_steps != set(self.places)
        delays = {}
        for replica, (epoch, step) in self.places.items():
            index = bisect_right(self.passed, (epoch, math.inf if by_epochs else step))
            delays[replica] = self.told_at[replica] - self.passed_at[index] if index < len(self.passed) else 0.0
        return delays
