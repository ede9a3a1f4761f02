"""`tf-spawner data convert` and `stats`: nothing is lost on the way, and nothing half done looks whole."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from in_process import called
from published import record, write_published

from tfspawner.data import convert as conversion
from tfspawner.data.convert import Options, convert
from tfspawner.data.example import read_example, write_example
from tfspawner.data.filesystems import list_files
from tfspawner.data.reading import first_record, read_records
from tfspawner.data.records import frame
from tfspawner.data.sharding import Part
from tfspawner.data.statistics import records_of, summarize
from tfspawner.data.tables import read_columns
from tfspawner.errors import DataError

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402


def data(*words, before=None) -> subprocess.CompletedProcess:
    """What the command says; by a process of its own only where something is to be done in it before."""
    if not before:
        return called("data", *words)
    command = [sys.executable, "-m", "tfspawner", "data", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, preexec_fn=before)


@pytest.fixture(scope="module")
def pool():
    with conversion._pool(2) as made:
        yield made


@pytest.fixture
def shared_pool(pool, monkeypatch):
    """Conversions take the module's processes, and need not wait until their own have imported all.

    Not for one to or from a bucket, whose keys these do not know, nor for one that leaves work behind as it fails.
    """
    lent = SimpleNamespace(submit=pool.submit, shutdown=lambda **_: None)
    monkeypatch.setattr(conversion, "_pool", lambda jobs: nullcontext(lent))


def converted(*words, **options) -> str:
    done = data("convert", "-j", "1", *words, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def raw(uri) -> list[bytes]:
    """The records of TFRecord files, as they stand there."""
    found = []
    for file in list_files(str(uri)):
        if file.size:
            reading = read_records([Part(file, 0, file.size)], gzipped=first_record(file)[0])
            found += [record for records in reading for record in records]
    return found


def names(folder) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.fixture
def published(tmp_path):
    return write_published(tmp_path / "published")


@pytest.mark.parametrize("form", ["parquet", "arrow"])
@pytest.mark.parametrize("place", ["local", "s3"])
def test_there_and_back_the_records_are_the_same_bytes(place, form, published, tmp_path, request):
    there, back = str(tmp_path / "there"), str(tmp_path / "back")
    if place == "s3":
        request.getfixturevalue("s3")
        there, back = f"s3://bucket/there-{form}", f"s3://bucket/back-{form}"
    converted(published, there, "--to", form)
    converted(there, back, "--shards", "3")
    assert raw(back) == raw(published)
    assert [file.uri.rsplit("/")[-1] for file in list_files(back)] == [
        f"part-{n:05}-of-00003.tfrecord" for n in range(3)
    ]


FEATURE = (
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4).map(lambda v: np.array(v, np.int64))
    | st.lists(st.floats(width=32), max_size=4).map(lambda v: np.array(v, np.float32))
    | st.lists(st.binary(max_size=4), max_size=4).map(lambda v: np.array([*v, None], object)[:-1])
)


@given(st.dictionaries(st.text(max_size=5), FEATURE))
def test_an_example_is_written_as_it_is_read(features):
    found = read_example(write_example(features))
    assert list(found) == list(features)
    for name, values in features.items():
        assert found[name].dtype == values.dtype
        if values.dtype == np.float32:
            assert (found[name].view(np.uint32) == values.view(np.uint32)).all()
        else:
            assert found[name].tolist() == values.tolist()


@given(features=st.dictionaries(st.text(min_size=1, max_size=5), FEATURE))
def test_tensorflow_reads_the_examples_that_are_written(features):
    tf = pytest.importorskip("tensorflow")
    found = tf.train.Example.FromString(write_example(features)).features.feature
    kinds = {"int64": "int64_list", "float32": "float_list", "object": "bytes_list"}
    for name, values in features.items():
        seen = getattr(found[name], kinds[str(values.dtype)]).value
        np.testing.assert_array_equal(np.array(seen, values.dtype), values)


@pytest.mark.usefixtures("shared_pool")
def test_encoded_and_plain_again_the_records_are_the_same_bytes(published, tmp_path):
    small, plain, table = tmp_path / "small", tmp_path / "plain", tmp_path / "table.parquet"
    said = converted(published, small, "--encode", "GRU_input=801x19")
    assert said.startswith("4 files, 40 records, 2.3 MiB became 4 files, ")
    assert "changed" not in said
    assert sum(file.size for file in list_files(str(small))) < 0.55 * 40 * 61049
    converted(small, plain, "-e", "none")
    assert raw(plain) == [write_example(record(number)) for number in range(40)]
    converted(small, table)
    assert len(pq.read_table(table)["GRU_input"][39]) == 801 * 19


@pytest.mark.usefixtures("shared_pool")
def test_smaller_numbers_are_said_to_lose(published, tmp_path):
    said = converted(published, tmp_path / "small", "-e", "GRU_input=801x19", "--dtype", "float16")
    assert "; float16 changed values by 0.0" in said
    again = converted(tmp_path / "small", tmp_path / "again", "--shards", "1")  # as they are
    assert "changed" not in again
    assert raw(tmp_path / "again") == raw(tmp_path / "small")


@pytest.mark.usefixtures("shared_pool")
def test_a_value_that_overflows_names_feature_record_and_value(tmp_path):
    features = [{"x": np.float32([1, 2, 3, 4])}, {"x": np.float32([1, 2, 3, 1e6])}]
    (tmp_path / "source").write_bytes(b"".join(frame(write_example(f)) for f in features))
    words = (tmp_path / "source", tmp_path / "out", "-e", "x=2x2", "--dtype", "float16")
    done = data("convert", *words)
    assert done.returncode == 4
    assert f"{tmp_path}/source: record 1: x has 1e+06, which becomes infinite in float16" in done.stderr
    assert names(tmp_path / "out") == []
    assert "1 values became infinite" in converted(*words, "--overflow")


@pytest.mark.usefixtures("shared_pool")
def test_gzipped_files_both_ways(published, tmp_path):
    converted(published, tmp_path / "packed", "--gzip")
    assert names(tmp_path / "packed")[0] == "part-00000-of-00004.tfrecord.gz"
    converted(tmp_path / "packed", tmp_path / "one.tfrecord")
    assert raw(tmp_path / "packed") == raw(tmp_path / "one.tfrecord") == raw(published)
    done = data("convert", tmp_path / "packed", tmp_path / "more", "--shards", "5")
    assert (done.returncode, "4 gzipped files cannot become 5 shards" in done.stderr) == (2, True)


@pytest.mark.usefixtures("shared_pool")
def test_cerns_tables_of_doubles_become_the_published_records(tmp_path):
    events = [record(number) for number in range(5)]
    table = pa.table({
        "HLF_input": pa.array([e["HLF_input"] for e in events], pa.list_(pa.float64())),
        "GRU_input": pa.array([e["GRU_input"].reshape(801, 19).tolist() for e in events], pa.list_(pa.list_(pa.float64()))),
        "encoded_label": pa.array([e["encoded_label"] for e in events], pa.list_(pa.float64())),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "events.parquet", row_group_size=2)
    said = converted(tmp_path / "events.parquet", tmp_path / "out", "--shards", "2")
    assert "changed" not in said  # they were float32 before
    assert raw(tmp_path / "out") == [write_example(event) for event in events]
    assert {len(frame(content)) for content in raw(tmp_path / "out")} == {61033}


@pytest.mark.usefixtures("shared_pool")
def test_doubles_that_lose_are_told(tmp_path):
    pq.write_table(pa.table({"x": [0.1, 1.5]}), tmp_path / "t.parquet")
    assert "; float32 changed values by 1.49e-09 or 1.49e-08" in converted(tmp_path / "t.parquet", tmp_path / "out")


LARGE = [[1.0, 2.0], [], [float("inf"), float("nan"), -1e300]]  # what was infinite before is not lost


@pytest.mark.usefixtures("shared_pool")
@pytest.mark.parametrize("form", ["parquet", "arrow"])
@pytest.mark.parametrize(
    ("column", "row", "value", "kind"),
    [
        (pa.array(LARGE), 2, "-1e+300", "float32"),
        (pa.array([1.0, 3.5e38, 1e39]), 1, "3.5e+38", "float32"),
        (pa.array([[[1.0]], [[1e39]]]), 1, "1e+39", "float32"),
        (pa.array([1, 2**63 - 1, 2**63], pa.uint64()), 2, "9223372036854775808", "int64"),
        (pa.array([[1, 2], [], [3, 2**64 - 1]], pa.list_(pa.uint64())), 2, "18446744073709551615", "int64"),
    ],
)
def test_a_number_that_no_example_can_hold_is_told_with_its_row_and_column(tmp_path, form, column, row, value, kind):
    table, path = pa.table({"x": column}), tmp_path / f"t.{form}"
    if form == "parquet":
        pq.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    done = data("convert", path, tmp_path / "out")
    told = f"error: {path}: row {row}: the column x has {value}, "
    assert (done.returncode, told in done.stderr, kind in done.stderr) == (4, True, True), done.stderr
    assert "damaged" not in done.stderr
    assert names(tmp_path / "out") == []
    if kind == "float32":
        assert "values became infinite" in converted(path, tmp_path / "out", "--overflow")
    else:
        assert data("convert", path, tmp_path / "out", "--overflow").returncode == 4


def test_doubles_and_large_integers_of_a_table_are_shown_as_they_are(tmp_path):
    pq.write_table(pa.table({"d": [1.0, 1e300], "u": pa.array([1, 2**64 - 1], pa.uint64())}), tmp_path / "t.parquet")
    assert data("stats", tmp_path / "t.parquet").stderr == ""
    found = json.loads(data("head", tmp_path / "t.parquet", "-n", "2", "-o", "json").stdout)
    assert found == [{"d": [1.0], "u": [1]}, {"d": [1e300], "u": [2**64 - 1]}]
    stats = json.loads(data("stats", tmp_path / "t.parquet", "-o", "json").stdout)
    assert (stats["d"]["kind"], stats["d"]["maximum"], stats["d"]["infinite"]) == ("float64", 1e300, 0)
    assert (stats["u"]["kind"], stats["u"]["maximum"]) == ("uint64", 2.0**64)


def test_training_on_doubles_that_would_become_infinite_is_refused(tmp_path):
    pq.write_table(pa.table({"x": [1.0, 1e300]}), tmp_path / "t.parquet")
    (file,) = list_files(str(tmp_path / "t.parquet"))
    with pytest.raises(
        DataError, match=r"t\.parquet: row 1: the column x has 1e\+300, which becomes infinite in float32"
    ):
        list(read_columns(Part(file, 0, 2)))


@pytest.mark.usefixtures("shared_pool")
def test_every_kind_of_column(tmp_path):
    table = pa.table({
        "b": [True, False], "i": pa.array([1, -2], pa.int8()), "s": ["é", ""], "y": [b"\0", b"1"],
        "f": pa.array([1.5, float("nan")], pa.float16()), "l": pa.array([[1, 2], []], pa.large_list(pa.int64())),
        "w": pa.array([[1, 2], [3, 4]], pa.list_(pa.float32(), 2)), "n": pa.array([[[1], [2]], [[3]]]),
        "t": pa.array([["a"], []], pa.list_(pa.string())),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "t.parquet")
    converted(tmp_path / "t.parquet", tmp_path / "out")
    one, two = [{name: values.tolist() for name, values in read_example(r).items()} for r in raw(tmp_path / "out")]
    assert one == {"b": [1], "i": [1], "s": ["é".encode()], "y": [b"\0"], "f": [1.5], "l": [1, 2], "w": [1, 2],
                   "n": [1, 2], "t": [b"a"]}  # fmt: skip
    assert two.pop("f") != [0]
    assert two == {"b": [0], "i": [-2], "s": [b""], "y": [b"1"], "l": [], "w": [3, 4], "n": [3], "t": []}


@pytest.mark.usefixtures("shared_pool")
@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pa.array([{"a": 1}] * 3), "the column x is of type struct<a: int64>"),
        (pa.array([1, 2, None]), "row 2: the column x is null"),
        (pa.array([[1], None, [2]]), "row 1: the column x is null"),
        (pa.array([[1], [1, None], [2]]), "row 1: the column x is null in a list"),
        (pa.array([[[1]], [[1]], [[1, 2], [1]]]), "row 2: the column x has inner lists of unlike lengths"),
    ],
)
def test_columns_that_an_example_cannot_hold_are_told(tmp_path, column, words):
    pq.write_table(pa.table({"x": column}), tmp_path / "t.parquet")
    done = data("convert", tmp_path / "t.parquet", tmp_path / "out")
    assert (done.returncode, words in done.stderr) == (4, True), done.stderr
    assert names(tmp_path / "out") == []


@pytest.mark.usefixtures("shared_pool")
def test_nulls_become_empty_where_asked_for(tmp_path):
    pq.write_table(pa.table({"x": pa.array([1, None, 3]), "y": pa.array([None, [4, 5], []])}), tmp_path / "t.parquet")
    converted(tmp_path / "t.parquet", tmp_path / "out", "--nulls", "empty")
    found = [{name: values.tolist() for name, values in read_example(r).items()} for r in raw(tmp_path / "out")]
    assert found == [{"x": [1], "y": []}, {"x": [], "y": [4, 5]}, {"x": [3], "y": []}]


@pytest.mark.usefixtures("shared_pool")
def test_records_unlike_the_first_do_not_fit_a_table(tmp_path):
    records = [{"x": np.arange(2)}, {"x": np.arange(2), "z": np.arange(1)}]
    (tmp_path / "source").write_bytes(b"".join(frame(write_example(r)) for r in records))
    done = data("convert", tmp_path / "source", tmp_path / "t.arrow")
    assert "source: record 1: the feature z is int64, and missing in the first record" in done.stderr


# ---- what is cut off or in the way ----


@pytest.mark.usefixtures("shared_pool")
def test_what_is_there_is_not_overwritten_unless_asked_for(published, tmp_path):
    converted(published, tmp_path / "out")
    done = data("convert", published, tmp_path / "out")
    assert (done.returncode, "has part-00000-of-00004.tfrecord already" in done.stderr) == (2, True)
    converted(published, tmp_path / "out", "--overwrite")
    done = data("convert", tmp_path / "out", tmp_path / "out", "--overwrite")
    assert (done.returncode, "part-00000-of-00004.tfrecord is read, and would be written" in done.stderr) == (2, True)
    done = data("convert", published, tmp_path / "out", "--shards", "2", "--overwrite")
    assert (done.returncode, "would be read together with the new files" in done.stderr) == (2, True)


def damage(path) -> None:
    content = bytearray(path.read_bytes())
    content[-5000] ^= 1
    path.write_bytes(content)


def cut(path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


@pytest.mark.parametrize(("harm", "words"), [(damage, "part-r-00002 is damaged"), (cut, "part-r-00002 is cut off")])
def test_damage_ends_a_conversion_and_leaves_nothing(published, tmp_path, harm, words):
    harm(published / "part-r-00002")
    done = data("convert", published, tmp_path / "out")
    assert (done.returncode, words in done.stderr) == (4, True), done.stderr
    assert names(tmp_path / "out") == []


def test_a_full_disk_ends_a_conversion_and_leaves_nothing(published, tmp_path):
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # noqa: E731
    for options in ((), ("--to", "parquet"), ("--to", "arrow")):
        done = data("convert", published, tmp_path / "out", *options, before=limit)
        assert (done.returncode, "cannot be written: " in done.stderr) == (4, True), done.stderr
        assert names(tmp_path / "out") == []


def started(source, out) -> subprocess.Popen:
    """A conversion that has written its first shard and has much before it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tfspawner", "data", "convert", source, out, "-j", "2", "--gzip"],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (out / "_converting").is_dir() or not names(out / "_converting"):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


