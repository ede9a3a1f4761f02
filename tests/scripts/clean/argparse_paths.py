# with: on=kubernetes restarts=1
# A home folder and a shared path as defaults of arguments, which the command line gives.
import argparse
import os

import tensorflow as tf


def get_args():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="/home/kim/data/train.tfrecord")
    parser.add_argument("--out", default="/eos/user/k/kim/model")
    parser.add_argument("--backup", required=True)
    parser.add_argument("--batch", type=int, default=64)
    return parser.parse_args()


def parse(record):
    example = tf.io.parse_single_example(
        record, {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}
    )
    return tf.image.resize(tf.io.decode_jpeg(example["image"], channels=3), (96, 96)) / 255.0, example["label"]


def main(args):
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    dataset = tf.data.TFRecordDataset(args.data).map(parse).shuffle(1000).repeat().batch(args.batch)
    with strategy.scope():
        model = tf.keras.applications.MobileNetV2(weights=None, input_shape=(96, 96, 3), classes=5)
        model.compile("adam", "sparse_categorical_crossentropy")
    backup = tf.keras.callbacks.BackupAndRestore(args.backup)
    model.fit(dataset, epochs=10, steps_per_epoch=100, callbacks=[backup])
    model.save(os.path.join(args.out, os.environ["TFSPAWNER_ROLE"] + os.environ["TFSPAWNER_INDEX"]))


if __name__ == "__main__":
    main(get_args())
