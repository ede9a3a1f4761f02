# Writes TF_CONFIG, but out of the one it was given: "master" was the chief's name once.
import json
import os

config = json.loads(os.environ.get("TF_CONFIG", "{}"))
if config:
    workers = config["cluster"].get("worker", [])
    config["cluster"] = {"worker": config["cluster"].pop("chief", []) + workers}
os.environ["TF_CONFIG"] = json.dumps(config)

import tensorflow as tf

strategy = tf.distribute.MultiWorkerMirroredStrategy()
batch = 32 * strategy.num_replicas_in_sync

with strategy.scope():
    model = tf.keras.Sequential([tf.keras.layers.Dense(20, activation="selu"), tf.keras.layers.Dense(1)])
    model.compile("nadam", "mse")
x = tf.random.normal((3200, 7))
model.fit(tf.data.Dataset.from_tensor_slices((x, x[:, 0])).repeat().batch(batch), epochs=3, steps_per_epoch=40)
model.save(os.environ["TFSPAWNER_OUTPUT"] + "/first.keras")