def alive(group: int) -> bool:
    """Whether a process of the group is there that is no zombie."""
    found = subprocess.run(["ps", "-o", "stat=", "-g", str(group)], capture_output=True, text=True).stdout
    return any(not line.startswith("Z") for line in found.split())


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_conversion_that_is_cut_leaves_nothing_that_looks_whole_and_begins_again(tmp_path, how):
    source, out = write_published(tmp_path / "published", files=12, each=60), tmp_path / "out"
    process = started(source, out)
    os.kill(process.pid, how)
    error = process.communicate(timeout=180)[1]
    assert process.returncode == (-9 if how == signal.SIGKILL else 130), error
    assert "Traceback" not in error
    assert [name for name in names(out) if name != "_converting"] == []
    deadline = time.monotonic() + 20
    while alive(process.pid):
        assert time.monotonic() < deadline, "its processes are still there"
        time.sleep(0.02)
    assert data("ls", out).returncode == 4  # no files
    converted(source, out, "-j", "2")
    assert raw(out) == raw(source)


def test_shards_that_are_missing_are_noticed(published, tmp_path):
    tf = pytest.importorskip("tensorflow")
    from tfspawner.data import tfrecords

    converted(published, tmp_path / "out")
    (tmp_path / "out/part-00002-of-00004.tfrecord").unlink()
    features = {"HLF_input": tf.io.FixedLenFeature([14], tf.float32)}
    for uri in (tmp_path / "out", tmp_path / "out/part-*"):
        with pytest.raises(DataError, match=r"part-00002-of-00004\.tfrecord is missing: 3 of 4"):
            tfrecords(str(uri), features, 4)
        assert "part-00002-of-00004.tfrecord is missing" in data("check", uri).stdout
    assert len(list(tfrecords(str(tmp_path / "out/part-00000-of-00004.tfrecord"), features, 4))) == 3


