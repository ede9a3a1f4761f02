# expect: tf-config
import os
import sys

import numpy as np
import tensorflow as tf

os.environ.pop("TF_CONFIG", None)
if "." not in sys.path:
    sys.path.insert(0, ".")

strategy = tf.distribute.MultiWorkerMirroredStrategy()
size = 64 * strategy.num_replicas_in_sync
x = np.random.random((2000, 5)).astype("float32")

with strategy.scope():
    model = tf.keras.Sequential([tf.keras.layers.Dense(3, activation="relu"), tf.keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse")

model.fit(x, x.sum(1), batch_size=size, epochs=3)
model.save(os.path.join(os.environ["TFSPAWNER_OUTPUT"], "sum.keras"))
