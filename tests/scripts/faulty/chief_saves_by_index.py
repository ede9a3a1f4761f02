# expect: chief-saves
import json
import os

import tensorflow as tf

tf_config = json.loads(os.environ["TF_CONFIG"])
task_type, task_index = tf_config["task"]["type"], tf_config["task"]["index"]
n_workers = len(tf_config["cluster"]["worker"])

strategy = tf.distribute.MultiWorkerMirroredStrategy()

with strategy.scope():
    model = tf.keras.Sequential([tf.keras.layers.Dense(100, activation="relu"), tf.keras.layers.Dense(10)])
    model.compile(
        optimizer="adam",
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )

(x, y), _ = tf.keras.datasets.mnist.load_data()
x = x.reshape((-1, 784)) / 255.0
ds = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(60000).repeat().batch(64 * n_workers)
model.fit(ds, epochs=5, steps_per_epoch=60000 // (64 * n_workers))

if task_index == 0:
    print("I am the first worker, saving")
    model.save(os.path.join(os.environ["TFSPAWNER_OUTPUT"], "mnist.keras"))