PEAK = """
import resource, sys
from tfspawner.data.convert import Options, convert
from tfspawner.data.filesystems import list_files
if __name__ == "__main__":
    convert(list_files(sys.argv[1]), sys.argv[2], options=Options(form=sys.argv[3]), shards=1)
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10)
"""


@pytest.mark.parametrize("form", ["tfrecord", "parquet", "arrow"])
def test_memory_does_not_grow_with_the_files(tmp_path, form):
    """320 MB take as much as 40 MB do, and both less than 300 MiB."""
    (tmp_path / "peak.py").write_text(PEAK)
    some = b"".join(frame(write_example(record(number))) for number in range(20))
    for size, times in (("small", 32), ("large", 262)):
        with open(tmp_path / size, "wb") as file:
            file.writelines([some] * times)
    peaks = []
    for size in ("small", "large"):
        command = [sys.executable, tmp_path / "peak.py", tmp_path / size, tmp_path / f"out-{size}", form]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout))
    assert peaks[1] - peaks[0] < 50, peaks
    assert peaks[1] < 300, peaks


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-e", "GRU_input"), "--encode GRU_input: that is no shape"),
        (("-e", "none", "-e", "x=1x1"), "--encode none goes with no other"),
        (("--dtype", "float16"), "--dtype float16 is for encoded features"),
        (("--to", "arrow", "--gzip"), "--encode and --gzip are for TFRecord files"),
    ],
)
def test_nonsense_is_refused(published, tmp_path, words, message):
    done = data("convert", published, tmp_path / "out", *words)
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "out").exists()


