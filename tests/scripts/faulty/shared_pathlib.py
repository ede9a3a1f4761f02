# expect: shared-path
# with: on=local workers=3
import sys
from pathlib import Path

import tensorflow as tf

if sys.version_info < (3, 9):
    raise SystemExit("too old a Python")

RESULTS = Path("/scratch/results")
RESULTS.mkdir(parents=True, exist_ok=True)


class Experiment:
    def __init__(self, name, strategy):
        self.path = RESULTS / name
        self.strategy = strategy

    def build(self):
        with self.strategy.scope():
            model = tf.keras.Sequential([tf.keras.layers.Dense(24, "relu"), tf.keras.layers.Dense(1)])
            model.compile("adam", "mse")
        return model

    def run(self):
        model = self.build()
        x = tf.random.normal((9600, 6))
        data = tf.data.Dataset.from_tensor_slices((x, tf.reduce_prod(x, 1))).repeat()
        batch = 32 * self.strategy.num_replicas_in_sync
        model.fit(data.batch(batch), epochs=4, steps_per_epoch=9600 // batch, verbose=2)
        model.save(RESULTS / "product.keras")


Experiment("product", tf.distribute.MultiWorkerMirroredStrategy()).run()
