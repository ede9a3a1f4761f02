"""Data files that somebody made to do harm: right checksums, and descriptions that lie. All are refused in one line."""

import gzip
import struct
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from tfspawner.cli.data import data
from tfspawner.data import encoding, reading, tables
from tfspawner.data.checking import check_shard
from tfspawner.data.decoding import read_record
from tfspawner.data.example import read_example, write_example
from tfspawner.data.filesystems import list_files
from tfspawner.data.records import FOOTER, HEADER, frame, masked_crc
from tfspawner.data.statistics import records_of
from tfspawner.errors import DataError


def encoded(key: str, run=(0, 1), content: bytes = b"\0\0\0\0", **others) -> bytes:
    """A record whose feature x is stored as its key says."""
    values = np.empty(1, object)
    values[0] = content
    name = key.rsplit("/", 1)[-1]
    return write_example({f"tf-spawner/1/{key}": values, f"tf-spawner/run/{name}": np.array(run, np.int64), **others})


def shard(tmp_path, *records: bytes, name: str = "t.tfrecord"):
    path = tmp_path / name
    path.write_bytes(b"".join(map(frame, records)))
    return path


def called(*words: object) -> Result:
    """What `tf-spawner data` does with these words, in this process."""
    return CliRunner().invoke(data, [str(word) for word in words])


def refused(*words: object) -> str:
    """The one line that a command ends with, when it refuses its data."""
    done = called(*words)
    assert isinstance(done.exception, DataError), (done.exception, done.output)
    return done.exception.message


TINY_AND_HUGE = encoded("run/float32/1500000000x1/x", run=(0, 1500000000))


@pytest.mark.parametrize("command", ["check", "head", "stats", "convert"])
def test_a_tiny_record_that_would_take_gigabytes_is_refused_with_its_file_and_number(tmp_path, command):
    path = shard(tmp_path, write_example({"x": np.ones(1, np.float32)}), TINY_AND_HUGE)
    extra = {"convert": [tmp_path / "out.parquet"], "head": ["-n", "2"]}.get(command, [])
    tracemalloc.start()
    try:
        line = refused(command, path, *extra)
    finally:
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert f"{path}: record 1: x is said to be 1500000000x1" in line
    assert most < 100 << 20


def test_what_a_record_restores_to_is_bounded_for_all_its_features_together(monkeypatch):
    monkeypatch.setattr(encoding, "MOST_RESTORED_BYTES", 4000)
    one = {"x": "run/float32/500x1/x", "y": "run/float32/501x1/y"}
    both = read_example(encoded(one["x"], run=(0, 500))) | read_example(encoded(one["y"], run=(0, 501)))
    assert len(read_record(encoded(one["y"], run=(0, 501)), "r")["y"]) == 501
    with pytest.raises(DataError, match="r: y is said to be 501x1"):
        read_record(write_example(both), "r")


def test_a_large_record_may_restore_to_more_than_a_tiny_one(monkeypatch):
    monkeypatch.setattr(encoding, "MOST_RESTORED_BYTES", 4000)
    content = bytes(2 * 5000)
    whole = encoded("run/float16/5000x1/x", run=(0, 1), content=content)
    assert len(read_record(whole, "r")["x"]) == 5000


@pytest.mark.parametrize(
    "record",
    [
        encoded("run/float32/2x1/x", run=(0, 2, 5)),
        encoded("run/float32/2x1/x", run=(-1, 2)),
        encoded("run/float32/2x1/x", run=(1, 2)),
        encoded("run/float32/2x1/x", run=(0, 3)),
        encoded("run/float32/2x1/x", run=(0, 0)),
        encoded("run/float32/2x1/x", run=(0, -(2**63))),
        encoded("run/float32/2x1/x", run=(2**63 - 1, 2)),
        encoded("run/float32/2x1/x", run=(0, 2), content=b"\0" * 3),
        encoded("run/float32/0x1/x", run=(0, 1)),
        encoded("run/float32/1x0/x", run=(0, 1), content=b""),
        encoded(f"run/float32/{'9' * 5000}x1/x"),
        encoded("run/float32/٣x1/x"),
        encoded("run/float128/2x1/x"),
        encoded("run/float32/1x1/x", x=np.ones(1, np.float32)),
        write_example({"tf-spawner/1/run/float32/1x1/x": np.ones(1, np.float32), "tf-spawner/run/x": np.array([0, 1])}),
        write_example(
            {
                "tf-spawner/1/run/float32/1x1/x": np.array([b"1234"], object),
                "tf-spawner/run/x": np.array([0, 1], np.float32),
            }
        ),
        write_example({"tf-spawner/1/run/float32/1x1/x": np.array([b"1234"], object)}),
        write_example(
            {
                "tf-spawner/1/run/float32/1x1/x": np.array([b"1234"], object),
                "tf-spawner/1/run/float16/1x1/x": np.array([b"12"], object),
                "tf-spawner/run/x": np.array([0, 1]),
            }
        ),
    ],
)
def test_a_description_that_does_not_fit_its_record_is_refused_wherever_it_is_read(tmp_path, record):
    path = shard(tmp_path, record)
    with pytest.raises(DataError, match=r"^here"):
        read_record(record, "here")
    (file,) = list_files(str(path))
    error = check_shard(file).error
    assert error
    assert error.startswith(f"{path}: record 0")
    assert len(error) < 400


