# with: workers=4
# Tensors are made above the strategy, but in functions that run below it.
import os

import tensorflow as tf


def features():
    x = tf.random.normal((2048, 16), seed=3)
    return tf.data.Dataset.from_tensor_slices((x, tf.reduce_sum(x, axis=1)))


def build():
    inputs = tf.keras.Input((16,))
    hidden = tf.keras.layers.Dense(32, activation="gelu")(inputs)
    model = tf.keras.Model(inputs, tf.keras.layers.Dense(1)(hidden))
    model.compile(tf.keras.optimizers.AdamW(1e-3), tf.keras.losses.LogCosh())
    return model


def run(strategy):
    data = features().shuffle(2048).repeat().batch(32 * strategy.num_replicas_in_sync)
    with strategy.scope():
        model = build()
    model.fit(data, epochs=5, steps_per_epoch=16)
    model.save(os.path.join(os.environ["TFSPAWNER_OUTPUT"], "model.keras"))


if __name__ == "__main__":
    tf.random.set_seed(1)
    print(tf.config.list_physical_devices())
    run(tf.distribute.MultiWorkerMirroredStrategy())
