"""Particles of many events as flat numpy columns, laid end to end, with the number of particles of each event."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Ragged:
    """`counts` is of shape (events,); each column is float64 of shape (counts.sum(),)."""

    counts: np.ndarray
    columns: dict[str, np.ndarray]

    def __len__(self) -> int:
        """The number of particles of all events."""
        return int(self.counts.sum())

    def __getitem__(self, column: str) -> np.ndarray:
        return self.columns[column]

    @property
    def event(self) -> np.ndarray:
        """Each particle's event, counted from 0."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @property
    def place(self) -> np.ndarray:
        """Each particle's place in its event, counted from 0."""
        return np.arange(len(self)) - np.repeat(starts(self.counts), self.counts)

    def keep(self, mask: np.ndarray) -> Ragged:
        """The particles where the mask of shape (particles,) is true; the events stay, even where none is left."""
        counts = np.bincount(self.event[mask], minlength=len(self.counts))
        return Ragged(counts, {name: values[mask] for name, values in self.columns.items()})

    def of_events(self, mask: np.ndarray) -> Ragged:
        """The events where the mask of shape (events,) is true, with all their particles."""
        particles = np.repeat(mask, self.counts)
        return Ragged(self.counts[mask], {name: values[particles] for name, values in self.columns.items()})

    def first(self, count: int) -> Ragged:
        """The first `count` particles of each event, or all where there are fewer."""
        return self.keep(self.place < count)

    def total(self, values: np.ndarray) -> np.ndarray:
        """The sum of the particles' values in each event, added in the particles' order."""
        return np.bincount(self.event, weights=values, minlength=len(self.counts))

    def renamed(self, **names: str) -> Ragged:
        """The columns `names` tells by their new names: renamed(pt="ET")."""
        return Ragged(self.counts, {new: self.columns[old] for new, old in names.items()})


def starts(counts: np.ndarray) -> np.ndarray:
    """Where each event's particles begin in the flat columns."""
    return np.cumsum(counts) - counts


def joined(parts: list[Ragged]) -> tuple[np.ndarray, list[np.ndarray]]:
    """How collections come together event by event, the first one's particles first.

    Returns each event's number of particles, and for each collection the places its particles get in the whole.
    """
    counts = np.sum([part.counts for part in parts], axis=0)
    begin = starts(counts)
    places = []
    for part in parts:
        places.append(np.repeat(begin, part.counts) + part.place)
        begin = begin + part.counts
    return counts, places
