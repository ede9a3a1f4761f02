"""Damaged and crafted data files: each is read rightly or refused in one line that names it, in little memory."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from mutating import damaged

from tfspawner.data.encoding import Encoder, Encoding, expand, stored_features
from tfspawner.data.example import read_example, write_example
from tfspawner.data.records import frame

MOST_BYTES = 700 << 20  # of the reading process; its libraries alone take about 150 MB
ROWS = 12


def example(number: int, stored: str | None = None) -> bytes:
    rows = np.zeros((9, 3), np.float32)
    rows[:3] = number
    text = np.empty(2, object)
    text[:] = [b"some text", b"\xff" * number]
    record = {"rows": rows.ravel(), "label": np.array([number, -1, 300]), "text": text}
    encodings = [Encoding(name="rows", rows=9, width=3, stored=stored)] if stored else []
    return write_example(Encoder(encodings).encode(record, "here"))


def table() -> pa.Table:
    lists = [[float(i)] * (i % 4) for i in range(ROWS)]
    return pa.table(
        {
            "x": np.arange(ROWS, dtype=np.float32), "text": [f"text {i}" for i in range(ROWS)],
            "lists": lists, "deep": pa.array([[b"a", b"bc"]] * ROWS, pa.list_(pa.binary(), 2)),
            "whole": pa.array([None if i == 5 else i for i in range(ROWS)], pa.int32()), "yes": [True, False] * 6,
            "label": pa.array(["a", "b", None] * 4),
        }
    )  # fmt: skip


def arrow_bytes(new) -> bytes:
    sink = pa.BufferOutputStream()
    with new(sink, table().schema) as writer:
        writer.write_table(table(), max_chunksize=5)
    return sink.getvalue().to_pybytes()


def parquet_bytes(**options) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table(), sink, row_group_size=5, **options)
    return sink.getvalue().to_pybytes()


def feather_bytes() -> bytes:
    sink = pa.BufferOutputStream()
    pa.feather.write_feather(table(), sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def records(stored: str | None = None) -> list[bytes]:
    return [example(number, stored) for number in range(ROWS)]


FILES = {
    "tfrecord": b"".join(map(frame, records())),
    "gzip": gzip.compress(b"".join(map(frame, records()))),
    "parquet": parquet_bytes(write_page_checksum=True),
    "parquet-plain": parquet_bytes(compression="none", use_dictionary=False),
    "arrow": arrow_bytes(pa.ipc.new_file),
    "arrow-stream": arrow_bytes(pa.ipc.new_stream),
    "feather": feather_bytes(),
}


class Reader:
    """The process that reads; it is to end only when it is told to. All tests share it: its libraries take a second to load."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "data"
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("data_reader.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, env={**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"},
        )  # fmt: skip

    def read(self, data: bytes) -> dict[str, dict[str, object]]:
        """What came of each way to read the file; each is right, or an error that names the file."""
        if self.process.poll() is not None:  # another test has failed by that
            self.start()
        self.path.write_bytes(data)
        try:
            self.process.stdin.write(json.dumps({"path": str(self.path)}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except OSError:
            line = ""
        assert line, f"the process that read it ended with {self.process.wait()}: {self.process.stderr.read()[-2000:]}"
        reply = json.loads(line)
        assert reply.pop("peak_bytes") < MOST_BYTES
        for way, outcome in reply.items():
            assert "bug" not in outcome, f"{way}: {outcome['bug']}"
            words = outcome.get("error", str(self.path))
            assert str(self.path) in words or "record" in words
            assert len(words) < 1000
            assert words.isprintable()
        return reply

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()
        self.process.stderr.close()


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    made = Reader(tmp_path_factory.mktemp("read"))
    yield made
    made.close()


@pytest.mark.parametrize("kind", FILES)
def test_a_damaged_file_is_read_or_refused_and_nothing_else(fuzz, reader, kind):
    refused = 0
    for rng in fuzz.rounds(120):
        found = reader.read(damaged(FILES[kind], rng))
        refused += "error" in found["checked"]
        if kind in ("tfrecord", "gzip") and "found" in found["read"]:  # all is under checksums: what is read is right
            whole = [sum(map(len, read_example(record).values())) for record in records()]
            lengths = found["read"]["found"]
            assert all(length in whole for length in lengths)
    assert refused > fuzz.round // 3


@pytest.mark.parametrize("stored", [None, "float32", "float16", "bfloat16"])
def test_a_crafted_record_with_right_checksums_is_read_or_refused_and_nothing_else(fuzz, reader, stored):
    good = records(stored)
    for rng in fuzz.rounds(100 if stored == "float32" else 50):  # the others differ by how a number is stored
        made = [damaged(record, rng) if rng.random() < 0.3 else record for record in good]
        reader.read(b"".join(map(frame, made)))


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
def test_a_crafted_record_in_a_batch_leaves_the_others_as_they_are(fuzz, stored):
    tf = pytest.importorskip("tensorflow")
    encodings = {"rows": Encoding(name="rows", rows=9, width=3, stored=stored)}
    features = {"rows": tf.io.FixedLenFeature([9, 3], tf.float32), "label": tf.io.FixedLenFeature([3], tf.int64)}
    wanted = stored_features(features, encodings)
    good = example(7, stored)
    for rng in fuzz.rounds(60):
        try:
            parsed = tf.io.parse_example([good, damaged(example(3, stored), rng), good], wanted)
            rows = expand(parsed, features, encodings)["rows"].numpy()
        except (tf.errors.OpError, UnicodeDecodeError):  # TensorFlow shows the record as if it were text
            continue
        assert (rows[[0, 2], :3] == 7).all()
        assert (rows[[0, 2], 3:] == 0).all()
