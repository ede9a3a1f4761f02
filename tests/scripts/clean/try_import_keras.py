# `import keras` only where there is no TensorFlow that has it; tensorflow_io only where it loads.
import os

import tensorflow as tf

try:
    from tensorflow import keras
except ImportError:
    import keras

try:
    import tensorflow_io as tfio
except Exception:
    tfio = None

strategy = tf.distribute.MultiWorkerMirroredStrategy()
batch = 32 * strategy.num_replicas_in_sync

with strategy.scope():
    model = keras.Sequential([keras.layers.Dense(12, activation="relu"), keras.layers.Dense(3)])
    model.compile(optimizer="adam", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))

files = tf.io.gfile.glob("gs://public/iris/*.tfrecord") if tfio else ["s3://public/iris.tfrecord"]
rows = tf.data.TFRecordDataset(files).map(lambda r: tf.io.parse_tensor(r, tf.float32))
model.fit(rows.map(lambda t: (t[:4], t[4])).repeat().batch(batch), epochs=5, steps_per_epoch=30)
model.save(os.environ["TFSPAWNER_OUTPUT"] + "/iris.keras")
