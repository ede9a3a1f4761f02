# expect: shared-path
# with: on=local
import tensorflow as tf
import tensorflow_datasets as tfds

strategy = tf.distribute.experimental.MultiWorkerMirroredStrategy()
BUFFER_SIZE = 10000
BATCH_SIZE = 64 * strategy.num_replicas_in_sync


def scale(image, label):
    return tf.cast(image, tf.float32) / 255, label


datasets = tfds.load("mnist", as_supervised=True)
train = datasets["train"].map(scale).cache().shuffle(BUFFER_SIZE).batch(BATCH_SIZE)

with strategy.scope():
    multi_worker_model = tf.keras.Sequential(
        [tf.keras.layers.Flatten(input_shape=(28, 28, 1)), tf.keras.layers.Dense(10)]
    )
    multi_worker_model.compile(
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True), optimizer="sgd", metrics=["accuracy"]
    )

multi_worker_model.fit(x=train, epochs=3)
model_path = "/tmp/keras-model"
multi_worker_model.save(model_path)
