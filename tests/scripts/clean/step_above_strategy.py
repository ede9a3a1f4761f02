# with: workers=2 on=local
# tf.function(step) stands above the strategy, and step makes tensors: it only runs below it.
import os

import tensorflow as tf


def normalise(x):
    return (x - tf.reduce_mean(x)) / (tf.reduce_max(x) - tf.reduce_min(x))


normalised = tf.function(normalise)
strategy = tf.distribute.MultiWorkerMirroredStrategy()

if os.path.exists("settings.py"):
    exec(open("settings.py").read())

with strategy.scope():
    model = tf.keras.Sequential([tf.keras.layers.Dense(8, activation="swish"), tf.keras.layers.Dense(1)])
    model.compile(optimizer="adam", loss="mse")
x = normalised(tf.random.normal((6400, 5)))
data = tf.data.Dataset.from_tensor_slices((x, tf.reduce_sum(x, 1))).repeat()
model.fit(data.batch(32 * strategy.num_replicas_in_sync), epochs=2, steps_per_epoch=50)
model.save(os.environ["TFSPAWNER_OUTPUT"] + "/normalised.keras")
