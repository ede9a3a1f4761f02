# with: workers=5 on=local
# No strategy on purpose: each worker trains a fold of its own.
import os

import numpy as np
import tensorflow as tf
from sklearn.model_selection import KFold

fold, folds = int(os.environ["TFSPAWNER_INDEX"]), int(os.environ["TOT_WORKERS"])
archive = np.load("events.npz")
x, y = archive["x"], archive["y"]
train, test = list(KFold(folds, shuffle=True, random_state=0).split(x))[fold]

model = tf.keras.Sequential([tf.keras.layers.Dense(64, activation="relu"), tf.keras.layers.Dense(1)])
model.compile(optimizer="adam", loss="mse", metrics=["mae"])
model.fit(x[train], y[train], epochs=30, batch_size=64, verbose=2)
print("fold", fold, model.evaluate(x[test], y[test], return_dict=True))
model.save(f"/data/folds/{fold}.keras")
