"""Trains a classifier of handwritten digits, on one machine or on several workers.

    tf-spawner run examples/digits/train.py -w 2                     two workers on this machine
    tf-spawner run examples/digits/train.py -w 2 --on kubernetes     two pods
    python examples/digits/train.py                                  plain Python, one process

Plain Keras: the strategy reads TF_CONFIG, which tf-spawner sets. Every worker has to save, and to a path
of its own; $TFSPAWNER_OUTPUT is one, and what lies there comes back. The first worker's is the model.
"""

import argparse
import json
import os
from pathlib import Path

import tensorflow as tf

HERE = Path(__file__).parent
OUTPUT = Path(os.environ.get("TFSPAWNER_OUTPUT", "."))
FEATURES = {"image": tf.io.FixedLenFeature([64], tf.int64), "label": tf.io.FixedLenFeature([], tf.int64)}


def parse(records):
    batch = tf.io.parse_example(records, FEATURES)
    return tf.cast(batch["image"], tf.float32) / 16.0, batch["label"]


def dataset(pattern, batch_size, training):
    shards = tf.data.Dataset.list_files(str(HERE / "data" / pattern), shuffle=False)
    records = shards.interleave(tf.data.TFRecordDataset)
    if training:
        records = records.shuffle(2000, seed=1).repeat()
    return records.batch(batch_size).map(parse).prefetch(tf.data.AUTOTUNE)


def build_model():
    model = tf.keras.Sequential(
        [
            tf.keras.layers.Input((64,)),
            tf.keras.layers.Reshape((8, 8, 1)),
            tf.keras.layers.Conv2D(32, 3, activation="relu"),
            tf.keras.layers.Conv2D(64, 3, activation="relu"),
            tf.keras.layers.Flatten(),
            tf.keras.layers.Dense(64, activation="relu"),
            tf.keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=32, help="per worker")
    args = parser.parse_args()

    several = len(json.loads(os.environ.get("TF_CONFIG", "{}")).get("cluster", {}).get("worker", [])) > 1
    strategy = tf.distribute.MultiWorkerMirroredStrategy() if several else tf.distribute.get_strategy()
    batch_size = args.batch_size * strategy.num_replicas_in_sync
    with strategy.scope():
        model = build_model()
    model.fit(dataset("train-*", batch_size, True), epochs=args.epochs, steps_per_epoch=1437 // batch_size, verbose=2)
    model.save(OUTPUT / "model.keras")


if __name__ == "__main__":
    main()
