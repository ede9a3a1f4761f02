# expect: keras-version
import os

import tensorflow as tf
from tensorflow import keras

print("TensorFlow", tf.__version__, "Keras", keras.__version__)

strategy = tf.distribute.MultiWorkerMirroredStrategy()
with strategy.scope():
    model = keras.Sequential([keras.layers.Dense(10, activation="relu"), keras.layers.Dense(1)])
    model.compile(optimizer="adam", loss="mae")

x = tf.random.uniform((800, 6))
data = tf.data.Dataset.from_tensor_slices((x, tf.reduce_max(x, axis=1))).repeat()
model.fit(data.batch(16 * strategy.num_replicas_in_sync), epochs=2, steps_per_epoch=25)
model.save(os.environ["TFSPAWNER_OUTPUT"] + "/max.keras")
