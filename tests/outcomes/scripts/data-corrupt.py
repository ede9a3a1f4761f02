import tensorflow as tf

with tf.io.TFRecordWriter("shard") as writer:
    for _ in range(100):
        writer.write(b"x" * 1000)
with open("shard", "r+b") as file:
    file.seek(50_000)
    file.write(b"damage")
for _ in tf.data.TFRecordDataset("shard"):
    pass
