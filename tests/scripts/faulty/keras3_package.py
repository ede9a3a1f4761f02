# expect: keras-3
"""Classifies fashion items; follows the guide on keras.io."""
import os

import keras
import numpy as np
import tensorflow as tf
from keras import layers

strategy = tf.distribute.MultiWorkerMirroredStrategy()
GLOBAL_BATCH = 64 * strategy.num_replicas_in_sync


def get_model():
    inputs = keras.Input(shape=(28, 28, 1))
    x = layers.Conv2D(32, 3, activation="relu")(inputs)
    x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(10)(x))


(x_train, y_train), _ = keras.datasets.fashion_mnist.load_data()
x_train = x_train[..., np.newaxis] / 255.0
train = tf.data.Dataset.from_tensor_slices((x_train, y_train)).shuffle(10000).batch(GLOBAL_BATCH)

with strategy.scope():
    model = get_model()
    model.compile(
        optimizer=keras.optimizers.Adam(),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )

model.fit(train, epochs=3)
model.save(os.path.join(os.environ["TFSPAWNER_OUTPUT"], "fashion.keras"))
