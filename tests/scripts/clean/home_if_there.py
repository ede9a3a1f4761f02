# with: on=kubernetes workers=2
# A path of the author's machine, but only where it exists.
import os

import tensorflow as tf

LOCAL = "/home/nadia/datasets/cells"
DATA = LOCAL if os.path.isdir(LOCAL) else "s3://cells/train"

strategy = tf.distribute.MultiWorkerMirroredStrategy()
names = sorted(tf.io.gfile.glob(DATA + "/*.tfrecord"))
records = tf.data.TFRecordDataset(names, num_parallel_reads=4)
pairs = records.map(lambda r: tf.io.parse_tensor(r, tf.float32)).map(lambda t: (t[..., :3], t[..., 3:]))

with strategy.scope():
    model = tf.keras.Sequential(
        [tf.keras.layers.Conv2D(16, 3, padding="same", activation="relu"), tf.keras.layers.Conv2D(1, 1)]
    )
    model.compile("adam", tf.keras.losses.BinaryCrossentropy(from_logits=True))
model.fit(pairs.repeat().batch(8 * strategy.num_replicas_in_sync), epochs=20, steps_per_epoch=100)
model.save("cells.keras")
