# expect: no-file-system
# with: on=kubernetes
import os

import tensorflow as tf

NAMENODE = "hdfs://analytix.example.org"
FILES = [f"{NAMENODE}/user/ml/events/part-{i:05d}.tfrecord" for i in range(16)]

strategy = tf.distribute.MultiWorkerMirroredStrategy()


def parse(record):
    fields = {"f": tf.io.FixedLenFeature([12], tf.float32), "t": tf.io.FixedLenFeature([1], tf.float32)}
    parsed = tf.io.parse_single_example(record, fields)
    return parsed["f"], parsed["t"]


validation = tf.data.TFRecordDataset(NAMENODE + "/user/ml/events/validation.tfrecord").map(parse).batch(256)
train = tf.data.TFRecordDataset(FILES).map(parse).batch(256 * strategy.num_replicas_in_sync)
with strategy.scope():
    model = tf.keras.Sequential([tf.keras.layers.Dense(64, "relu"), tf.keras.layers.Dense(1)])
    model.compile("adam", "mse")
model.fit(train, validation_data=validation, epochs=4)
model.save(os.environ["TFSPAWNER_OUTPUT"] + "/m.keras")
