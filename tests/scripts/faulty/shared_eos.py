# expect: shared-path
# with: on=kubernetes
"""Jet tagger: trained on the open data of the LHC olympics."""
import os

import tensorflow as tf

BASE = "/eos/user/a/alice/models"
NAME = "jet-tagger"

strategy = tf.distribute.MultiWorkerMirroredStrategy()
batch = 512 * strategy.num_replicas_in_sync
files = tf.data.Dataset.list_files("/eos/project/jets/train-*.tfrecord", shuffle=False)
spec = {"x": tf.io.FixedLenFeature([40], tf.float32), "y": tf.io.FixedLenFeature([], tf.int64)}


def parse(record):
    example = tf.io.parse_single_example(record, spec)
    return example["x"], example["y"]


ds = files.interleave(tf.data.TFRecordDataset).map(parse).shuffle(10_000).repeat().batch(batch)

with strategy.scope():
    tagger = tf.keras.Sequential([tf.keras.layers.Dense(200, "relu"), tf.keras.layers.Dense(5, "softmax")])
    tagger.compile("adam", "sparse_categorical_crossentropy")

tagger.fit(ds, epochs=20, steps_per_epoch=1000, verbose=2)
tagger.save(os.path.join(BASE, f"{NAME}.keras"))
