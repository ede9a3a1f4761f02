"""From selected events to the models' inputs: chance that hangs on the event alone, scaling, sorting, standardising."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from physics import CLASSES, ETA, HIGH_LEVEL, PHI, ROWS, WIDTH, delta_r

TRAIN_SHARE = 0.8
PURPOSES = {"undersample": 1, "split": 2, "shuffle": 3}


def chance(features: np.ndarray, seed: int, purpose: str) -> np.ndarray:
    """(events,): 63 random bits of each event (events, 14), the same in whatever file, order or process it comes.

    splitmix64 (Steele, Lea and Flood 2014) over the bits of the features.
    """
    state = np.full(len(features), (seed << 8 | PURPOSES[purpose]) & (1 << 64) - 1, np.uint64)
    for bits in np.ascontiguousarray(features, np.float64).view(np.uint64).T:
        state = _mixed(state ^ bits)
    return (state >> np.uint64(1)).astype(np.int64)


def _mixed(state: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        state = state + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def below(bits: np.ndarray, share: np.ndarray | float) -> np.ndarray:
    """True for that share of the events, by chance."""
    return bits / 2.0**63 < share


def part_of(bits: np.ndarray, parts: int) -> np.ndarray:
    """Which of so many parts each event falls into; parts are in the order of the bits."""
    return ((bits >> 32) * parts) >> 31


@dataclass(frozen=True, slots=True)
class Ranges:
    """The least and the greatest value of each high-level feature."""

    low: np.ndarray
    high: np.ndarray

    @classmethod
    def none(cls) -> Ranges:
        return cls(np.full(len(HIGH_LEVEL), np.inf), np.full(len(HIGH_LEVEL), -np.inf))

    def widened(self, low: np.ndarray, high: np.ndarray) -> Ranges:
        return Ranges(np.minimum(self.low, low), np.maximum(self.high, high))

    def scaled(self, features: np.ndarray) -> np.ndarray:
        """From 0 to 1; 0.5 where all values are one, as Spark's MinMaxScaler does it."""
        span = self.high - self.low
        ratio = (features - self.low) / np.where(span > 0, span, 1)
        return np.where(span > 0, ratio, 0.5)

    def unscaled(self, scaled: np.ndarray) -> np.ndarray:
        return self.low + scaled * (self.high - self.low)


def by_distance(events: np.ndarray) -> np.ndarray:
    """The rows of (events, 801, 19) by their ΔR from the first row, the lepton: the farthest first, the lepton last.

    Rows of padding have η = φ = 0, so they come between the particles; rows of equal ΔR stay in their order.
    """
    lepton = events[:, :1]
    distance = delta_r(events[..., ETA], events[..., PHI], lepton[..., ETA], lepton[..., PHI])
    order = np.argsort(-distance, axis=1, kind="stable")
    return np.take_along_axis(events, order[..., None], axis=1)


def standardised(events: np.ndarray) -> np.ndarray:
    """Each column of each event (events, 801, 19) less its mean, over its standard deviation, padding included.

    A column of one value is only moved to 0, as scikit-learn's StandardScaler does it.
    """
    mean = events.mean(axis=1, keepdims=True)
    moved = events - mean
    variance = (moved**2).mean(axis=1, keepdims=True) - moved.mean(axis=1, keepdims=True) ** 2
    epsilon = np.finfo(np.float64).eps
    constant = variance <= ROWS * epsilon * variance + (ROWS * mean * epsilon) ** 2
    return moved / np.sqrt(np.where(constant, 1, variance))


def one_hot(labels: np.ndarray) -> np.ndarray:
    return np.eye(len(CLASSES))[labels]


def model_inputs(padded: np.ndarray) -> np.ndarray:
    """(events, 15219): the rows of (events, 801, 19) sorted, standardised, and laid end to end."""
    return standardised(by_distance(padded)).reshape(-1, ROWS * WIDTH)
