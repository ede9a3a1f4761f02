# expect: outside-scope
import os

import numpy as np
import tensorflow as tf


class Autoencoder(tf.keras.Model):
    def __init__(self, latent):
        super().__init__()
        self.encoder = tf.keras.layers.Dense(latent, activation="relu")
        self.decoder = tf.keras.layers.Dense(784, activation="sigmoid")

    def call(self, x):
        return self.decoder(self.encoder(x))


def main():
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    (x, _), _ = tf.keras.datasets.mnist.load_data()
    x = x.reshape(-1, 784).astype(np.float32) / 255
    autoencoder = Autoencoder(32)
    with strategy.scope():
        autoencoder.compile(optimizer="adam", loss="mse")
    autoencoder.fit(x, x, batch_size=256 * strategy.num_replicas_in_sync, epochs=10)
    autoencoder.save_weights(os.path.join(os.environ["TFSPAWNER_OUTPUT"], "weights.h5"))


main()
