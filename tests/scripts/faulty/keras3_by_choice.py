# expect: keras-3
# with: legacy_keras=0
import os

import tensorflow as tf
from tensorflow.keras.layers import LSTM, Dense, Embedding
from tensorflow.keras.models import Sequential

strategy = tf.distribute.experimental.MultiWorkerMirroredStrategy()
batch = 32 * strategy.num_replicas_in_sync

(x, y), _ = tf.keras.datasets.imdb.load_data(num_words=10000)
x = tf.keras.preprocessing.sequence.pad_sequences(x, maxlen=200)

with strategy.scope():
    net = Sequential([Embedding(10000, 64), LSTM(64), Dense(1, activation="sigmoid")])
    net.compile("adam", "binary_crossentropy", metrics=["accuracy"])

net.fit(x, y, batch_size=batch, epochs=2, validation_split=0.1)
net.save(os.environ["TFSPAWNER_OUTPUT"] + "/imdb.keras")
