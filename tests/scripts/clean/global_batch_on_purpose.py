# with: workers=4 on=kubernetes
# A batch that is not multiplied, since it is meant for all workers together, and says so by its name.
import os

import tensorflow as tf

GLOBAL_BATCH = 256

strategy = tf.distribute.MultiWorkerMirroredStrategy()
with strategy.scope():
    model = tf.keras.Sequential(
        [
            tf.keras.layers.Conv1D(32, 5, activation="relu"),
            tf.keras.layers.GlobalMaxPooling1D(),
            tf.keras.layers.Dense(4),
        ]
    )
    model.compile("adam", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
waves = tf.random.normal((8192, 128, 1))
kinds = tf.random.uniform((8192,), maxval=4, dtype=tf.int32)
data = tf.data.Dataset.from_tensor_slices((waves, kinds)).shuffle(8192).repeat().batch(GLOBAL_BATCH)
model.fit(data, epochs=3, steps_per_epoch=32)
model.save(os.environ["TFSPAWNER_OUTPUT"] + "/waves.keras")
