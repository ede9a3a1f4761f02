# with: workers=1
import tensorflow.compat.v1 as tf

tf.disable_v2_behavior()

x = tf.placeholder(tf.float32, [None, 20], name="x")
t = tf.placeholder(tf.float32, [None, 1], name="t")
with tf.variable_scope("net"):
    w = tf.get_variable("w", [20, 1], initializer=tf.truncated_normal_initializer(stddev=0.1))
    b = tf.get_variable("b", [1], initializer=tf.zeros_initializer())
y = tf.matmul(x, w) + b
loss = tf.reduce_mean(tf.square(y - t))
train = tf.train.AdamOptimizer(1e-2).minimize(loss)
saver = tf.train.Saver()

with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    for step in range(1000):
        import numpy as np

        batch = np.random.normal(size=(32, 20))
        session.run(train, {x: batch, t: batch.sum(1, keepdims=True)})
    saver.save(session, "checkpoints/model")
