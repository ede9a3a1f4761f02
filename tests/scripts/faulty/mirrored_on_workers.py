# expect: one-machine-strategy
# with: workers=4 gpus=2 on=kubernetes image=tensorflow/tensorflow:2.21.0-gpu
import os

import tensorflow as tf

strategy = tf.distribute.MirroredStrategy()
print("replicas:", strategy.num_replicas_in_sync)
BATCH = 128 * strategy.num_replicas_in_sync


def load(split):
    (x, y), (xt, yt) = tf.keras.datasets.mnist.load_data()
    images, labels = (x, y) if split == "train" else (xt, yt)
    ds = tf.data.Dataset.from_tensor_slices((images[..., None] / 255.0, labels))
    return ds.cache().shuffle(60000).batch(BATCH).prefetch(tf.data.AUTOTUNE)


with strategy.scope():
    model = tf.keras.Sequential([tf.keras.layers.Flatten(), tf.keras.layers.Dense(10, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])

model.fit(load("train"), validation_data=load("test"), epochs=5)
model.save(os.environ["TFSPAWNER_OUTPUT"] + "/mnist.keras")
