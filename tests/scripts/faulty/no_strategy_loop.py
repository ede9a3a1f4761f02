# expect: no-strategy
import tensorflow as tf


class Regressor(tf.Module):
    def __init__(self):
        self.w = tf.Variable(tf.random.normal([16, 1]))
        self.b = tf.Variable(0.0)

    def __call__(self, x):
        return x @ self.w + self.b


def batches(n):
    for _ in range(n):
        x = tf.random.normal([128, 16])
        yield x, tf.reduce_sum(x, axis=1, keepdims=True)


def main():
    model = Regressor()
    for step, (x, y) in enumerate(batches(500)):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x) - y) ** 2)
        grads = tape.gradient(loss, model.trainable_variables)
        for var, grad in zip(model.trainable_variables, grads):
            var.assign_sub(0.05 * grad)
        if step % 100 == 0:
            print(step, float(loss))


if __name__ == "__main__":
    main()
