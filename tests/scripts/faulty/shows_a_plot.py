# expect: needs-terminal
# with: workers=1 on=kubernetes
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

x = np.linspace(-3, 3, 2000)[:, None]
y = np.sin(x) + np.random.normal(scale=0.1, size=x.shape)


def plot(history):
    fig, ax = plt.subplots()
    ax.plot(history.history["loss"], label="loss")
    ax.set_xlabel("epoch")
    ax.legend()
    plt.show()


model = tf.keras.Sequential([tf.keras.layers.Dense(64, "tanh"), tf.keras.layers.Dense(1)])
model.compile("adam", "mse")
history = model.fit(x, y, epochs=50, verbose=0)
plot(history)
model.save("sine.keras")
