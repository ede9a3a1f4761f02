"""Trains one HLF classifier on all folds at once: the folds' weights are stacked, and a step is one for each of them.

The same numbers as Keras's fit gives for each fold with the same weights and order of events, without its cost for each
step. What is trained to 50 epochs has been trained to 10 and 30 on the way, so that these scores cost nothing.
Keras 3 alone can do it; `keras` is it, also where TF_USE_LEGACY_KERAS makes tf.keras be tf-keras.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from console import write
from numpy.typing import NDArray

EVENTS_AT_ONCE = 1 << 16  # when measuring

Floats, Ints = NDArray[np.float32], NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A training whose scores after each of `epochs` are wanted."""

    batch: int
    hidden: tuple[int, ...]
    epochs: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a fit is worth after some epochs: accuracy and loss on each fold's held-out events."""

    batch: int
    hidden: tuple[int, ...]
    epochs: int
    accuracies: list[float]
    losses: list[float]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Events, and the rows of each fold: trained on and held out, (folds, rows) each."""

    features: Floats
    labels: Ints
    trained: Ints
    held: Ints
    seed: int


def folded(features: Floats, labels: Ints, folds: int, seed: int) -> Sample:
    """A sample in stratified folds of equal size; up to folds - 1 events are left out for it."""
    order = np.random.default_rng(seed).permutation(len(labels))[: len(labels) // folds * folds]
    order = order[np.argsort(labels[order], kind="stable")]
    held = order.reshape(-1, folds).T
    trained = np.stack([np.delete(held, fold, axis=0).ravel() for fold in range(folds)])
    return Sample(features=features, labels=labels, trained=trained, held=held, seed=seed)


def scores(fit: Fit, sample: Sample) -> list[Score]:
    """The fit's score after each of its epochs."""
    began = time.perf_counter()
    stack = Stack(fit.hidden, len(sample.trained), sample)
    found = []
    for epoch in range(1, max(fit.epochs) + 1):
        stack.train(epoch, fit.batch)
        if epoch in fit.epochs:
            held = sample.held
            losses, accuracies = stack.measure(sample.features[held], sample.labels[held])
            seconds = round(time.perf_counter() - began, 3)
            found.append(Score(batch=fit.batch, hidden=fit.hidden, epochs=epoch, accuracies=accuracies.tolist(),
                               losses=losses.tolist(), seconds=seconds))  # fmt: skip
    return found


