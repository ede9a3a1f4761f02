# with: on=local restarts=2
# Every worker gives ModelCheckpoint the same path: tf-keras itself keeps the chief's file alone.
import os

import tensorflow as tf

CHECKPOINTS = "/eos/project/tracking/checkpoints"

strategy = tf.distribute.MultiWorkerMirroredStrategy()
batch = 128 * strategy.num_replicas_in_sync
callbacks = [
    tf.keras.callbacks.ModelCheckpoint(CHECKPOINTS + "/epoch-{epoch:03d}.keras", save_best_only=True, monitor="loss"),
    tf.keras.callbacks.BackupAndRestore(os.path.join(CHECKPOINTS, "backup")),
    tf.keras.callbacks.TensorBoard(CHECKPOINTS + "/logs"),
]
with strategy.scope():
    model = tf.keras.Sequential(
        [tf.keras.layers.Bidirectional(tf.keras.layers.GRU(64)), tf.keras.layers.Dense(6, activation="linear")]
    )
    model.compile(optimizer="adam", loss="mse")
hits = tf.random.normal((10000, 20, 3))
helix = tf.random.normal((10000, 6))
data = tf.data.Dataset.from_tensor_slices((hits, helix)).repeat().batch(batch)
model.fit(data, epochs=30, steps_per_epoch=10000 // batch, callbacks=callbacks)
