"""Two workers train on shards in a bucket: each record comes to one of them, once an epoch."""

import re

import pytest

from tfspawner.data.records import frame

pytest.importorskip("tensorflow")
TRAINING = """
import os
import sys

import tensorflow as tf

from tfspawner.data import tfrecords

FEATURES = {"x": tf.io.FixedLenFeature([4], tf.float32), "number": tf.io.FixedLenFeature([], tf.int64)}
strategy = tf.distribute.MultiWorkerMirroredStrategy()
shards = tfrecords("s3://bucket/train/part-*", FEATURES, 64, seed=3, shuffle_records=100)
with strategy.scope():
    model = tf.keras.Sequential([tf.keras.layers.Dense(2)])
    model.compile("sgd", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.fit(shards.map(lambda batch: (batch["x"], batch["number"] % 2)), epochs=2, verbose=2)
print("saw", *(int(number) for batch in shards for number in batch["number"]))
"""


def write_shards(folder, counts) -> None:
    import tensorflow as tf

    folder.mkdir()
    number = 0
    for shard, count in enumerate(counts):
        records = []
        for _ in range(count):
            features = {
                "x": tf.train.Feature(float_list=tf.train.FloatList(value=[number, 1, 2, 3])),
                "number": tf.train.Feature(int64_list=tf.train.Int64List(value=[number])),
            }
            records.append(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
            number += 1
        (folder / f"part-{shard}").write_bytes(b"".join(map(frame, records)))


def test_two_workers_train_on_shards_in_a_bucket_with_keys_from_an_env_file(place, reachable_s3):
    write_shards(reachable_s3.folder / "bucket/train", [100, 700, 300])
    env_file = place.folder / "s3.env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in reachable_s3.variables.items()))
    done = place.run(place.script(TRAINING), "-w", "2", "-e", env_file, "--name", "shards", timeout_s=400)
    assert done.code == 0, done.err
    seen = [
        re.findall(r"^saw (.*)$", (place.runs / f"shards/logs/worker-{w}.log").read_text(), re.M)[0].split()
        for w in (0, 1)
    ]
    assert sorted(map(int, seen[0] + seen[1])) == list(range(1100))
    assert abs(len(seen[0]) - len(seen[1])) < 30
    assert "the-secret-key" not in done.out + done.err
