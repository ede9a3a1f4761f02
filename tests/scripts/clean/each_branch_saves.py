# Saves under "if is_chief", and under its else too: all take part.
import os

import tensorflow as tf

strategy = tf.distribute.MultiWorkerMirroredStrategy()
index = int(os.environ.get("TFSPAWNER_INDEX", "0"))
is_chief = index == 0

with strategy.scope():
    model = tf.keras.applications.MobileNet(weights=None, input_shape=(64, 64, 3), classes=200)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])

data = tf.keras.utils.image_dataset_from_directory(
    "tiny-imagenet", image_size=(64, 64), batch_size=32 * strategy.num_replicas_in_sync
)
model.fit(data, epochs=10, verbose=2 if is_chief else 0)

if is_chief:
    model.save("/eos/project/vision/mobilenet.keras")
else:
    model.save(f"/tmp/scratch-{index}.keras")
