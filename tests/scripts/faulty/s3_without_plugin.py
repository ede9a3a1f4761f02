# expect: no-file-system
# with: s3_plugin=0 workers=1
import os

import tensorflow as tf

paths = ["s3://open-data/cms/a.tfrecord", "s3://open-data/cms/b.tfrecord"]
raw = tf.data.TFRecordDataset(paths, num_parallel_reads=2)
examples = raw.map(lambda r: tf.io.parse_tensor(r, tf.float32)).map(lambda t: (t[:-1], t[-1:]))

model = tf.keras.Sequential([tf.keras.layers.Dense(16, "relu"), tf.keras.layers.Dense(1)])
model.compile(optimizer="adam", loss="mse")
model.fit(examples.batch(128), epochs=2)
model.save(os.path.join(os.environ["TFSPAWNER_OUTPUT"], "cms.keras"))
