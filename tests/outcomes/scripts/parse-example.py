import tensorflow as tf

record = tf.train.Example().SerializeToString()
tf.io.parse_single_example(record, {"HLF_input": tf.io.FixedLenFeature([14], tf.float32)})