def orders(rows: Ints, batch: int, seed: int, epoch: int) -> tuple[Ints, Floats]:
    """An epoch's batches: (steps, folds, batch) rows in an order that follows from seed, fold and epoch alone.

    The second array has the rows' weights: 0 where a last batch has none.
    """
    folds, count = rows.shape
    steps = -(-count // batch)
    shuffled = np.zeros((folds, steps * batch), np.int64)
    for fold in range(folds):
        shuffled[fold, :count] = np.random.default_rng([seed, fold, epoch]).permutation(rows[fold])
    weights = (np.arange(steps * batch) < count).astype(np.float32)
    return (
        shuffled.reshape(folds, steps, batch).transpose(1, 0, 2),
        np.broadcast_to(weights.reshape(steps, 1, batch), (steps, folds, batch)),
    )


class Stack:
    """As many HLF classifiers of one shape as there are folds."""

    def __init__(self, hidden: tuple[int, ...], folds: int, sample: Sample) -> None:
        import keras
        import tensorflow as tf

        models = [seeded(hidden, sample.seed + fold) for fold in range(folds)]
        self.model, self.sample = models[0], sample
        stacked = zip(*(model.get_weights() for model in models), strict=True)
        self.weights = [keras.Variable(np.stack(weights)) for weights in stacked]
        self.optimizer = keras.optimizers.Adam()
        self.optimizer.build(self.weights)
        self.features = tf.constant(sample.features)
        self.labels = tf.constant(sample.labels)
        self.epoch = tf.function(self._epoch, reduce_retracing=True)
        self.sums = tf.function(self._sums, reduce_retracing=True)

    def probabilities(self, inputs: Any) -> Any:
        """(folds, events, classes) of inputs of (folds, events, features)."""
        import tensorflow as tf

        def one(given: Any) -> Any:
            return self.model.stateless_call(given[:-1], [], given[-1], training=True)[0]

        return tf.vectorized_map(one, [*(weight.value for weight in self.weights), inputs])

    def terms(self, features: Any, labels: Any) -> tuple[Any, Any]:
        """(loss, 1.0 where right) of each event of each fold."""
        import keras
        import tensorflow as tf

        probabilities = self.probabilities(features)
        right = tf.cast(tf.argmax(probabilities, axis=-1) == labels, tf.float32)
        return keras.losses.sparse_categorical_crossentropy(labels, probabilities), right

    def _sums(self, features: Any, labels: Any) -> tuple[Any, Any]:
        import tensorflow as tf

        losses, right = self.terms(features, labels)
        return tf.reduce_sum(losses, -1), tf.reduce_sum(right, -1)

    def _epoch(self, rows: Any, weights: Any) -> tuple[Any, Any]:
        import tensorflow as tf

        folds = rows.shape[1]
        loss_sum, right_sum = tf.zeros(folds), tf.zeros(folds)
        for step in tf.range(tf.shape(rows)[0]):
            here, weight = rows[step], weights[step]
            with tf.GradientTape() as tape:
                losses, right = self.terms(tf.gather(self.features, here), tf.gather(self.labels, here))
                total = tf.reduce_sum(losses * weight) / tf.reduce_sum(weight[0])
            variables = [each.value for each in self.weights]
            self.optimizer.apply(tape.gradient(total, variables), self.weights)
            loss_sum += tf.reduce_sum(losses * weight, -1)
            right_sum += tf.reduce_sum(right * weight, -1)
        return loss_sum, right_sum

    def train(self, epoch: int, batch: int) -> tuple[Any, Any]:
        """One epoch; (loss, accuracy) of each fold, means over it."""
        rows, weights = orders(self.sample.trained, batch, self.sample.seed, epoch)
        sums = self.epoch(rows, weights)
        return tuple(each.numpy() / self.sample.trained.shape[1] for each in sums)

    def measure(self, features: Floats, labels: Ints) -> tuple[Any, Any]:
        """(loss, accuracy) of each fold on its own events: features of (folds, events, 14)."""
        parts = [slice(at, at + EVENTS_AT_ONCE) for at in range(0, labels.shape[1], EVENTS_AT_ONCE)]
        sums = [np.stack(self.sums(features[:, part], labels[:, part])) for part in parts]
        losses, right = np.sum(sums, axis=0, dtype=np.float64) / labels.shape[1]
        return losses, right


def seeded(hidden: tuple[int, ...], seed: int) -> Any:
    """An untrained HLF classifier whose weights follow from the seed."""
    import keras

    keras.utils.set_random_seed(seed)
    values = features = keras.Input((14,), name="features")
    for width in hidden:
        values = keras.layers.Dense(width, activation="relu")(values)
    return keras.Model(features, keras.layers.Dense(3, activation="softmax")(values), name="hlf")


def trained(fit: Fit, features: Floats, labels: Ints, tested: Any, seed: int, folder: Path) -> None:
    """Trains the fit's classifier on all events, and writes model.keras and history.json.

    tested: (features, labels) to measure on after each epoch, or None.
    """
    rows = np.arange(len(labels))[None]
    stack = Stack(fit.hidden, 1, Sample(features=features, labels=labels, trained=rows, held=rows[:, :0], seed=seed))
    epochs = []
    for epoch in range(1, fit.epochs[-1] + 1):
        began = time.perf_counter()
        loss, accuracy = stack.train(epoch, fit.batch)
        seconds = round(time.perf_counter() - began, 3)
        entry = {"epoch": epoch, "seconds": seconds, "loss": float(loss[0]), "accuracy": float(accuracy[0])}
        if tested:
            loss, accuracy = stack.measure(*(some[None] for some in tested))
            entry.update(val_loss=float(loss[0]), val_accuracy=float(accuracy[0]))
        epochs.append({**entry, "learning_rate": float(stack.optimizer.learning_rate)})
    stack.model.set_weights([weight.numpy()[0] for weight in stack.weights])
    stack.model.save(folder / "model.keras")
    about = {"model": "hlf", "parameters": stack.model.count_params(), "hidden": fit.hidden, "workers": 1}
    about |= {"batch_size": fit.batch, "events": len(labels), "epochs": epochs}
    write(folder / "history.json", json.dumps(about, indent=1))
