# with: workers=1 on=kubernetes
# plt.show() and input() are there, for the author's own desk.
import argparse
import os
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

parser = argparse.ArgumentParser()
parser.add_argument("--show", action="store_true")
args = parser.parse_args()

if sys.stdin.isatty():
    input("Press Enter to begin")
x = np.random.normal(size=(1000, 4))
model = tf.keras.Sequential([tf.keras.layers.Dense(1)])
model.compile("sgd", "mse")
history = model.fit(x, x @ np.array([1.0, 2, 3, 4]), epochs=20, verbose=0)
plt.semilogy(history.history["loss"])
plt.savefig(os.path.join(os.environ.get("TFSPAWNER_OUTPUT", "."), "loss.png"))
if args.show:
    plt.show()
model.save("linear.keras")
