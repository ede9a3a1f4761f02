# expect: chief-saves
import os

import tensorflow as tf
from tensorflow import keras


def is_chief(strategy):
    resolver = strategy.cluster_resolver
    return resolver.task_type in (None, "chief") or resolver.task_id == 0


def save(model, strategy):
    if not is_chief(strategy):
        return
    path = os.path.join(os.environ["TFSPAWNER_OUTPUT"], "translator.keras")
    model.save(path)
    print("saved to", path)


def build_model(vocabulary=8000, units=128):
    model = keras.Sequential(
        [keras.layers.Embedding(vocabulary, units), keras.layers.GRU(units), keras.layers.Dense(vocabulary)]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def main():
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        model = build_model()
    tokens = tf.random.uniform((4096, 21), maxval=8000, dtype=tf.int32)
    data = tf.data.Dataset.from_tensor_slices((tokens[:, :-1], tokens[:, -1]))
    model.fit(data.batch(32 * strategy.num_replicas_in_sync), epochs=2)
    save(model, strategy)


if __name__ == "__main__":
    main()
