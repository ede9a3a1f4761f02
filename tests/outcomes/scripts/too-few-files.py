import tensorflow as tf

strategy = tf.distribute.MultiWorkerMirroredStrategy()
with tf.io.TFRecordWriter("only-one") as writer:
    writer.write(b"x")
options = tf.data.Options()
options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.FILE
data = tf.data.TFRecordDataset(["only-one"]).with_options(options)
for batch in strategy.experimental_distribute_dataset(data.batch(2)):
    pass
