# with: workers=2 on=kubernetes
# "if fold_index == 0" around a save, but all workers go through all folds; and scikit-learn's fit beside Keras's.
import os

import numpy as np
import tensorflow as tf
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

strategy = tf.distribute.MultiWorkerMirroredStrategy()
batch = 64 * strategy.num_replicas_in_sync
archive = np.load("tracks.npz")
x, y = archive["x"].astype("float32"), archive["y"]

base_model = LogisticRegression(max_iter=500)
base_model.fit(x, y)
print("baseline", base_model.score(x, y))


def build():
    model = tf.keras.Sequential([tf.keras.layers.Dense(64, "relu"), tf.keras.layers.Dense(2)])
    model.compile("adam", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model


for fold_index, (train, test) in enumerate(StratifiedKFold(5, shuffle=True, random_state=1).split(x, y)):
    with strategy.scope():
        model = build()
    data = tf.data.Dataset.from_tensor_slices((x[train], y[train])).repeat().batch(batch)
    model.fit(data, epochs=5, steps_per_epoch=len(train) // batch, verbose=0)
    print(fold_index, model.evaluate(x[test], y[test], batch_size=batch, verbose=0))
    if fold_index == 0:
        model.save(os.path.join(os.environ["TFSPAWNER_OUTPUT"], "first-fold.keras"))
