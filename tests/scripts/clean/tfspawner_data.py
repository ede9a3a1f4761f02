# with: workers=3 on=kubernetes
import os

import tensorflow as tf

import tfspawner.data

strategy = tf.distribute.MultiWorkerMirroredStrategy()
PER_WORKER = 128
shape = {"x": tf.io.FixedLenFeature([33], tf.float32), "y": tf.io.FixedLenFeature([1], tf.float32)}


def parse(records):
    batch = tf.io.parse_example(records, shape)
    return batch["x"], batch["y"]


train = tfspawner.data.tfrecords("root://eospublic.cern.ch//eos/opendata/jets/train-*.tfrecord", shuffle=True)
train = train.repeat().batch(PER_WORKER * strategy.num_replicas_in_sync).map(parse)
with strategy.scope():
    model = tf.keras.Sequential([tf.keras.layers.Dense(100, "elu"), tf.keras.layers.Dense(1, "sigmoid")])
    model.compile("adam", "binary_crossentropy", metrics=[tf.keras.metrics.AUC()])
model.fit(train, epochs=10, steps_per_epoch=500, verbose=2)
model.save(os.environ["TFSPAWNER_OUTPUT"] + "/jets.keras")
