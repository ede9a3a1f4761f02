# expect: restart-path
# with: restarts=1 on=local
import os

import tensorflow as tf

OUTPUT = os.environ["TFSPAWNER_OUTPUT"]
strategy = tf.distribute.MultiWorkerMirroredStrategy()
callbacks = [
    tf.keras.callbacks.BackupAndRestore(backup_dir=os.path.join(OUTPUT, "backup"), save_freq=100),
    tf.keras.callbacks.TerminateOnNaN(),
]
with strategy.scope():
    model = tf.keras.Sequential([tf.keras.layers.LSTM(50), tf.keras.layers.Dense(1)])
    model.compile(optimizer="adam", loss="mse")

series = tf.sin(tf.range(0.0, 500.0, 0.1))
windows = tf.keras.utils.timeseries_dataset_from_array(
    series[:-20, None], series[20:], sequence_length=20, batch_size=32 * strategy.num_replicas_in_sync
)
model.fit(windows, epochs=20, callbacks=callbacks)
model.save(os.path.join(OUTPUT, "sine.keras"))
