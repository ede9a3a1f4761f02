# expect: home-path
# with: on=kubernetes
import os

import pandas as pd
import tensorflow as tf
from sklearn.preprocessing import StandardScaler

DATA = "/home/jdoe/projects/wine"
strategy = tf.distribute.MultiWorkerMirroredStrategy()

frame = pd.read_csv(os.path.join(DATA, "winequality-red.csv"), sep=";")
target = frame.pop("quality").to_numpy(dtype="float32")
features = StandardScaler().fit_transform(frame)

with strategy.scope():
    model = tf.keras.Sequential([tf.keras.layers.Dense(32, "relu"), tf.keras.layers.Dense(1)])
    model.compile("adam", "mse", metrics=["mae"])
model.fit(features, target, epochs=20, batch_size=16 * strategy.num_replicas_in_sync, validation_split=0.2)
model.save(os.environ["TFSPAWNER_OUTPUT"] + "/wine.keras")
