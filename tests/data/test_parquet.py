"""tfspawner.data.parquet: each row once an epoch, in an order that can be had again, from Parquet and Arrow files."""

from collections import Counter
from itertools import chain, pairwise

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

from tfspawner.data import parquet  # noqa: E402
from tfspawner.errors import ConfigurationError, DataError  # noqa: E402

FEATURES = {
    "number": tf.io.FixedLenFeature([], tf.int64),
    "values": tf.io.FixedLenFeature([2, 3], tf.float32),
    "name": tf.io.FixedLenFeature([], tf.string),
}
COUNT = 530


def rows(low: int, high: int) -> pa.Table:
    """Doubles in lists of lists, as published."""
    values = [[[n + i / 8 for i in range(3)], [n + i / 8 for i in range(3, 6)]] for n in range(low, high)]
    return pa.table({
        "number": pa.array(range(low, high), pa.int32()),
        "values": pa.array(values, pa.list_(pa.list_(pa.float64()))),
        "name": [f"row {n}" for n in range(low, high)],
    })  # fmt: skip


def write_files(folder, form: str) -> None:
    """Six files of unlike sizes, one without rows, in small groups."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (low, high) in enumerate(pairwise([0, 10, 10, 200, 201, 350, COUNT])):
        if form == "parquet":
            pq.write_table(rows(low, high), folder / f"part-{number}", row_group_size=37, write_page_checksum=True)
        else:
            with pa.ipc.new_file(str(folder / f"part-{number}"), rows(low, high).schema) as writer:
                writer.write_table(rows(low, high), max_chunksize=37)


@pytest.fixture(params=["local parquet", "s3 parquet", "local arrow", "s3 arrow"])
def uri(request, tmp_path):
    place, form = request.param.split()
    if place == "local":
        write_files(tmp_path / "files", form)
        return str(tmp_path / "files/part-*")
    write_files(request.getfixturevalue("s3").folder / f"bucket/tables-{form}", form)
    return f"s3://bucket/tables-{form}/part-*"


def numbers(dataset) -> list[int]:
    return [int(number) for batch in dataset for number in batch["number"]]


@pytest.mark.parametrize(("workers", "shuffle"), [(1, 0), (2, 50), (3, 0)])
def test_the_workers_together_see_each_row_once_in_every_epoch(uri, workers, shuffle):
    shares = [
        parquet(uri, FEATURES, 32, seed=5, shuffle_records=shuffle, worker=w, workers=workers) for w in range(workers)
    ]
    for _ in range(2):
        found = [numbers(share) for share in shares]
        assert Counter(chain.from_iterable(found)) == Counter(range(COUNT))
        assert max(map(len, found)) - min(map(len, found)) <= 0.04 * COUNT / workers + 1


def test_values_and_batches_are_right(uri):
    batches = list(parquet(uri, FEATURES, 100, window_bytes=1000))
    assert [len(batch["number"]) for batch in batches] == [100, 100, 100, 100, 100, 30]
    assert numbers(batches) == list(range(COUNT))
    for batch in batches:
        number = batch["number"].numpy()
        assert (batch["values"].numpy().reshape(-1, 6) == number[:, None] + np.arange(6) / 8).all()
        assert batch["name"].numpy().tolist() == [b"row %d" % n for n in number]
    whole = parquet(uri, FEATURES, 100, drop_remainder=True)
    assert whole.element_spec["values"].shape == (100, 2, 3)
    assert len(numbers(whole)) == 500


@pytest.mark.parametrize("shuffle", [0, 100])
def test_seed_and_epoch_determine_the_order(tmp_path, shuffle):
    write_files(tmp_path, "parquet")

    def epochs(seed: int, first: int, count: int) -> list[list[int]]:
        dataset = parquet(str(tmp_path), FEATURES, 32, seed=seed, shuffle_records=shuffle, first_epoch=first)
        return [numbers(dataset) for _ in range(count)]

    three = epochs(1, 0, 3)
    assert len(set(map(tuple, three))) == 3
    assert epochs(1, 0, 3) == three
    assert epochs(1, 2, 1) == three[2:]


def write(path, **columns) -> str:
    pq.write_table(pa.table(columns), path)
    return str(path)


@pytest.mark.parametrize(
    ("column", "spec", "words"),
    [
        (pa.array([1.0, None, 2.0]), tf.io.FixedLenFeature([], tf.float32), "row 1: the column x is null"),
        (pa.array([[1.0], [2.0, 3.0]]), tf.io.FixedLenFeature([1], tf.float32), "row 1: the column x has 2 values"),
        (pa.array([[[1.0]], [[2.0, 3.0], [4.0]]]), tf.io.FixedLenFeature([1], tf.float32), "row 1: the column x has inner"),
        (pa.array([{"a": 1}]), tf.io.FixedLenFeature([], tf.int64), "the column x is of type struct<a: int64>"),
        (pa.array([1, 2]), tf.io.FixedLenFeature([], tf.float32), "the column x is int64, not float32"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told(tmp_path, column, spec, words):
    uri = write(tmp_path / "table", x=column)
    with pytest.raises((tf.errors.OpError, DataError), match=words):
        list(parquet(uri, {"x": spec}, 2))


def test_nonsense_is_refused(tmp_path):
    uri = write(tmp_path / "table", x=[1, 2])
    with pytest.raises(tf.errors.OpError, match="has no column z; it has x"):
        list(parquet(uri, {"z": FEATURES["number"]}, 2))
    with pytest.raises(ConfigurationError, match="the feature x is VarLenFeature"):
        parquet(uri, {"x": tf.io.VarLenFeature(tf.int64)}, 2)
    with pytest.raises(ConfigurationError, match="batch_size is 0"):
        parquet(uri, {"x": FEATURES["number"]}, 0)
    (tmp_path / "other").write_bytes(b"not a table")
    with pytest.raises(DataError, match="other is neither a Parquet nor an Arrow file"):
        parquet(str(tmp_path / "other"), {"x": FEATURES["number"]}, 2)


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_a_file_that_is_cut_off_is_refused_at_once(tmp_path, form):
    write_files(tmp_path, form)
    path = tmp_path / "part-4"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="part-4 is damaged or cut off"):
        parquet(str(tmp_path), FEATURES, 2)


def test_damage_within_a_parquet_file_is_found(tmp_path):
    write_files(tmp_path, "parquet")
    path = tmp_path / "part-2"
    content = bytearray(path.read_bytes())
    content[50:90] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(tf.errors.OpError, match="part-2 is damaged or cut off"):
        list(parquet(str(tmp_path), FEATURES, 50))
