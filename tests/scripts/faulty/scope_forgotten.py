# expect: outside-scope
import os

import tensorflow as tf
from tensorflow.keras import layers

strategy = tf.distribute.MultiWorkerMirroredStrategy()
global_batch_size = 64 * strategy.num_replicas_in_sync


def build():
    model = tf.keras.Sequential()
    model.add(layers.Dense(128, activation="relu", input_shape=(30,)))
    model.add(layers.Dropout(0.3))
    model.add(layers.Dense(2, activation="softmax"))
    model.compile(loss="sparse_categorical_crossentropy", optimizer="adam", metrics=["acc"])
    return model


def dataset():
    x = tf.random.uniform((5000, 30))
    y = tf.cast(tf.reduce_sum(x, 1) > 15, tf.int32)
    return tf.data.Dataset.from_tensor_slices((x, y)).shuffle(5000).repeat().batch(global_batch_size)


classifier = build()
classifier.fit(dataset(), epochs=3, steps_per_epoch=50)
classifier.save(os.environ["TFSPAWNER_OUTPUT"] + "/classifier.keras")