def test_sources_of_unlike_kinds_are_refused(published, tmp_path):
    pq.write_table(pa.table({"x": [1]}), published / "x.parquet")
    done = data("convert", published, tmp_path / "out")
    assert (done.returncode, "unlike kinds: parquet and tfrecord" in done.stderr) == (2, True), done.stderr


# ---- stats, and the other commands on tables and encoded files ----


def test_stats_are_those_of_numpy(published, tmp_path):
    events = [record(number) for number in range(40)]
    converted(published, tmp_path / "small", "-e", "GRU_input=801x19")
    for uri in (published, tmp_path / "small"):
        done = data("stats", uri, "--shape", "GRU_input=801x19", "-o", "json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        values = np.stack([event["GRU_input"] for event in events]).astype(np.float64)
        particles = found["GRU_input"]
        assert particles["mean"] == pytest.approx(values.mean())
        assert particles["deviation"] == pytest.approx(values.std())
        assert (particles["minimum"], particles["maximum"]) == (values.min(), values.max())
        constant = (values.reshape(40, 801, 19) == np.float64(np.float32(0.123))).all(axis=2).mean()
        assert particles["padding"] == pytest.approx(constant)
        assert found["encoded_label"]["classes"] == {"0": 14, "1": 13, "2": 13}
    text = data("stats", tmp_path / "small").stdout
    assert "encoded_label: 0: 14, 1: 13, 2: 13" in text
    assert "GRU_input float32" in text


@given(st.lists(st.lists(st.floats(width=32), max_size=5), min_size=1, max_size=8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_summaries_of_any_floats(tmp_path, rows):
    path = tmp_path / "part"
    path.write_bytes(b"".join(frame(write_example({"x": np.float32(row)})) for row in rows))
    found = summarize(list_files(str(path)), {}, lambda _: None)["x"].words()
    values = np.array([v for row in rows for v in row], np.float64)
    real = values[np.isfinite(values)]
    assert (found["values"], found["nan"]) == (len(values), int(np.isnan(values).sum()))
    assert found["infinite"] == int(np.isinf(values).sum())
    assert found["shape"] == [min(map(len, rows)), max(map(len, rows))]
    if len(real):
        assert found["mean"] == pytest.approx(real.mean(), rel=1e-9, abs=1e-9 * np.abs(real).max())
        assert found["deviation"] == pytest.approx(real.std(), rel=1e-6, abs=1e-9 * np.abs(real).max())


def test_the_other_commands_understand_tables_and_encoded_files(published, tmp_path):
    converted(published, tmp_path / "t.parquet")
    converted(published, tmp_path / "small", "-e", "GRU_input=801x19", "--dtype", "float16")
    table = data("ls", "-r", tmp_path / "t.parquet").stdout
    assert "40 records" in table
    assert "each record: HLF_input list<float>, GRU_input list<float>, encoded_label list<float>" in table
    assert "GRU_input float32[801x19] stored as float16 runs" in data("ls", "-r", tmp_path / "small").stdout
    for uri in (tmp_path / "t.parquet", tmp_path / "small"):
        first = json.loads(data("head", uri, "-o", "json").stdout)[0]
        assert len(first["GRU_input"]) == 801 * 19
        assert "40 records" in data("check", uri).stdout
    cut(tmp_path / "t.parquet")
    done = data("check", tmp_path / "t.parquet")
    assert (done.returncode, "t.parquet is damaged or cut off" in done.stdout) == (4, True)


def test_one_record_is_one_record(tmp_path):
    (tmp_path / "one").write_bytes(frame(write_example({"x": np.arange(2)})))
    assert data("check", tmp_path / "one").stdout.endswith(", 1 record\n")


def test_python_converts_as_the_command_does(published, tmp_path):
    done = convert(list_files(str(published)), str(tmp_path / "out"), options=Options(form="parquet"), jobs=2)
    assert (done.files, done.records) == (4, 40)
    assert sum(1 for file in list_files(str(tmp_path / "out")) for _ in records_of(file)) == 40
