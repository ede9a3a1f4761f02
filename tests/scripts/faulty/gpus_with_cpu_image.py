# expect: cpu-image
# with: gpus=1 on=kubernetes
import os

import tensorflow as tf

for gpu in tf.config.list_physical_devices("GPU"):
    tf.config.experimental.set_memory_growth(gpu, True)

strategy = tf.distribute.MultiWorkerMirroredStrategy(
    communication_options=tf.distribute.experimental.CommunicationOptions(
        implementation=tf.distribute.experimental.CommunicationImplementation.NCCL
    )
)
batch = 256 * strategy.num_replicas_in_sync
(x, y), (xt, yt) = tf.keras.datasets.cifar100.load_data()
with strategy.scope():
    model = tf.keras.applications.EfficientNetB0(weights=None, input_shape=(32, 32, 3), classes=100)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(x, y, batch_size=batch, epochs=40, validation_data=(xt, yt))
model.save(os.environ["TFSPAWNER_OUTPUT"] + "/effnet.keras")
