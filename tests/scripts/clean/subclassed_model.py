# with: workers=4
import os

import tensorflow as tf
from tensorflow import keras


class Block(keras.layers.Layer):
    def __init__(self, units):
        super().__init__()
        self.dense = keras.layers.Dense(units, activation="relu")
        self.norm = keras.layers.LayerNormalization()

    def call(self, x):
        return self.norm(self.dense(x) + x)


class Net(keras.Model):
    def __init__(self, units=64, depth=4):
        super().__init__()
        self.first = keras.layers.Dense(units)
        self.blocks = [Block(units) for _ in range(depth)]
        self.last = keras.layers.Dense(1)

    def call(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.last(x)


def main():
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        net = Net()
        net.compile(keras.optimizers.Adam(1e-3), keras.losses.Huber())
    x = tf.random.normal((8192, 12))
    data = tf.data.Dataset.from_tensor_slices((x, tf.norm(x, axis=1)))
    net.fit(data.shuffle(8192).batch(32 * strategy.num_replicas_in_sync), epochs=10, verbose=2)
    net.save_weights(os.path.join(os.environ["TFSPAWNER_OUTPUT"], "net.weights.h5"))


if __name__ == "__main__":
    main()
