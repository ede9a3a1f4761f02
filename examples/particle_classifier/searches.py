"""Which points of the parameter space are tried, and in which order: all, some by chance, or as Optuna advises."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from typing import Any, Protocol

from fits import Fit
from points import PARAMETERS, Line, Point, point_of

SPACE = {  # 3 ** 5 = 243 points, those of SparkDLTrigger's notebooks
    "batch": (64, 100, 200),
    "epochs": (10, 30, 50),
    "nh1": (50, 100, 150),
    "nh2": (20, 50, 100),
    "nh3": (10, 20, 50),
}


TRIES = 20  # an estimator that is sure of its optimum advises it again and again


class Search(Protocol):
    """Gives the next fit to do, and is told what came of each."""

    def next(self) -> Fit | None: ...

    def tell(self, fit: Fit, lines: list[Line]) -> None: ...


def all_points() -> list[Point]:
    return list(itertools.product(*(SPACE[name] for name in PARAMETERS)))


def random_points(count: int, seed: int) -> list[Point]:
    """So many different points by chance; a larger count begins with the points of a smaller one."""
    points = all_points()
    random.Random(seed).shuffle(points)
    return points[:count]


def fits_of(points: list[Point]) -> list[Fit]:
    """One fit for all points that differ in their epochs alone."""
    epochs: dict[tuple[int, ...], list[int]] = {}
    for batch, wanted, *hidden in points:
        epochs.setdefault((batch, *hidden), []).append(wanted)
    return [
        Fit(batch=batch, hidden=tuple(hidden), epochs=tuple(sorted(wanted)))
        for (batch, *hidden), wanted in epochs.items()
    ]


class Listed:
    """Points that are known beforehand; of several workers each takes every so many-th fit."""

    def __init__(self, points: list[Point], done: Mapping[Point, Line], worker: int = 0, workers: int = 1) -> None:
        share = fits_of(points)[worker::workers]
        self.left = [fit for fit in (_undone(fit, done) for fit in share) if fit.epochs]
        self.total = len(self.left)

    def next(self) -> Fit | None:
        return self.left.pop(0) if self.left else None

    def tell(self, fit: Fit, lines: list[Line]) -> None:
        """Nothing follows from results here."""


def _undone(fit: Fit, done: Mapping[Point, Line]) -> Fit:
    left = tuple(epochs for epochs in fit.epochs if (fit.batch, epochs, *fit.hidden) not in done)
    return Fit(batch=fit.batch, hidden=fit.hidden, epochs=left)


class Guided:
    """Optuna's tree-structured Parzen estimator; a fit to 50 epochs tells it of the points at 10 and 30 as well."""

    def __init__(self, count: int, seed: int, done: Mapping[Point, Line]) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=seed)
        self.study = optuna.create_study(direction="maximize", sampler=sampler)
        self.space = {name: optuna.distributions.CategoricalDistribution(values) for name, values in SPACE.items()}
        self.random = random.Random(seed)
        self.known: set[Point] = set()
        self.asked: dict[Point, Any] = {}
        self.total = self.left = max(0, count - len(done))
        for line in done.values():
            self._learn(line)

    def next(self) -> Fit | None:
        """The next point that is neither known nor under way."""
        import optuna

        free = [point for point in all_points() if point not in self.known and point not in self.asked]
        if not self.left or not free:
            return None
        self.left -= 1
        for _ in range(TRIES):
            trial = self.study.ask(self.space)
            if (point := _point(trial.params)) in free:
                break
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            point = self.random.choice(free)
            self.study.enqueue_trial(dict(zip(PARAMETERS, point, strict=True)))
            trial = self.study.ask(self.space)
        self.asked[point] = trial
        batch, epochs, *hidden = point
        levels = tuple(level for level in SPACE["epochs"] if level <= epochs)
        return Fit(batch=batch, hidden=tuple(hidden), epochs=levels)

    def tell(self, fit: Fit, lines: list[Line]) -> None:
        for line in lines:
            point = point_of(line)
            if point in self.asked:
                self.study.tell(self.asked.pop(point), line["accuracy"])
                self.known.add(point)
            elif point not in self.known:
                self._learn(line)

    def _learn(self, line: Line) -> None:
        import optuna

        params = {name: line[name] for name in PARAMETERS}
        trial = optuna.trial.create_trial(params=params, distributions=self.space, value=line["accuracy"])
        self.study.add_trial(trial)
        self.known.add(point_of(line))


def _point(params: Mapping[str, Any]) -> Point:
    return tuple(params[name] for name in PARAMETERS)
