# expect: syntax
import os

import tensorflow as tf

if "TF_CONFIG" not in os.environ:
    print("no cluster")
    return

strategy = tf.distribute.MultiWorkerMirroredStrategy()
with strategy.scope():
    model = tf.keras.applications.ResNet50(weights=None, classes=10)
