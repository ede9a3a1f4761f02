# expect: chief-saves
import os

import tensorflow as tf

strategy = tf.distribute.MultiWorkerMirroredStrategy()
chief = os.environ.get("TFSPAWNER_INDEX", "0") == "0"

callbacks = [tf.keras.callbacks.EarlyStopping(patience=3, monitor="loss")]
if chief:
    best = os.path.join(os.environ["TFSPAWNER_OUTPUT"], "best.keras")
    callbacks.append(tf.keras.callbacks.ModelCheckpoint(best, monitor="loss", save_best_only=True))
    callbacks.append(tf.keras.callbacks.CSVLogger(os.path.join(os.environ["TFSPAWNER_OUTPUT"], "log.csv")))

with strategy.scope():
    unet = tf.keras.models.load_model("unet-initial.keras")
    unet.compile(optimizer=tf.keras.optimizers.Adam(1e-4), loss="binary_crossentropy")

images = tf.data.experimental.load("tiles").shuffle(512).batch(8 * strategy.num_replicas_in_sync)
unet.fit(images, epochs=30, callbacks=callbacks, verbose=2)
