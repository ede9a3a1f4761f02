# expect: one-machine-strategy
import tensorflow as tf
from tensorflow import keras

device = "/gpu:0" if tf.config.list_physical_devices("GPU") else "/cpu:0"
strategy = tf.distribute.OneDeviceStrategy(device)

with strategy.scope():
    inputs = keras.layers.Input((13,))
    hidden = keras.layers.Dense(64, activation="relu")(inputs)
    outputs = keras.layers.Dense(1)(hidden)
    model = keras.models.Model(inputs, outputs)
    model.compile(optimizer="rmsprop", loss="mse", metrics=["mae"])

(x, y), (xt, yt) = keras.datasets.boston_housing.load_data()
model.fit(x, y, epochs=50, batch_size=16, validation_data=(xt, yt), verbose=2)
model.save("housing.keras")
