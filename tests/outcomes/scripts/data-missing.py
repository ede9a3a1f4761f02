import tensorflow as tf

for record in tf.data.TFRecordDataset("/eos/project/events/part-r-00000"):
    print(record)
