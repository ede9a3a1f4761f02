# expect: strategy-late
import os

import tensorflow as tf

print("TensorFlow", tf.__version__)
print("devices", tf.config.list_logical_devices())

(x, y), _ = tf.keras.datasets.mnist.load_data()
x = x.reshape(-1, 784) / 255.0
dataset = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(60000)

strategy = tf.distribute.MultiWorkerMirroredStrategy()
dataset = dataset.batch(64 * strategy.num_replicas_in_sync)

with strategy.scope():
    model = tf.keras.Sequential([tf.keras.layers.Dense(64, activation="relu"), tf.keras.layers.Dense(10)])
    model.compile("adam", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))

model.fit(dataset, epochs=5)
model.save(os.path.join(os.environ["TFSPAWNER_OUTPUT"], "mnist"))
