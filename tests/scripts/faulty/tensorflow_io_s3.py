# expect: tensorflow-io
# with: workers=1
import os

import tensorflow as tf
import tensorflow_io as tfio  # noqa: F401  (s3://)

BUCKET = os.environ.get("BUCKET", "training")

names = tf.io.gfile.glob(f"s3://{BUCKET}/train-*.tfrecord")
ds = tf.data.TFRecordDataset(names)
ds = ds.map(lambda r: tf.io.parse_tensor(r, tf.float32)).map(lambda t: (t[1:], t[0])).batch(64)

model = tf.keras.Sequential([tf.keras.layers.Dense(32, activation="relu"), tf.keras.layers.Dense(1)])
model.compile("adam", "mse")
model.fit(ds, epochs=3)
model.save(os.environ["TFSPAWNER_OUTPUT"] + "/model.keras")
