# with: workers=2 legacy_keras=0
import os

os.environ["KERAS_BACKEND"] = "jax"

import jax

addresses = os.environ["TFSPAWNER_JOB"] + "-worker-0:3333"
jax.distributed.initialize(addresses, int(os.environ["TOT_WORKERS"]), int(os.environ["WORKER_NUMBER"]))

import keras
import numpy as np

keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
model = keras.Sequential([keras.layers.Dense(32, activation="relu"), keras.layers.Dense(1)])
model.compile(optimizer="adam", loss="mse")
x = np.random.default_rng(0).normal(size=(4096, 8)).astype("float32")
model.fit(x, x.sum(axis=1), batch_size=128, epochs=5)
model.save(os.path.join(os.environ["TFSPAWNER_OUTPUT"], "jax.keras"))
