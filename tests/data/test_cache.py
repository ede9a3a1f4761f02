"""The node-local cache: each block is fetched once, by whoever shares the folder, and never from a wrong version."""

import os
import random
import re
import signal
import subprocess
import sys
from collections import Counter

import pytest

from tfspawner.data.cache import BLOCK_BYTES, Cache
from tfspawner.data.filesystems import SCHEMES, list_files
from tfspawner.data.reading import read_records
from tfspawner.data.records import frame
from tfspawner.data.sharding import divide
from tfspawner.errors import ConfigurationError

URI = "s3://bucket/train/part-*"
READER = """
import hashlib, sys
from pathlib import Path
from tfspawner.data.cache import Cache
from tfspawner.data.filesystems import list_files
from tfspawner.data.reading import read_records
from tfspawner.data.sharding import divide
files = list_files(sys.argv[2])
cache = Cache(Path(sys.argv[1]), 1 << 30, files)
digest = hashlib.sha256()
for number in range(int(sys.argv[3])):
    for records in read_records(divide(files, 1)[0], read=cache.read):
        for record in records:
            digest.update(record)
        print("read", flush=True)
print(digest.hexdigest())
"""


@pytest.fixture
def logged(s3_with_a_log, monkeypatch):
    """A server that logs its requests, with 40 MB of records in three shards."""
    server, _ = s3_with_a_log
    for name, value in server.variables.items():
        monkeypatch.setenv(name, value)
    SCHEMES["s3"].cache_clear()
    (server.folder / "bucket/train").mkdir()
    numbers = random.Random(1)
    for shard, count in enumerate((900, 1500, 1600)):
        data = b"".join(frame(numbers.randbytes(10_000)) for _ in range(count))
        (server.folder / f"bucket/train/part-{shard}").write_bytes(data)
    yield server
    SCHEMES["s3"].cache_clear()


def fetched(server) -> Counter:
    """How often each object was read from the server, a block at a time."""
    text = (server.folder.parent / "requests").read_text()
    return Counter(re.findall(r"s3_GetObject (\S+)", text))


def start(tmp_path, passes=1) -> subprocess.Popen:
    command = [sys.executable, "-c", READER, tmp_path / "cache", URI, str(passes)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def blocks(server) -> int:
    return sum(-(-path.stat().st_size // BLOCK_BYTES) for path in (server.folder / "bucket/train").iterdir())


def records(cache=None) -> list[bytes]:
    read = cache.read if cache else None
    return [r for found in read_records(divide(list_files(URI), 1)[0], read=read) for r in found]


def test_processes_that_share_the_folder_fetch_each_block_once(logged, tmp_path):
    running = [start(tmp_path, 2), start(tmp_path, 2)]
    digests = {process.communicate(timeout=180)[0].splitlines()[-1] for process in running}
    assert len(digests) == 1
    assert sum(fetched(logged).values()) == blocks(logged)
    assert sorted(os.listdir(tmp_path / "cache")) == ["blocks", "locks"]


def test_one_that_is_killed_while_filling_harms_nobody(logged, tmp_path):
    killed = start(tmp_path)
    killed.stdout.readline()
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert records(Cache(tmp_path / "cache", 1 << 30, list_files(URI))) == records()


def test_what_a_killed_one_left_is_removed_when_it_is_old(logged, tmp_path):
    Cache(tmp_path / "cache", 1 << 30, [])
    old, new = (tmp_path / f"cache/blocks/{name}.0.1-1.part" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(bytes(100))
    os.utime(old, (1, 1))
    Cache(tmp_path / "cache", 1 << 30, [])
    assert (old.exists(), new.exists()) == (False, True)


def size_of(cache) -> int:
    return sum(path.stat().st_size for path in (cache / "blocks").iterdir())


def test_it_is_never_larger_than_its_bound_and_the_rest_is_read_from_afar(logged, tmp_path):
    bound = 5 * BLOCK_BYTES
    cache = Cache(tmp_path / "cache", bound, list_files(URI))
    expected = records()
    assert records(cache) == expected
    assert bound - BLOCK_BYTES < size_of(tmp_path / "cache") <= bound
    before = sum(fetched(logged).values())
    assert records(cache) == expected
    asked = sum(fetched(logged).values()) - before
    assert blocks(logged) - 6 <= asked < blocks(logged)


def test_another_version_of_an_object_is_fetched_anew(logged, tmp_path):
    client = SCHEMES["s3"]().s3
    for content in (b"a", b"b"):
        (tmp_path / "file").write_bytes(frame(content * 1000))
        client.put("bucket", "train/part-0", str(tmp_path / "file"))
        assert records(Cache(tmp_path / "cache", 1 << 30, list_files(URI)))[0] == content * 1000


def test_blocks_of_files_that_nobody_asks_for_make_room(logged, tmp_path):
    files = list_files(URI)
    bound = 4 * BLOCK_BYTES
    records(Cache(tmp_path / "cache", bound, files))
    full = size_of(tmp_path / "cache")
    Cache(tmp_path / "cache", bound, files)
    assert size_of(tmp_path / "cache") == full
    Cache(tmp_path / "cache", bound, [])
    assert size_of(tmp_path / "cache") <= bound // 2


def test_a_disk_that_is_full_is_no_failure(logged, tmp_path, monkeypatch):
    cache = Cache(tmp_path / "cache", 1 << 30, list_files(URI))
    (tmp_path / "cache/blocks").rmdir()  # nothing can be written there any more
    assert records(cache) == records()


@pytest.mark.parametrize(
    ("folder", "size", "words"), [("x", 100, "cache_bytes is 100"), ("file/x", 1 << 30, "cache .*file/x")]
)
def test_what_can_be_no_cache_is_refused(tmp_path, folder, size, words):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=words):
        Cache(tmp_path / folder, size, [])


def test_a_dataset_through_a_cache_is_the_same(s3, tmp_path):
    tf = pytest.importorskip("tensorflow")
    from tfspawner.data import tfrecords

    folder = s3.folder / "bucket/cached"
    folder.mkdir(exist_ok=True)
    value = tf.train.Feature(int64_list=tf.train.Int64List(value=[7]))
    example = tf.train.Example(features=tf.train.Features(feature={"x": value})).SerializeToString()
    (folder / "part-0").write_bytes(frame(example) * 1000)
    features = {"x": tf.io.FixedLenFeature([], tf.int64)}
    dataset = tfrecords("s3://bucket/cached/part-*", features, 100, cache=tmp_path / "cache")
    assert [int(tf.reduce_sum(batch["x"])) for _ in range(2) for batch in dataset] == [700] * 20
    (folder / "part-0").unlink()
    assert sum(1 for _ in dataset) == 10
