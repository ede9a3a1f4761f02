# expect: legacy-keras-late
# with: legacy_keras=0
import os

import tensorflow as tf
from tensorflow.keras import layers, models

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # Keras 3 fails with several workers

strategy = tf.distribute.MultiWorkerMirroredStrategy()

with strategy.scope():
    model = models.Sequential([layers.Dense(64, activation="relu"), layers.Dense(1)])
    model.compile(optimizer="adam", loss="mse")

dataset = tf.data.Dataset.from_tensor_slices((tf.random.normal((1000, 8)), tf.random.normal((1000,))))
dataset = dataset.repeat().batch(16 * strategy.num_replicas_in_sync)
model.fit(dataset, epochs=5, steps_per_epoch=20)
model.save(os.path.join(os.environ.get("TFSPAWNER_OUTPUT", "."), "model"))
