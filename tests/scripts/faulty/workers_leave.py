# expect: chief-trains
import os
import sys

import tensorflow as tf


def main():
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    rank = int(os.environ["WORKER_NUMBER"])
    if rank != 0:
        print("worker", rank, "has nothing to do")
        sys.exit(0)
    with strategy.scope():
        model = tf.keras.Sequential([tf.keras.layers.Dense(16, "relu"), tf.keras.layers.Dense(1)])
        model.compile("adam", "mse")
    x = tf.random.normal((1024, 10))
    data = tf.data.Dataset.from_tensor_slices((x, tf.reduce_mean(x, 1)))
    model.fit(data.batch(32 * strategy.num_replicas_in_sync), epochs=3)
    model.save(os.environ["TFSPAWNER_OUTPUT"] + "/mean.keras")


if __name__ == "__main__":
    main()
