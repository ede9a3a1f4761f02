"""Reading training data: tfspawner.data against bare parallel GETs and TensorFlow's own recipe, on S3 and on disk.

Makes 3,200 records as published (HLF_input 14, GRU_input 801 x 19, encoded_label 3: 61,033 bytes) in 8 shards, and
one shard with all of them; serves them by versitygw, through slowlink (+10 ms, 36 MB/s a connection, 250 MB/s in all).
The same records are also read as `tf-spawner data convert` makes them smaller, and from Parquet.
Each measurement is a process of its own: a pass, and three that are timed. Needs Go. With

    python benchmarks/data.py --tfio VENV/bin/python

a Python that has tensorflow==2.16.* and tensorflow-io==0.37.1, TensorFlow's old native s3:// reader runs, too.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common import compare, until

HERE = Path(__file__).parent
ROUNDS = 5
SHARDS, RECORDS, RECORD_BYTES = 8, 3200, 61_033
ENCODE = ["--encode", "GRU_input=801x19"]
CONVERTED = {
    "lossless": ENCODE,
    "float16": [*ENCODE, "--dtype", "float16"],
    "parquet": ["--to", "parquet"],
}
KEYS = {"AWS_ACCESS_KEY_ID": "bench-key", "AWS_SECRET_ACCESS_KEY": "bench-secret-key"}

FEATURES = """
import glob, os, sys, time
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf
FEATURES = {"HLF_input": tf.io.FixedLenFeature([14], tf.float32), "GRU_input": tf.io.FixedLenFeature([801, 19], tf.float32),
            "encoded_label": tf.io.FixedLenFeature([3], tf.float32)}
"""
TIMED = """
def passed():
    began, first, count = time.monotonic(), None, 0
    for batch in dataset:
        first = first or time.monotonic() - began
        count += int(tf.nest.flatten(batch)[0].shape[0])
    return time.monotonic() - began, first, count
passed()
times, firsts, counts = zip(*(passed() for _ in range(3)))
print(sum(times) / 3, sum(firsts) / 3, counts[0], flush=True)
os._exit(0)  # tensorflow-io aborts at the end
"""
OURS = FEATURES + "from tfspawner.data import tfrecords\ndataset = tfrecords(sys.argv[1], FEATURES, 128)\n" + TIMED
PARQUET = OURS.replace("tfrecords", "parquet")
RECIPE = (
    FEATURES
    + """
if sys.argv[1].startswith("s3"):
    import tensorflow_io
def decode(record):
    found = tf.io.parse_single_example(record, FEATURES)
    return (found["GRU_input"], found["HLF_input"]), found["encoded_label"]
files = tf.data.Dataset.list_files(sys.argv[1], shuffle=False)
dataset = files.interleave(tf.data.TFRecordDataset, cycle_length=8, num_parallel_calls=tf.data.AUTOTUNE)
dataset = dataset.map(decode, num_parallel_calls=tf.data.AUTOTUNE).batch(128).prefetch(tf.data.AUTOTUNE)
"""
    + TIMED
)
PLUGGED = RECIPE.replace("import tensorflow_io", "from tfspawner.data import register; register()")
BARE = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from tfspawner.data.filesystems import filesystem_of, list_files
from tfspawner.data.reading import CHUNK_BYTES, WINDOW_BYTES
files, chunk = list_files(sys.argv[1]), CHUNK_BYTES
filesystem = filesystem_of(files[0].uri)
pieces = [(file.uri, at, min(chunk, file.size - at)) for file in files for at in range(0, file.size, chunk)]
def passed():
    began = time.monotonic()
    with ThreadPoolExecutor(WINDOW_BYTES // CHUNK_BYTES) as pool:
        size = sum(pool.map(lambda piece: len(filesystem.read(*piece)), pieces))
    return time.monotonic() - began, 0, size // 61033
passed()
times, firsts, counts = zip(*(passed() for _ in range(3)))
print(sum(times) / 3, 0, counts[0])
"""
MAKE = """
import sys
import numpy as np, tensorflow as tf
folder, shards, records = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
random = np.random.default_rng(1)
def floats(values): return tf.train.Feature(float_list=tf.train.FloatList(value=values))
for shard in range(shards):
    with tf.io.TFRecordWriter(f"{folder}/part-r-{shard:05}") as writer:
        for _ in range(records // shards):
            particles = np.full((801, 19), 0.123, np.float32)
            count = random.integers(100, 500)
            particles[:count] = random.normal(size=(count, 19))
            features = {"HLF_input": floats(random.normal(size=14)), "GRU_input": floats(particles.ravel()),
                        "encoded_label": floats([1, 0, 0])}
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
"""


