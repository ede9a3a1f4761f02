"""TensorFlow's own training through a lost worker: as many steps, and the same weights on every worker."""

from __future__ import annotations

import json
import re

SCRIPT = """
import hashlib, json, os, signal
import numpy as np, tensorflow as tf

strategy = tf.distribute.MultiWorkerMirroredStrategy()
index = os.environ["TFSPAWNER_INDEX"]

class Fault(tf.keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        print("begins epoch", epoch, flush=True)
    def on_train_batch_begin(self, batch, logs=None):
        if os.environ["TFSPAWNER_RESTART"] == "0" and index == os.environ["VICTIM"] and self.model.optimizer.iterations == 27:
            os.kill(os.getpid(), getattr(signal, os.environ["FAULT"]))

rng = np.random.default_rng(0)
x, y = rng.normal(size=(320, 8)).astype("float32"), rng.integers(0, 2, 320)
data = tf.data.Dataset.from_tensor_slices((x, y)).batch(32)
options = tf.data.Options()
options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
with strategy.scope():
    model = tf.keras.Sequential([tf.keras.layers.Dense(16, "relu", input_shape=(8,)), tf.keras.layers.Dense(2)])
    model.compile("adam", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
backup = tf.keras.callbacks.BackupAndRestore(os.environ["TFSPAWNER_CHECKPOINTS"])
model.fit(data.with_options(options), epochs=6, verbose=0, callbacks=[backup, Fault()])
weights = hashlib.sha256(b"".join(w.tobytes() for w in model.get_weights())).hexdigest()
print("ended at step", int(model.optimizer.iterations.numpy()), "with", weights, flush=True)
"""


def test_after_a_worker_was_killed_all_end_with_as_many_steps_and_the_same_weights(place):
    check(place, train(place, "3", "VICTIM=1", "FAULT=SIGKILL"), "restart 1 of 1: worker-1 was killed by SIGKILL")


def test_after_the_chief_was_frozen_too(place):
    check(place, train(place, "2", "VICTIM=0", "FAULT=SIGSTOP"), "restart 1 of 1: worker-")


def train(place, workers: str, victim: str, fault: str):
    script, once = place.script(SCRIPT), ("--restarts", "1", "--name", "trains")
    done = place.run(script, "-w", workers, "--env", victim, "--env", fault, *once)
    assert done.code == 0, done.err + done.out[-2000:]
    return done


def check(place, done, told: str) -> None:
    assert told in done.err
    ends = set()
    for log in (place.runs / "trains/logs").glob("*.log"):
        text = log.read_text()
        epochs = [int(n) for n in re.findall(r"begins epoch (\d+)", text)]
        assert epochs == [0, 1, 2, 2, 3, 4, 5], f"{log.name} trained the epochs {epochs}"
        ends.add(re.search(r"ended at (step \d+ with \w+)", text)[1])
    assert len(ends) == 1, ends
    assert ends.pop().startswith("step 60 ")
    times = json.loads((place.runs / "trains/report.json").read_text())["times"]
    assert times["running"] - times["forming"] < 15, "training went on late"
