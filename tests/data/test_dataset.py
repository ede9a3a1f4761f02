"""tfspawner.data.tfrecords: each record once an epoch, in an order that can be had again."""

import gzip
import json
import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from tfspawner.data import tfrecords  # noqa: E402
from tfspawner.data.filesystems import File  # noqa: E402
from tfspawner.data.reading import read_records  # noqa: E402
from tfspawner.data.records import frame  # noqa: E402
from tfspawner.data.sharding import Part  # noqa: E402
from tfspawner.errors import ConfigurationError, DataError  # noqa: E402

FEATURES = {"number": tf.io.FixedLenFeature([], tf.int64), "values": tf.io.FixedLenFeature([2, 3], tf.float32)}
COUNT = 530


def example(number: int) -> bytes:
    features = {
        "number": tf.train.Feature(int64_list=tf.train.Int64List(value=[number])),
        "values": tf.train.Feature(float_list=tf.train.FloatList(value=[number + i / 8 for i in range(6)])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write_shards(folder, pack=bytes) -> None:
    """Seven files of unlike sizes, one of them empty."""
    folder.mkdir(parents=True, exist_ok=True)
    edges = [0, 10, 10, 200, 201, 350, 500, COUNT]
    for number, (low, high) in enumerate(pairwise(edges)):
        (folder / f"part-{number}").write_bytes(pack(b"".join(frame(example(i)) for i in range(low, high))))


def test_tensorflow_writes_what_is_read_without_it(tmp_path):
    records = [random.Random(number).randbytes(number * 37) for number in range(50)]
    path = tmp_path / "by-tensorflow"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    assert path.read_bytes() == b"".join(map(frame, records))
    size = path.stat().st_size
    assert [record for some in read_records([Part(File(str(path), size), 0, size)]) for record in some] == records


@pytest.fixture(params=["local", "s3", "local gzip", "s3 gzip"])
def uri(request, tmp_path):
    """The same records in each place and form."""
    place, _, form = request.param.partition(" ")
    pack = gzip.compress if form else bytes
    if place == "local":
        write_shards(tmp_path / "shards", pack)
        return str(tmp_path / "shards/part-*")
    server = request.getfixturevalue("s3")
    folder = f"data-{form or 'plain'}"
    write_shards(server.folder / "bucket" / folder, pack)
    return f"s3://bucket/{folder}/part-*"


def numbers(dataset) -> list[int]:
    return [int(number) for batch in dataset for number in batch["number"]]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_workers_together_see_each_record_once_in_every_epoch(uri, workers):
    shares = [
        tfrecords(uri, FEATURES, 32, seed=5, shuffle_records=50, worker=w, workers=workers) for w in range(workers)
    ]
    for _ in range(2):
        assert Counter(number for share in shares for number in numbers(share)) == Counter(range(COUNT))


def test_without_a_seed_the_order_is_the_files_and_the_values_are_right(uri):
    batches = list(tfrecords(uri, FEATURES, 100, window_bytes=4000))
    assert [len(batch["number"]) for batch in batches] == [100, 100, 100, 100, 100, 30]
    found = np.concatenate([batch["number"].numpy() for batch in batches])
    if uri.startswith("s3"):  # local files are read some at once
        assert found.tolist() == list(range(COUNT))
    for batch in batches:
        expected = batch["number"].numpy()[:, None] + np.arange(6) / 8
        assert (batch["values"].numpy().reshape(-1, 6) == expected.astype(np.float32)).all()


def test_seed_and_epoch_determine_the_order(uri):
    def epochs(seed: int, first: int, count: int) -> list[list[int]]:
        dataset = tfrecords(uri, FEATURES, 32, seed=seed, shuffle_records=100, first_epoch=first)
        return [numbers(dataset) for _ in range(count)]

    three = epochs(1, 0, 3)
    assert len(set(map(tuple, three))) == 3
    assert epochs(1, 0, 3) == three
    assert epochs(1, 2, 1) == three[2:]  # where training goes on
    assert epochs(2, 0, 1)[0] not in three


def test_a_worker_for_whom_nothing_is_left_gets_nothing(tmp_path):
    (tmp_path / "one").write_bytes(frame(example(1)))
    shares = [numbers(tfrecords(str(tmp_path / "one"), FEATURES, 4, worker=w, workers=20)) for w in range(20)]
    assert sorted(shares, reverse=True)[:2] == [[1], []]


def test_a_workers_share_comes_from_tf_config(uri, monkeypatch):
    seen = []
    for index in (0, 1):
        config = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": index}}
        monkeypatch.setenv("TF_CONFIG", json.dumps(config))
        seen.append(numbers(tfrecords(uri, FEATURES, 32)))
    assert sorted(seen[0] + seen[1]) == list(range(COUNT))
    assert min(map(len, seen)) > 0.3 * COUNT


def test_tensorflow_does_not_shard_it_again(uri):
    options = tfrecords(uri, FEATURES, 32).options()
    assert options.experimental_distribute.auto_shard_policy == tf.data.experimental.AutoShardPolicy.OFF


def test_a_local_file_cut_inside_a_records_header_is_refused_at_once(tmp_path):
    """TensorFlow takes such a cut for the file's end."""
    write_shards(tmp_path)
    path = tmp_path / "part-4"
    path.write_bytes(path.read_bytes()[: -len(frame(example(349))) + 5])
    assert len(list(tf.data.TFRecordDataset(str(path)))) == 148
    with pytest.raises(DataError, match="part-4 is cut off: the record at byte"):
        tfrecords(str(tmp_path / "part-*"), FEATURES, 32)


def test_damage_on_s3_names_shard_byte_and_record(s3):
    folder = s3.folder / "bucket/damaged"
    write_shards(folder)
    data = bytearray((folder / "part-2").read_bytes())
    data[3 * len(frame(example(12))) + 20] ^= 4
    (folder / "part-2").write_bytes(data)
    with pytest.raises(tf.errors.OpError, match=r"s3://bucket/damaged/part-2 is damaged: record 3 at byte \d+"):
        numbers(tfrecords("s3://bucket/damaged/part-*", FEATURES, 32))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"worker": 2, "workers": 2}, "worker is 2; it must be 0 to 1"),
        ({"workers": 2}, "worker is None"),
    ],
)
def test_nonsense_is_refused(tmp_path, values, words):
    write_shards(tmp_path)
    with pytest.raises(ConfigurationError, match=words):
        tfrecords(str(tmp_path / "part-*"), FEATURES, **{"batch_size": 1, **values})


@pytest.mark.parametrize("uri", ["ftp://host/file", "gopher://x"])
def test_an_unknown_scheme_is_told_with_the_known_ones(uri):
    with pytest.raises(ConfigurationError, match="there is no file system for"):
        tfrecords(uri, FEATURES, 1)
