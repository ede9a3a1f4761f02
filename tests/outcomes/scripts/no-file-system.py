import tensorflow as tf

for record in tf.data.TFRecordDataset("hdfs://namenode/events/part-r-00000"):
    print(record)
