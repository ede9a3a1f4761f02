# with: workers=3
# The model is made outside any `with strategy.scope()`: the tuner, which is given the strategy, opens it.
import os

import keras_tuner as kt
import tensorflow as tf

strategy = tf.distribute.MultiWorkerMirroredStrategy()


def build_model(hp):
    model = tf.keras.Sequential()
    for i in range(hp.Int("layers", 1, 3)):
        model.add(tf.keras.layers.Dense(hp.Int(f"units_{i}", 16, 128, step=16), activation="relu"))
    model.add(tf.keras.layers.Dense(1))
    model.compile(tf.keras.optimizers.Adam(hp.Float("lr", 1e-4, 1e-2, sampling="log")), "mse")
    return model


tuner = kt.RandomSearch(
    build_model,
    objective="val_loss",
    max_trials=20,
    distribution_strategy=strategy,
    directory=os.environ["TFSPAWNER_OUTPUT"],
)
x = tf.random.normal((5000, 9)).numpy()
y = (x**2).sum(1)
tuner.search(x, y, epochs=5, batch_size=64 * strategy.num_replicas_in_sync, validation_split=0.2)
best = tuner.get_best_models(1)[0]
best.fit(x, y, epochs=20, batch_size=64 * strategy.num_replicas_in_sync)
best.save(os.path.join(os.environ["TFSPAWNER_OUTPUT"], "best.keras"))
