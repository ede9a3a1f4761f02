# expect: strategy-late
import os

import tensorflow as tf


def load_data(pattern):
    files = tf.data.Dataset.list_files(pattern)
    return files.interleave(tf.data.TFRecordDataset).map(lambda r: tf.io.parse_tensor(r, tf.float32))


def train(dataset, strategy):
    with strategy.scope():
        model = tf.keras.Sequential([tf.keras.layers.Dense(8, "relu"), tf.keras.layers.Dense(4)])
        model.compile("sgd", "mse")
    model.fit(dataset.map(lambda t: (t, t)), epochs=8, verbose=2)
    return model


def main():
    data = load_data("data/train-*")
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    model = train(data.batch(128 * strategy.num_replicas_in_sync), strategy)
    model.save(os.environ["TFSPAWNER_OUTPUT"])


if __name__ == "__main__":
    main()
