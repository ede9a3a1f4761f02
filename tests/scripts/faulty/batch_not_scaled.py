# expect: batch-size
# with: workers=4
import os

import numpy as np
import tensorflow as tf

BATCH_SIZE = 32
EPOCHS = 12

strategy = tf.distribute.MultiWorkerMirroredStrategy()


def make_dataset():
    archive = np.load("calorimeter.npz")
    ds = tf.data.Dataset.from_tensor_slices((archive["cells"], archive["energy"]))
    return ds.shuffle(20000, seed=7).repeat().batch(BATCH_SIZE).prefetch(2)


with strategy.scope():
    model = tf.keras.Sequential(
        [
            tf.keras.layers.Conv3D(16, 3, activation="relu"),
            tf.keras.layers.GlobalAveragePooling3D(),
            tf.keras.layers.Dense(1),
        ]
    )
    model.compile(optimizer="adam", loss="mse")

train = make_dataset()
model.fit(train, epochs=EPOCHS, steps_per_epoch=500, verbose=2)
model.save(os.environ["TFSPAWNER_OUTPUT"] + "/calo.keras")
