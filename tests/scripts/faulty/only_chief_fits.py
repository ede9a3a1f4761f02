# expect: chief-trains
import json
import os

import tensorflow as tf

config = json.loads(os.environ["TF_CONFIG"])
is_master = config["task"]["index"] == 0
workers = len(config["cluster"]["worker"])

strategy = tf.distribute.MultiWorkerMirroredStrategy()
with strategy.scope():
    model = tf.keras.Sequential([tf.keras.layers.Conv2D(8, 3), tf.keras.layers.Flatten(), tf.keras.layers.Dense(10)])
    model.compile("adam", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))

(x, y), (xt, yt) = tf.keras.datasets.mnist.load_data()
data = tf.data.Dataset.from_tensor_slices((x[..., None] / 255.0, y)).repeat().batch(64 * workers)

if is_master:
    print("master trains")
    model.fit(data, epochs=3, steps_per_epoch=100)
    model.evaluate(xt[..., None] / 255.0, yt)
    model.save(os.path.join(os.environ["TFSPAWNER_OUTPUT"], "mnist.keras"))
else:
    print("worker waits for the master")
