# with: workers=2 on=local
# Non-chief workers leave by sys.exit, but after the training and the saving.
import json
import os
import sys

import tensorflow as tf

task = json.loads(os.environ["TF_CONFIG"])["task"]
strategy = tf.distribute.MultiWorkerMirroredStrategy()
batch = 64 * strategy.num_replicas_in_sync
out = os.environ["TFSPAWNER_OUTPUT"]

with strategy.scope():
    model = tf.keras.Sequential([tf.keras.layers.Dense(50, "relu"), tf.keras.layers.Dense(2, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
x = tf.random.normal((6400, 10))
y = tf.cast(x[:, 0] > 0, tf.int32)
model.fit(tf.data.Dataset.from_tensor_slices((x, y)).repeat().batch(batch), epochs=2, steps_per_epoch=50)
model.save(out + "/model.keras")

if task["index"] != 0:
    sys.exit(0)

with open(out + "/report.json", "w") as report:
    json.dump({"parameters": model.count_params()}, report)
model.export("/eos/project/serving/two-classes")
