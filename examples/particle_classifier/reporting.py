"""What a training leaves behind while it goes on: history.json, TensorBoard's files and checkpoints."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import tensorflow as tf
from models import keras

from tfspawner.errors import ConfigurationError

HISTORY = "history.json"


class Validation:
    """The loss and accuracy of all test events, equal on all workers.

    Each worker goes through its share, however many events that are, and the sums are added up. Keras' own
    validation needs as many batches on each worker, and so would leave events out.
    """

    def __init__(self, model: Any, data: tf.data.Dataset) -> None:
        self.model, self.data = model, data
        self.sums_of = tf.function(self._sums_of, reduce_retracing=True)
        self.added_up = tf.function(added_up)

    def _sums_of(self, inputs: Any, labels: Any) -> Any:
        predicted = self.model(inputs, training=False)
        lost = keras.losses.categorical_crossentropy(labels, predicted)
        right = tf.equal(tf.argmax(labels, 1), tf.argmax(predicted, 1))
        return tf.stack([tf.reduce_sum(tf.cast(some, tf.float64)) for some in (lost, right, tf.ones_like(lost))])

    def __call__(self) -> dict[str, float]:
        sums = tf.zeros(3, tf.float64)
        for inputs, labels in self.data:
            sums += self.sums_of(inputs, labels)
        loss, right, number = self.added_up(sums).numpy()
        return {"val_loss": float(loss / number), "val_accuracy": float(right / number)}


def added_up(sums: tf.Tensor) -> tf.Tensor:
    """The sum of all workers' tensors."""
    strategy = tf.distribute.get_strategy()
    return strategy.reduce("SUM", strategy.run(tf.identity, args=(sums,)), axis=None)


class Checkpoints:
    """A model after each of its last whole epochs, in a folder that outlives the process; None: in none.

    Worker 0 writes there. TensorFlow wants the others to write, too; what they do is thrown away.
    Made within the strategy's scope.
    """

    def __init__(self, folder: str | None, model: Any, *, is_first: bool) -> None:
        self.folder, self.is_first = folder, is_first
        self.scratch = tempfile.TemporaryDirectory()
        self.epochs = tf.Variable(0, dtype=tf.int64, trainable=False)
        model.optimizer.build(model.trainable_variables)
        self.checkpoint = tf.train.Checkpoint(epochs=self.epochs, model=model, optimizer=model.optimizer)
        written = folder if folder and is_first else self.scratch.name
        self.manager = tf.train.CheckpointManager(self.checkpoint, written, max_to_keep=2)

    def restored(self) -> list[dict[str, Any]]:
        """The history of the epochs after which the model, now restored, was saved. Raises ConfigurationError."""
        latest = tf.train.latest_checkpoint(self.folder) if self.folder else None
        if not latest:
            return []
        try:
            self.checkpoint.restore(latest).assert_existing_objects_matched()
        except (AssertionError, ValueError):
            raise ConfigurationError(
                f"{latest} is a checkpoint of another model", hint="another --checkpoints"
            ) from None
        with tf.io.gfile.GFile(f"{self.folder}/{HISTORY}") as file:
            return json.load(file)["epochs"][: int(self.epochs.numpy())]

    def save(self, history: dict[str, Any]) -> None:
        if self.folder and self.is_first:
            write_json(f"{self.folder}/{HISTORY}", history)
        self.epochs.assign(len(history["epochs"]))
        self.manager.save()


def write_json(path: str, content: Any) -> None:
    """Under its name when it is whole."""
    tf.io.gfile.makedirs(path.rpartition("/")[0] or ".")
    with tf.io.gfile.GFile(f"{path}.part", "w") as file:
        file.write(json.dumps(content, indent=1) + "\n")
    tf.io.gfile.rename(f"{path}.part", path, overwrite=True)


class Board:
    """TensorBoard's files of scalars, written without the package tensorboard, which Keras' own callback wants."""

    def __init__(self, folder: Path) -> None:
        self.writers = {part: tf.summary.create_file_writer(str(folder / part)) for part in ("train", "validation")}
        plugin = tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
        self.metadata = tf.compat.v1.SummaryMetadata(plugin_data=plugin)

    def add(self, epoch: int, measured: dict[str, float]) -> None:
        for name, value in measured.items():
            part = "validation" if name.startswith("val_") else "train"
            with self.writers[part].as_default():
                tf.summary.write(f"epoch_{name.removeprefix('val_')}", tf.constant(value), epoch, self.metadata)
            self.writers[part].flush()


class Reports(keras.callbacks.Callback):
    """After each epoch: validates, adds the epoch to the history, and saves a checkpoint."""

    def __init__(self, history: dict[str, Any], output: Path, validation: Validation, checkpoints: Checkpoints) -> None:
        super().__init__()
        self.history, self.output, self.validation, self.checkpoints = history, output, validation, checkpoints
        self.board = Board(output / "tensorboard")

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.began = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        seconds = time.monotonic() - self.began
        logs.update(self.validation())
        rate = round(float(tf.convert_to_tensor(self.model.optimizer.learning_rate)), 9)
        measured = {name: float(logs[name]) for name in ("loss", "accuracy", "val_loss", "val_accuracy")}
        self.history["epochs"].append(
            {"epoch": epoch + 1, "seconds": round(seconds, 3), **measured, "learning_rate": rate}
        )
        write_json(str(self.output / HISTORY), self.history)
        self.board.add(epoch + 1, {**measured, "learning_rate": rate})
        self.checkpoints.save(self.history)
