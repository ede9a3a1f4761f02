# with: workers=2 on=local
# Horovod has no collective saving: that rank 0 alone saves is right there, and to /data too.
import horovod.tensorflow.keras as hvd
import tensorflow as tf

hvd.init()
for gpu in tf.config.list_physical_devices("GPU"):
    tf.config.experimental.set_memory_growth(gpu, True)

(images, labels), _ = tf.keras.datasets.mnist.load_data(path=f"mnist-{hvd.rank()}.npz")
dataset = tf.data.Dataset.from_tensor_slices((images[..., None] / 255.0, labels)).repeat().shuffle(10000).batch(128)
model = tf.keras.Sequential(
    [tf.keras.layers.Conv2D(32, 3, activation="relu"), tf.keras.layers.Flatten(), tf.keras.layers.Dense(10)]
)
optimizer = hvd.DistributedOptimizer(tf.keras.optimizers.Adam(0.001 * hvd.size()))
model.compile(tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True), optimizer=optimizer)
callbacks = [hvd.callbacks.BroadcastGlobalVariablesCallback(0), hvd.callbacks.MetricAverageCallback()]
if hvd.rank() == 0:
    callbacks.append(
        tf.keras.callbacks.ModelCheckpoint("/data/mnist/checkpoint-{epoch}.weights.h5", save_weights_only=True)
    )
model.fit(dataset, steps_per_epoch=500 // hvd.size(), callbacks=callbacks, epochs=24, verbose=int(hvd.rank() == 0))
if hvd.rank() == 0:
    model.save("/data/mnist/final.keras")
