"""Loads a trained digits model and prints its accuracy on the test shard.

python examples/digits/evaluate.py runs/JOB/files/worker-0/model.keras

A model can bring code along that runs while it is loaded: checked_model refuses such files.
"""

import os
import sys

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # what several workers save is tf-keras's
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf
from train import dataset

import tfspawner


def main():
    path = sys.argv[1]
    model = tf.keras.models.load_model(tfspawner.checked_model(path), safe_mode=True)
    loss, accuracy = model.evaluate(dataset("test-*", 64, False), verbose=0)
    print(f"test accuracy {accuracy:.4f} (loss {loss:.4f}), model {path}")
    if accuracy <= 0.95:
        print("the accuracy is not over 0.95")
        sys.exit(1)


if __name__ == "__main__":
    main()
