# expect: no-strategy
"""Trains a small CNN on CIFAR-10."""
import argparse
import os

from tensorflow import keras
from tensorflow.keras import layers

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", default=10, type=int)
parser.add_argument("--lr", default=1e-3, type=float)
args = parser.parse_args()

(x_train, y_train), (x_test, y_test) = keras.datasets.cifar10.load_data()
x_train, x_test = x_train / 255.0, x_test / 255.0

cnn = keras.Sequential(
    [
        layers.Conv2D(32, 3, activation="relu", input_shape=(32, 32, 3)),
        layers.MaxPooling2D(),
        layers.Conv2D(64, 3, activation="relu"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(10),
    ]
)
cnn.compile(
    optimizer=keras.optimizers.Adam(args.lr),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
cnn.fit(x_train, y_train, epochs=args.epochs, validation_data=(x_test, y_test))
cnn.save(os.path.join(os.getenv("TFSPAWNER_OUTPUT", "."), "cnn.keras"))
