# with: workers=1 gpus=1 on=kubernetes image=tensorflow/tensorflow:2.21.0-gpu
import os

import keras
from keras import layers

model = keras.Sequential(
    [
        layers.Input((32, 32, 3)),
        layers.RandomFlip("horizontal"),
        layers.Conv2D(64, 3, activation="relu"),
        layers.GlobalMaxPooling2D(),
        layers.Dense(10, activation="softmax"),
    ]
)
model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
(x, y), (xt, yt) = keras.datasets.cifar10.load_data()
model.fit(x / 255.0, y, batch_size=64, epochs=20, validation_data=(xt / 255.0, yt))
model.save(os.path.join(os.environ.get("TFSPAWNER_OUTPUT", "."), "cifar.keras"))
