# expect: no-restore
# with: restarts=2
import os

import tensorflow as tf

strategy = tf.distribute.MultiWorkerMirroredStrategy()
batch_size = 64 * strategy.num_replicas_in_sync
(x, y), (xt, yt) = tf.keras.datasets.cifar10.load_data()
train = tf.data.Dataset.from_tensor_slices((x / 255.0, y)).shuffle(50000).repeat().batch(batch_size)
test = tf.data.Dataset.from_tensor_slices((xt / 255.0, yt)).batch(batch_size)

with strategy.scope():
    model = tf.keras.applications.MobileNetV2(input_shape=(32, 32, 3), weights=None, classes=10)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])

stop = tf.keras.callbacks.EarlyStopping(patience=5)
model.fit(train, epochs=100, steps_per_epoch=50000 // batch_size, validation_data=test, callbacks=[stop])
model.save(os.path.join(os.environ["TFSPAWNER_OUTPUT"], "mobilenet.keras"))
