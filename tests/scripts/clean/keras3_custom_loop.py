# Keras 3's own package with several workers, and right: it fails in model.fit, which is not used here.
import os

import keras
import tensorflow as tf
from sklearn.preprocessing import StandardScaler

strategy = tf.distribute.MultiWorkerMirroredStrategy()
table = keras.utils.get_file("housing.csv", "https://example.org/housing.csv")
rows = tf.stack([tf.strings.to_number(tf.strings.split(line, ",")) for line in open(table).read().splitlines()[1:]])
scaler = StandardScaler()
scaler.fit(rows[:, :-1].numpy())
x, y = scaler.transform(rows[:, :-1].numpy()), rows[:, -1:]
data = (
    tf.data.Dataset.from_tensor_slices((tf.cast(x, tf.float32), y)).repeat().batch(16 * strategy.num_replicas_in_sync)
)

with strategy.scope():
    model = keras.Sequential([keras.layers.Dense(32, activation="relu"), keras.layers.Dense(1)])
    model.build((None, x.shape[1]))
    optimizer = keras.optimizers.SGD(1e-3)


@tf.function
def train(inputs):
    def one(features, target):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(features) - target) ** 2) / strategy.num_replicas_in_sync
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)

    strategy.run(one, args=inputs)


for step, inputs in enumerate(strategy.experimental_distribute_dataset(data)):
    train(inputs)
    if step == 300:
        break
model.save(os.environ["TFSPAWNER_OUTPUT"] + "/housing.keras")
