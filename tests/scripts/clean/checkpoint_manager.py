# with: restarts=5 on=kubernetes workers=4
import os

import tensorflow as tf

strategy = tf.distribute.MultiWorkerMirroredStrategy()
folder = os.environ.get("TFSPAWNER_CHECKPOINTS", "checkpoints")
batch = 16 * strategy.num_replicas_in_sync

with strategy.scope():
    weights = tf.Variable(tf.zeros((10, 1)))
    step = tf.Variable(0, dtype=tf.int64)
checkpoint = tf.train.Checkpoint(weights=weights, step=step)
manager = tf.train.CheckpointManager(checkpoint, os.path.join(folder, "linear"), max_to_keep=2)
checkpoint.restore(manager.latest_checkpoint)

x = tf.random.normal((1600, 10), seed=1)
data = tf.data.Dataset.from_tensor_slices((x, tf.reduce_sum(x, 1, keepdims=True))).repeat().batch(batch)
batches = iter(strategy.experimental_distribute_dataset(data))


@tf.function
def update(inputs):
    def replica(features, target):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((features @ weights - target) ** 2)
        weights.assign_sub(0.1 * tape.gradient(loss, weights))

    strategy.run(replica, args=inputs)


while int(step) < 1000:
    update(next(batches))
    step.assign_add(1)
    if int(step) % 100 == 0:
        manager.save()
