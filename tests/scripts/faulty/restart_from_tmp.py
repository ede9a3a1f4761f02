# expect: restart-path
# with: restarts=3 on=kubernetes
import os

import tensorflow as tf
from tensorflow.keras.callbacks import BackupAndRestore, TensorBoard

BACKUP = "/tmp/backup"
strategy = tf.distribute.MultiWorkerMirroredStrategy()
batch = 1024 * strategy.num_replicas_in_sync


def read(path):
    columns = [0.0] * 29
    lines = tf.data.TextLineDataset(path, compression_type="GZIP")
    return lines.map(lambda line: tf.stack(tf.io.decode_csv(line, columns))).map(lambda row: (row[1:], row[0]))


with strategy.scope():
    model = tf.keras.Sequential([tf.keras.layers.Dense(300, "relu") for _ in range(3)] + [tf.keras.layers.Dense(1)])
    model.compile("adam", tf.keras.losses.BinaryCrossentropy(from_logits=True))

logs = os.path.join(os.environ["TFSPAWNER_OUTPUT"], "logs")
model.fit(read("HIGGS.csv.gz").batch(batch), epochs=20, callbacks=[BackupAndRestore(BACKUP), TensorBoard(logs)])
model.save(os.path.join(os.environ["TFSPAWNER_OUTPUT"], "higgs.keras"))