@contextmanager
def running(*command: str, port: int, **options: object) -> Iterator[None]:
    """A server, once it accepts connections, until the end."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)  # type: ignore[call-overload]

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        until(answers, timeout_s=30, pause_s=0.05)
        yield
    finally:
        process.kill()
        process.wait()


def measure(python: str, code: str, uri: str, env: dict[str, str]) -> tuple[float, float]:
    """(seconds of a pass, seconds to its first batch)."""
    done = subprocess.run([python, "-c", code, uri], env={**os.environ, **env}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{uri}: {done.stderr[-2000:]}")
    seconds, first, count = map(float, done.stdout.split()[-3:])
    assert count == RECORDS, f"{uri}: {count} records came"
    return seconds, first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tfio", metavar="PYTHON", help="one with tensorflow==2.16.* and tensorflow-io==0.37.1")
    args = parser.parse_args()
    passed = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for module, package, binary in (
            (HERE.parent / "tests/tools", "github.com/versity/versitygw/cmd/versitygw", "versitygw"),
            (HERE / "slowlink", ".", "slowlink"),
        ):
            subprocess.run(["go", "build", "-o", folder / binary, package], cwd=module, check=True)
        for bucket, shards in (("eight", SHARDS), ("single", 1)):
            (folder / "s3" / bucket).mkdir(parents=True)
            subprocess.run(
                [sys.executable, "-c", MAKE, folder / "s3" / bucket, str(shards), str(RECORDS)],
                check=True,
                capture_output=True,
            )
        for name, options in CONVERTED.items():
            subprocess.run(
                [sys.executable, "-m", "tfspawner", "data", "convert", folder / "s3/eight", folder / "s3" / name, *options],
                check=True,
            )  # fmt: skip
        gateway = {
            **os.environ,
            "ROOT_ACCESS_KEY_ID": KEYS["AWS_ACCESS_KEY_ID"],
            "ROOT_SECRET_ACCESS_KEY": KEYS["AWS_SECRET_ACCESS_KEY"],
        }
        with (
            running(str(folder / "versitygw"), "--port", "127.0.0.1:7070", "--quiet", "--keep-alive", "posix", str(folder / "s3"),
                    port=7070, env=gateway),
            running(str(folder / "slowlink"), "-listen", "127.0.0.1:7171", "-to", "127.0.0.1:7070", port=7171),
        ):  # fmt: skip
            env = {**KEYS, "AWS_ENDPOINT_URL": "http://127.0.0.1:7171", "S3_ENDPOINT": "http://127.0.0.1:7171",
                   "S3_USE_HTTPS": "0", "S3_VERIFY_SSL": "0", "AWS_REGION": "us-east-1"}  # fmt: skip
            remote, local = "s3://eight/part-r-*", str(folder / "s3/eight/part-r-*")
            methods = {
                "tfspawner.data, distant S3": (sys.executable, OURS, remote, env),
                "bare parallel GETs": (sys.executable, BARE, remote, env),
                "tfspawner.data, one shard of 195 MB": (sys.executable, OURS, "s3://single/part-r-*", env),
                "the recipe, distant S3": (sys.executable, PLUGGED, remote, env),
                "tfspawner.data, local": (sys.executable, OURS, local, {}),
                "lossless, distant S3": (sys.executable, OURS, "s3://lossless/", env),
                "float16, distant S3": (sys.executable, OURS, "s3://float16/", env),
                "Parquet, distant S3": (sys.executable, PARQUET, "s3://parquet/", env),
                "lossless, local": (sys.executable, OURS, str(folder / "s3/lossless"), {}),
                "float16, local": (sys.executable, OURS, str(folder / "s3/float16"), {}),
                "Parquet, local": (sys.executable, PARQUET, str(folder / "s3/parquet"), {}),
                "the recipe, local": (sys.executable, RECIPE, local, {}),
            }
            if args.tfio:
                methods["TensorFlow 2.16's native s3://"] = (args.tfio, RECIPE, remote, env)
            seconds: dict[str, list[float]] = {title: [] for title in methods}
            first: dict[str, list[float]] = {title: [] for title in methods}
            for _ in range(ROUNDS):
                for title, how in methods.items():
                    took, start = measure(*how)
                    seconds[title].append(took)
                    first[title].append(start)

    def against(one: str, other: str, at_most: float | None) -> bool:
        return compare(f"{RECORDS} records: {one}", {one: seconds[one], other: seconds[other]}, at_most)

    passed &= against("tfspawner.data, distant S3", "bare parallel GETs", 1 / 0.9)
    against("the recipe, distant S3", "bare parallel GETs", None)
    if args.tfio:
        passed &= against("tfspawner.data, distant S3", "TensorFlow 2.16's native s3://", 1 / 2.7)
        passed &= against("float16, distant S3", "TensorFlow 2.16's native s3://", 1 / 10)
    passed &= against("tfspawner.data, local", "the recipe, local", 1 / 1.75)
    passed &= against("float16, local", "the recipe, local", 1 / 2.3)
    title = "tfspawner.data, one shard of 195 MB"
    passed &= compare("the first batch of 128", {title: first[title], "bound of 0.5 s": [0.5]}, 1.0)
    print(
        json.dumps({title: round(RECORDS / sorted(values)[len(values) // 2]) for title, values in seconds.items()}),
        "records/s",
    )
    sys.exit(not passed)


if __name__ == "__main__":
    main()
