"""Writes scikit-learn's handwritten digits as TFRecord shards: 4 to train on, 1 to test with.

    python examples/digits/prepare.py

1,797 images of 8 x 8 pixels from 0 to 16, each a record of {"image": int64[64], "label": int64}. The
shards are part of the repository, so that the example runs from a fresh clone; this is how they were made.
"""

from pathlib import Path

import tensorflow as tf
from sklearn.datasets import load_digits

DATA = Path(__file__).parent / "data"
TRAIN_SHARDS = 4


def write(path, images, labels):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for image, label in zip(images, labels, strict=True):
            feature = {
                "image": tf.train.Feature(int64_list=tf.train.Int64List(value=image.astype(int))),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[int(label)])),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())


def main():
    DATA.mkdir(exist_ok=True)
    images, labels = load_digits(return_X_y=True)
    test = slice(0, None, 5)  # every fifth image
    write(DATA / "test-00000-of-00001.tfrecord", images[test], labels[test])
    rest = [i for i in range(len(labels)) if i % 5]
    for shard in range(TRAIN_SHARDS):
        chosen = rest[shard::TRAIN_SHARDS]
        write(DATA / f"train-{shard:05}-of-{TRAIN_SHARDS:05}.tfrecord", images[chosen], labels[chosen])


if __name__ == "__main__":
    main()
