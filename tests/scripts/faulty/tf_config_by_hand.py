# expect: tf-config
import json
import os

os.environ["TF_CONFIG"] = json.dumps(
    {
        "cluster": {"worker": ["10.0.0.11:12345", "10.0.0.12:12345"]},
        "task": {"type": "worker", "index": 0},
    }
)

import tensorflow as tf

strategy = tf.distribute.MultiWorkerMirroredStrategy()
BATCH = 64 * strategy.num_replicas_in_sync

(x, y), _ = tf.keras.datasets.mnist.load_data()
with strategy.scope():
    model = tf.keras.Sequential([tf.keras.layers.Flatten(), tf.keras.layers.Dense(10)])
    model.compile("adam", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.fit(x / 255.0, y, batch_size=BATCH, epochs=2)
model.save(f"{os.environ['TFSPAWNER_OUTPUT']}/mnist.keras")
