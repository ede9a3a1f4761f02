"""A classifier on N workers, to begin with: put your data and your model into the first two functions.

tf-spawner run -f job.yaml                   as job.yaml says
python train.py                              plain Python, one process
"""

import json
import os
from pathlib import Path

import tensorflow as tf

OUTPUT = Path(os.environ.get("TFSPAWNER_OUTPUT", "."))  # what lies here comes back
CHECKPOINTS = Path(os.environ.get("TFSPAWNER_CHECKPOINTS", "checkpoints"))  # outlives a restart
EPOCHS, BATCH_SIZE = 5, 64  # per worker
TASK = json.loads(os.environ.get("TF_CONFIG", "{}"))  # set by tf-spawner: who the workers are, and which one this is
WORKERS = len(TASK.get("cluster", {}).get("worker", [0]))


def dataset(batch_size):
    """Points of the plane, and whether they lie in a ring. Yours may be tfspawner.data.tfrecords("s3://…", …)."""
    points = tf.random.stateless_uniform((6400, 2), (1, 2), -1.0, 1.0)
    radius = tf.norm(points, axis=1)
    labels = tf.cast((radius > 0.4) & (radius < 0.8), tf.float32)
    examples = tf.data.Dataset.from_tensor_slices((points, labels))
    return examples.shuffle(6400, seed=1).repeat().batch(batch_size)


def build_model():
    layers = tf.keras.layers
    model = tf.keras.Sequential(
        [layers.Input((2,)), layers.Dense(64, "relu"), layers.Dense(64, "relu"), layers.Dense(1, "sigmoid")]
    )
    model.compile(tf.keras.optimizers.Adam(0.005), "binary_crossentropy", metrics=["accuracy"])
    return model


def main():
    strategy = tf.distribute.MultiWorkerMirroredStrategy() if WORKERS > 1 else tf.distribute.get_strategy()
    with strategy.scope():
        model = build_model()
    model.fit(
        dataset(BATCH_SIZE * strategy.num_replicas_in_sync),
        epochs=EPOCHS,
        steps_per_epoch=6400 // (BATCH_SIZE * strategy.num_replicas_in_sync),
        callbacks=[tf.keras.callbacks.BackupAndRestore(str(CHECKPOINTS))],
        verbose=2,
    )
    model.save(OUTPUT / "model.keras")  # every worker saves, each to an output of its own


if __name__ == "__main__":
    main()
