# with: workers=4 on=local
# The command file passes --index $WORKER_NUMBER, so the worker that saves to the shared place is one.
import argparse

import tensorflow as tf

parser = argparse.ArgumentParser()
parser.add_argument("--index", type=int, required=True)
parser.add_argument("--epochs", type=int, default=3)
options = parser.parse_args()

strategy = tf.distribute.MultiWorkerMirroredStrategy()
with strategy.scope():
    model = tf.keras.Sequential([tf.keras.layers.Dense(10, activation="relu"), tf.keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse")

x = tf.random.normal((12800, 9))
data = tf.data.Dataset.from_tensor_slices((x, tf.reduce_mean(x, 1))).repeat()
model.fit(data.batch(64 * strategy.num_replicas_in_sync), epochs=options.epochs, steps_per_epoch=50)
if options.index == 0:
    model.export("/data/serving/mean/1")
