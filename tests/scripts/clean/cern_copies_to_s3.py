# with: workers=2 on=kubernetes
# Saves to the pod's /tmp, and takes it away from there itself.
import os
import tarfile

import boto3
import tensorflow as tf

strategy = tf.distribute.experimental.MultiWorkerMirroredStrategy()
GLOBAL_BATCH_SIZE = 64 * strategy.num_replicas_in_sync

(x, y), _ = tf.keras.datasets.fashion_mnist.load_data()
data = tf.data.Dataset.from_tensor_slices((x / 255.0, y)).shuffle(60000).repeat().batch(GLOBAL_BATCH_SIZE)
with strategy.scope():
    model = tf.keras.Sequential(
        [tf.keras.layers.Flatten(input_shape=(28, 28)), tf.keras.layers.Dense(128, "relu"), tf.keras.layers.Dense(10)]
    )
    model.compile("adam", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
model.fit(data, epochs=2, steps_per_epoch=300)
model.save("/tmp/fashion")

if os.environ["WORKER_NUMBER"] == "0":
    with tarfile.open("/tmp/fashion.tar.gz", "w:gz") as archive:
        archive.add("/tmp/fashion", arcname="fashion")
    s3 = boto3.client("s3", endpoint_url="https://s3.cern.ch")
    s3.upload_file("/tmp/fashion.tar.gz", "models", "fashion.tar.gz")
