"""A sweep's state: its points, the view that shows them, and how it ended."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tfspawner.base.words import age
from tfspawner.errors import SpawnerError
from tfspawner.plan.grid import Values, shown
from tfspawner.record.folder import RunFolder

from .state import ReplicaState

ENDED = ("succeeded", "failed", "timeout", "interrupted", "incomplete")


@dataclass(slots=True, kw_only=True)
class Point:
    """A point of a sweep and how far its job is; `result` is one of ENDED once nothing more comes."""

    job: str
    values: Values
    id: str = ""  # of the job that was launched for it last
    result: str = "waiting"
    error: str = ""
    seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    since: float = 0.0
    replica: ReplicaState | None = None  # the first one, while it runs

    @property
    def title(self) -> str:
        return f"{self.job} ({shown(self.values)})"


class SweepView(Protocol):
    """Shows what happens to the points; several threads call it."""

    def begin(self, name: str, points: Sequence[Point], parallel: int) -> None:
        """Begins the sweep: all its points, and how many of them run at a time."""

    def show(self, point: Point) -> None:
        """Shows a point whose state has changed."""

    def note(self, text: str) -> None:
        """Shows a line to the user."""

    def finish(self) -> None:
        """Nothing more comes."""


class SilentSweep:
    """The view of a program that only wants the outcome."""

    def begin(self, name: str, points: Sequence[Point], parallel: int) -> None:
        pass

    def show(self, point: Point) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def finish(self) -> None:
        pass


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepOutcome:
    """How a sweep ended: each point's job, values, result, seconds, last metrics, folder and error; the best first."""

    name: str
    result: str  # succeeded, failed, interrupted
    folder: Path
    seconds: float
    points: list[dict[str, Any]]
    best: dict[str, str]  # metric -> the job that has its best last value
    error: SpawnerError | None = None

    @property
    def page(self) -> Path:
        return RunFolder(self.folder).sweep_page

    @property
    def told(self) -> str:
        """How many points ended in which way, and how long it took."""
        counts = Counter(row["result"] for row in self.points)
        return f"{', '.join(f'{count} {word}' for word, count in counts.items())} in {age(self.seconds)}"

    def as_json(self) -> dict[str, Any]:
        """The outcome as --output json prints it; metrics that are no finite numbers are null."""
        error = {"error": self.error.message, "hint": self.error.hint} if self.error else {}
        points = [
            {**row, "metrics": {name: _finite(value) for name, value in row["metrics"].items()}} for row in self.points
        ]
        return {
            "sweep": self.name,
            "result": self.result,
            "folder": str(self.folder),
            "page": str(self.page),
            "seconds": round(self.seconds, 3),
            "points": points,
            "best": self.best,
            **error,
        }


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None
