# expect: syntax
import tensorflow as tf

# Modell für die Kalibrierung
strategy = tf.distribute.MultiWorkerMirroredStrategy()
print(strategy.num_replicas_in_sync)
