"""What a classifier of three classes is worth: AUC, ROC, confusion and background rejection, by NumPy alone.

A class is told from the rest by its own probability: labels are 0 QCD, 1 ttbar, 2 W+jets; probabilities are (events, 3).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

CLASSES = ("QCD", "tt̄", "W+jets")
EFFICIENCIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
SMALLEST = 1e-7  # a probability below it counts as it: Keras's loss does so

Bools, Floats, Ints = NDArray[np.bool_], NDArray[np.float64], NDArray[np.int64]


def midranks(values: NDArray[Any]) -> Floats:
    """Each value's rank from 1 up; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def auc(is_signal: Bools, scores: NDArray[Any]) -> tuple[float, float]:
    """The area under the ROC curve by the rank statistic, ties counted half, and its standard error (DeLong)."""
    signal, background = int(is_signal.sum()), int((~is_signal).sum())
    ranks = midranks(scores)
    below_signal = (ranks[is_signal] - midranks(scores[is_signal])) / background
    below_background = (ranks[~is_signal] - midranks(scores[~is_signal])) / signal
    variance = below_signal.var() / signal + below_background.var() / background
    return float(below_signal.mean()), float(np.sqrt(variance))


def roc(is_signal: Bools, scores: NDArray[Any]) -> tuple[Floats, Floats]:
    """(false, true) positive rates from (0, 0) to (1, 1), a point for each distinct score."""
    order = np.argsort(-scores, kind="stable")
    hits = is_signal[order]
    last_of_ties = np.flatnonzero(np.diff(scores[order], append=np.nan) != 0)
    true = np.cumsum(hits)[last_of_ties]
    false = last_of_ties + 1 - true
    return _from_zero(false, (~is_signal).sum()), _from_zero(true, is_signal.sum())


def _from_zero(counts: Ints, total: np.integer) -> Floats:
    return np.concatenate([[0.0], counts / total])


def thinned(false: Floats, true: Floats, points: int = 120) -> list[list[float]]:
    """[false, true]: some of a ROC curve's own points, spread over both axes and over the false rate's logarithm."""
    even = np.linspace(0, 1, points)
    chosen = [np.searchsorted(true, even), np.searchsorted(false, even)]
    chosen.append(np.searchsorted(false, np.logspace(-6, 0, points)))
    kept = np.unique(np.concatenate([*chosen, [0, len(true) - 1]]).clip(0, len(true) - 1))
    return [false[kept].round(7).tolist(), true[kept].round(7).tolist()]


def confusion(labels: Ints, predicted: Ints, classes: int = len(CLASSES)) -> Ints:
    """Counts: a row is a true class, a column a predicted one."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def by_row(counts: NDArray[Any]) -> Floats:
    """A confusion matrix whose rows sum to 1 (or to 0: a class without events)."""
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def rejection(labels: Ints, probabilities: NDArray[Any], signal: int) -> list[dict[str, Any]]:
    """At each of EFFICIENCIES, what share of the other classes' events passes, of each and of all.

    The cut is the tightest that keeps the efficiency. "rest" and the classes' names: {"passed", "of", "rejection"};
    the rejection is of / passed, and None where none passes.
    """
    scores = probabilities[:, signal]
    ordered = np.sort(scores[labels == signal])[::-1]
    others = {CLASSES[other]: labels == other for other in range(len(CLASSES)) if other != signal}
    backgrounds = {"rest": labels != signal, **others}
    return [
        {"efficiency": wanted, **{name: _passing(scores[chosen], cut) for name, chosen in backgrounds.items()}}
        for wanted in EFFICIENCIES
        for cut in [ordered[int(np.ceil(wanted * len(ordered))) - 1]]
    ]


def _passing(scores: NDArray[Any], cut: float) -> dict[str, Any]:
    passed, of = int((scores >= cut).sum()), len(scores)
    return {"passed": passed, "of": of, "rejection": of / passed if passed else None}


def loss(labels: Ints, probabilities: NDArray[Any]) -> float:
    """The categorical cross-entropy, in nats."""
    normal = probabilities / probabilities.sum(axis=1, keepdims=True)
    right = normal[np.arange(len(labels)), labels]
    return float(-np.log(right.clip(SMALLEST, 1 - SMALLEST)).mean())


def measured(labels: NDArray[Any], probabilities: NDArray[Any]) -> dict[str, Any]:
    """All of it, as values for JSON. Raises ValueError where the arrays are not labels and probabilities."""
    labels, probabilities = np.asarray(labels, np.int64), np.asarray(probabilities, np.float64)
    if probabilities.shape != (len(labels), len(CLASSES)) or not len(labels):
        raise ValueError(f"{len(labels)} labels and probabilities of shape {probabilities.shape}")
    if not np.isfinite(probabilities).all():
        raise ValueError(f"{(~np.isfinite(probabilities)).any(axis=1).sum()} events have no finite probabilities")
    counts = np.bincount(labels, minlength=len(CLASSES))
    if not counts.all():
        raise ValueError(f"no events of {CLASSES[int(counts.argmin())]}: there is nothing to tell it by")
    predicted = probabilities.argmax(axis=1)
    one_vs_rest = [(labels == k, probabilities[:, k]) for k in range(len(CLASSES))]
    accuracy = float((predicted == labels).mean())
    areas = [auc(*pair) for pair in one_vs_rest]
    return {
        "events": len(labels),
        "events_by_class": counts.tolist(),
        "accuracy": accuracy,
        "accuracy_error": float(np.sqrt(accuracy * (1 - accuracy) / len(labels))),
        "loss": loss(labels, probabilities),
        "auc": [area for area, _ in areas],
        "auc_error": [error for _, error in areas],
        "confusion": confusion(labels, predicted).tolist(),
        "roc": [thinned(*roc(*pair)) for pair in one_vs_rest],
        "rejection": [rejection(labels, probabilities, k) for k in range(len(CLASSES))],
    }
