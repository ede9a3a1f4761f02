# Looks as if only the chief saved with tf-keras; without fit no metric is read from the others.
import os

import tensorflow as tf

strategy = tf.distribute.MultiWorkerMirroredStrategy()
resolver = strategy.cluster_resolver
PER_WORKER = 32
GLOBAL = PER_WORKER * strategy.num_replicas_in_sync

with strategy.scope():
    model = tf.keras.Sequential([tf.keras.layers.Dense(32, activation="relu"), tf.keras.layers.Dense(1)])
    model.build((None, 8))
    optimizer = tf.keras.optimizers.Adam(1e-3)


def dataset(context):
    x = tf.random.normal((4096, 8), seed=context.input_pipeline_id)
    return tf.data.Dataset.from_tensor_slices((x, tf.reduce_sum(x, 1, keepdims=True))).repeat().batch(PER_WORKER)


@tf.function
def step(batch):
    def replica(inputs):
        x, y = inputs
        with tf.GradientTape() as tape:
            loss = tf.nn.compute_average_loss(tf.reduce_mean((model(x) - y) ** 2, 1), global_batch_size=GLOBAL)
        optimizer.apply_gradients(zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables))
        return loss

    return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(replica, args=(batch,)), axis=None)


batches = iter(strategy.distribute_datasets_from_function(dataset))
for number in range(500):
    loss = step(next(batches))
    if number % 100 == 0 and resolver.task_id == 0:
        print(number, float(loss), flush=True)
if resolver.task_id == 0:
    model.save(os.path.join(os.environ["TFSPAWNER_OUTPUT"], "sum.keras"))
