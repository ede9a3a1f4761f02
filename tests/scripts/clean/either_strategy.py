# A MirroredStrategy stands in it, for when there is one machine alone; and TF_CONFIG is only set where it is missing.
import json
import os
import sys

if "TF_CONFIG" not in os.environ and "--try" in sys.argv:
    os.environ["TF_CONFIG"] = json.dumps(
        {"cluster": {"worker": ["localhost:9999"]}, "task": {"type": "worker", "index": 0}}
    )

import tensorflow as tf


def make_strategy():
    if "TF_CONFIG" in os.environ:
        return tf.distribute.MultiWorkerMirroredStrategy()
    if len(tf.config.list_physical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def main():
    strategy = make_strategy()
    batch = 64 * strategy.num_replicas_in_sync
    (x, y), _ = tf.keras.datasets.mnist.load_data()
    data = tf.data.Dataset.from_tensor_slices((x / 255.0, y)).repeat().batch(batch)
    with strategy.scope():
        model = tf.keras.Sequential([tf.keras.layers.Flatten(), tf.keras.layers.Dense(10)])
        model.compile("adam", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(data, epochs=2, steps_per_epoch=60000 // batch)
    model.save("mnist.keras")


if __name__ == "__main__":
    main()
