# expect: syntax
import argparse

import tensorflow as tf

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=5)
args = parser.parse_args()

strategy = tf.distribute.MultiWorkerMirroredStrategy()

def make_model()
    model = tf.keras.Sequential([tf.keras.layers.Dense(10, activation="relu"), tf.keras.layers.Dense(1)])
    model.compile(optimizer="adam", loss="mse")
    return model

with strategy.scope():
    model = make_model()
