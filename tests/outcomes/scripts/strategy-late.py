import tensorflow as tf

print(tf.constant(1) + 1)
strategy = tf.distribute.MultiWorkerMirroredStrategy()
