# expect: old-argument
"""Written for TensorFlow 2.3, when the optimizers still took lr."""
import os
import sys

import tensorflow as tf
from tensorflow.keras.optimizers import Adam

if len(sys.argv) < 2:
    sys.exit("usage: train.py EPOCHS")

strategy = tf.distribute.experimental.MultiWorkerMirroredStrategy()
batch_size = 100 * strategy.num_replicas_in_sync

with strategy.scope():
    model = tf.keras.models.Sequential()
    model.add(tf.keras.layers.Dense(50, input_dim=14, activation="relu", kernel_initializer="he_normal"))
    model.add(tf.keras.layers.Dense(3, activation="softmax"))
    model.compile(loss="categorical_crossentropy", optimizer=Adam(lr=0.05), metrics=["accuracy"])

x = tf.random.normal((10000, 14))
y = tf.one_hot(tf.random.uniform((10000,), maxval=3, dtype=tf.int32), 3)
model.fit(tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size), epochs=int(sys.argv[1]))
model.save(os.environ["TFSPAWNER_OUTPUT"] + "/hlf.h5")
