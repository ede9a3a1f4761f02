# with: workers=2 on=kubernetes
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

log = logging.getLogger("trainer")


@dataclass
class Config:
    epochs: int = 5
    batch_size: int = 64
    learning_rate: float = 3e-4


class Trainer:
    def __init__(self, config):
        self.config = config
        self.strategy = tf.distribute.MultiWorkerMirroredStrategy()
        self.output = Path(os.environ.get("TFSPAWNER_OUTPUT", "out"))
        with self.strategy.scope():
            self.model = self.build()

    def build(self):
        inputs = tf.keras.Input((28, 28))
        x = tf.keras.layers.Flatten()(inputs)
        x = tf.keras.layers.Dense(256, activation="relu")(x)
        model = tf.keras.Model(inputs, tf.keras.layers.Dense(10)(x))
        model.compile(
            tf.keras.optimizers.Adam(self.config.learning_rate),
            tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        return model

    def data(self):
        (x, y), _ = tf.keras.datasets.mnist.load_data()
        batch = self.config.batch_size * self.strategy.num_replicas_in_sync
        return tf.data.Dataset.from_tensor_slices((x / 255.0, y)).shuffle(60000).batch(batch)

    def fit(self):
        history = self.model.fit(self.data(), epochs=self.config.epochs, verbose=2)
        log.info("loss %.3f", history.history["loss"][-1])
        self.model.save(self.output / "mnist.keras")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    Trainer(Config()).fit()
