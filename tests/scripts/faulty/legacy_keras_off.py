# expect: keras-3
import os

os.environ["TF_USE_LEGACY_KERAS"] = "0"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import numpy as np
import tensorflow as tf

strategy = tf.distribute.MultiWorkerMirroredStrategy()
rng = np.random.default_rng(0)
features = rng.normal(size=(4096, 20)).astype("float32")
target = features @ rng.normal(size=(20, 1)).astype("float32")

with strategy.scope():
    model = tf.keras.Sequential([tf.keras.layers.Dense(32, activation="tanh"), tf.keras.layers.Dense(1)])
    model.compile(optimizer=tf.keras.optimizers.Adam(1e-3), loss="mse")

history = model.fit(features, target, batch_size=64 * strategy.num_replicas_in_sync, epochs=4, verbose=2)
print("loss", history.history["loss"][-1])
