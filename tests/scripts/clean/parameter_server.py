# with: workers=3 on=kubernetes
"""Servers wait, the coordinator trains: what it alone saves to a shared place is no race."""

import tensorflow as tf

resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()

if resolver.task_type in ("worker", "ps"):
    server = tf.distribute.Server(
        resolver.cluster_spec(), job_name=resolver.task_type, task_index=resolver.task_id, protocol="grpc", start=True
    )
    server.join()

strategy = tf.distribute.ParameterServerStrategy(
    resolver, variable_partitioner=tf.distribute.experimental.partitioners.MinSizePartitioner(max_shards=2)
)


def dataset_fn(context):
    batch = context.get_per_replica_batch_size(256)
    x = tf.random.uniform((4096, 10))
    ds = tf.data.Dataset.from_tensor_slices((x, tf.reduce_sum(x, 1)))
    return ds.shard(context.num_input_pipelines, context.input_pipeline_id).shuffle(4096).repeat().batch(batch)


with strategy.scope():
    model = tf.keras.Sequential([tf.keras.layers.Dense(64, "relu"), tf.keras.layers.Dense(1)])
    model.compile("sgd", "mse", steps_per_execution=10)
model.fit(tf.keras.utils.experimental.DatasetCreator(dataset_fn), epochs=5, steps_per_epoch=100)
model.save("/eos/project/ml/models/ps-model")
