# expect: gpus-hidden
# with: workers=1 gpus=1 on=kubernetes image=tensorflow/tensorflow:2.21.0-gpu
import os

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # my laptop's GPU is too small
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import tensorflow as tf

(x, y), _ = tf.keras.datasets.fashion_mnist.load_data()
model = tf.keras.Sequential(
    [
        tf.keras.layers.Rescaling(1 / 255, input_shape=(28, 28)),
        tf.keras.layers.Flatten(),
        tf.keras.layers.Dense(300, activation="relu"),
        tf.keras.layers.Dense(10, activation="softmax"),
    ]
)
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(x, y, epochs=5)
model.save("fashion.keras")