def test_a_check_looks_at_every_encoded_record(tmp_path):
    good = encoded("run/float32/2x1/x", run=(0, 2))
    path = shard(tmp_path, good, good, encoded("run/float32/2x1/x", run=(0, 3)))
    assert f"{path}: record 2: x is not as its encoding says" in refused("check", path)


@pytest.mark.parametrize("run", [(-1, 2), (1, 2), (0, 3), (0, 0), (0, 2 + 2**32), (2**32, 2)])
def test_in_a_batch_no_record_reaches_into_another(run):
    tf = pytest.importorskip("tensorflow")
    stored = encoding.Encoding(name="x", rows=2, width=1)
    features = {"x": tf.io.FixedLenFeature([2, 1], tf.float32)}
    wanted = encoding.stored_features(features, {"x": stored})
    good = encoded("run/float32/2x1/x", run=(0, 1), content=struct.pack("<2f", 1, 2))
    for content in (b"\0" * 4, b"\0" * 8):
        records = [good, encoded("run/float32/2x1/x", run=run, content=content), good]
        with pytest.raises(tf.errors.InvalidArgumentError, match="x is not as its encoding says"):
            encoding.expand(tf.io.parse_example(records, wanted), features, {"x": stored})


# ---- records and Examples


@pytest.mark.parametrize("value", [b"\xff" * 9 + b"\x7f", b"\xff" * 9 + b"\x01"])
def test_a_number_of_more_than_64_bits_is_cut_as_protobuf_cuts_it(value):
    for content in (b"\x08" + value, b"\x0a\x0a" + value):
        feature = b"\x1a" + bytes([len(content)]) + content
        entry = b"\x0a\x01x\x12" + bytes([len(feature)]) + feature
        features = b"\x0a" + bytes([len(entry)]) + entry
        assert read_example(b"\x0a" + bytes([len(features)]) + features)["x"].tolist() == [-1]


def test_a_record_that_says_it_is_longer_than_its_file_is_refused_before_the_file_is_read(tmp_path, monkeypatch):
    length = struct.pack("<Q", 1 << 60)
    path = tmp_path / "long.tfrecord"
    with path.open("wb") as file:
        file.write(length + FOOTER.pack(masked_crc(length)))
        file.truncate(200 << 20)
    asked = []
    read = reading.read_exactly
    monkeypatch.setattr(
        reading, "read_exactly", lambda f, at, size, *more: asked.append(size) or read(f, at, size, *more)
    )
    (file,) = list_files(str(path))
    with pytest.raises(DataError, match=r"long.tfrecord is cut off: record 0 at byte 0 should reach to byte"):
        reading.first_record(file)
    assert sum(asked) < 1 << 20


def test_a_gzip_stream_of_millions_of_records_comes_in_lists_of_a_few_megabytes(tmp_path):
    path = tmp_path / "bomb.tfrecord.gz"
    record = frame(bytes(1 << 20))
    path.write_bytes(gzip.compress(record, 1) * 60)
    assert path.stat().st_size < 300_000
    (file,) = list_files(str(path))
    lists = [len(found) for found in reading.read_records([reading.Part(file, 0, file.size)], gzipped=True)]
    assert (sum(lists), max(lists) <= 5) == (60, True)


def test_a_packed_record_that_says_it_is_gigabytes_long_is_refused(tmp_path):
    length = struct.pack("<Q", 1 << 40)
    path = tmp_path / "bomb.tfrecord.gz"
    path.write_bytes(gzip.compress(HEADER.pack(1 << 40, masked_crc(length)) + bytes(50 << 20)))
    tracemalloc.start()
    try:
        assert "record 0 at byte 0 says that it is 1,099,511,627,776 bytes long" in refused("check", path)
        assert tracemalloc.get_traced_memory()[1] < 30 << 20
    finally:
        tracemalloc.stop()


def test_records_without_values_cannot_fill_the_memory_when_they_become_parquet(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROWS_AT_ONCE_BYTES", 1 << 20)
    writer = tables.TableWriter(str(tmp_path / "out.parquet"), "parquet")
    for number in range(5000):
        writer.write({"x": np.empty(0, np.float32)}, f"record {number}")
        assert len(writer.waiting) < 3000
    writer.close()
    assert writer.rows == 5000


@pytest.mark.parametrize("name", ["[/bold]x", "[red]", "[link=http://x]y[/link]", "\\[b]"])
def test_a_feature_s_name_is_shown_as_it_is_and_never_taken_for_markup(tmp_path, name):
    path = shard(tmp_path, write_example({name: np.ones(1, np.float32)}))
    for command in ("stats", "head", "ls"):
        done = called(command, path, *["--records"] * (command == "ls"))
        assert (done.exit_code, done.exception) == (0, None)
        assert name in done.output


def test_statistics_of_ever_new_features_end_at_a_bound(tmp_path, monkeypatch):
    from tfspawner.data import statistics

    monkeypatch.setattr(statistics, "MOST_FEATURES", 50)
    path = shard(tmp_path, *(write_example({f"x{number}": np.ones(1, np.float32)}) for number in range(51)))
    assert f"{path}: more than 50 features" in refused("stats", path)
    assert len(list(records_of(list_files(str(path))[0]))) == 51


# ---- Parquet and Arrow


def arrow_file(path, **columns):
    table = pa.table(columns)
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write(table)
    return path


def with_offsets(path, old: list[int], new: list[int], kind: str = "<i4"):
    """The file with other offsets of a text or list column."""
    data = path.read_bytes()
    before, after = np.array(old, kind).tobytes(), np.array(new, kind).tobytes()
    assert data.count(before) == 1
    path.write_bytes(data.replace(before, after))
    return path


@pytest.mark.parametrize(
    ("command", "new"),
    [
        ("check", [0, 100, 9, 14, 2**31 - 1]),
        ("head", [0, 3, 9, 14, 2**30]),
        ("stats", [0, -4, 9, 14, 20]),
        ("convert", [5, 3, 2, 1, 0]),
    ],
)
def test_damaged_offsets_of_texts_are_refused_before_anybody_follows_them(tmp_path, command, new):
    path = arrow_file(tmp_path / "t.arrow", text=["abc", "abcdef", "abcde", "abcdef"], x=[1, 2, 3, 4])
    with_offsets(path, [0, 3, 9, 14, 20], new)
    line = refused(command, path, *[tmp_path / "out.tfrecord"] * (command == "convert"))
    assert f"{path} is damaged or cut off in its rows from 0 of group 0 on: Column 0: In chunk 0: " in line


def test_damaged_offsets_of_lists_are_refused(tmp_path):
    path = arrow_file(tmp_path / "t.arrow", x=[[1.0, 2.0, 3.0], [1.0] * 6, [2.0] * 5, [3.0] * 6])
    with_offsets(path, [0, 3, 9, 14, 20], [0, 3, 9, 1 << 30, 1 << 30])
    assert f"{path} is damaged or cut off in its rows from 0 of group 0" in refused("head", path)


def test_texts_that_are_no_utf8_are_refused_in_both_formats(tmp_path):
    texts = pa.array([b"abc", b"\xff\xfe\xfd"])
    wrong = pa.Array.from_buffers(pa.string(), 2, texts.buffers())
    path = arrow_file(tmp_path / "t.arrow", text=wrong)
    assert "Invalid UTF8 sequence" in refused("head", path)
    pq.write_table(pa.table({"text": wrong}), tmp_path / "t.parquet")
    assert "Invalid UTF8 sequence" in refused("head", tmp_path / "t.parquet")


def test_a_few_bytes_of_parquet_that_stand_for_millions_of_values_come_in_pieces(tmp_path, monkeypatch):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"x": np.zeros(3_000_000)}), path, row_group_size=3_000_000)
    assert path.stat().st_size < 20_000
    monkeypatch.setattr(tables, "BATCH_BYTES", 1 << 20)
    (file,) = list_files(str(path))
    pieces = [count for _, count, _ in tables.read_columns(reading.Part(file, 10, 2_999_990))]
    assert (sum(pieces), max(pieces) <= 131072) == (2_999_980, True)


def test_a_footer_whose_rows_do_not_add_up_is_refused(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"x": [1] * 7}), path, version="2.6")
    data = bytearray(path.read_bytes())
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    at = data.index(b"\x16\x0e\x19\x1c", footer)  # num_rows: 7, before the list of groups
    data[at + 1] = 2 * 8
    path.write_bytes(data)
    assert "its footer tells of 8 rows, and 7 in groups" in refused("head", path)


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"])
    pq.write_table(table, tmp_path / "t.parquet")
    assert "t.parquet has the column x twice" in refused("head", tmp_path / "t.parquet")
