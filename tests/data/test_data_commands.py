"""`tf-spawner data` as its users call it."""

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfspawner.data.example import kind_of, read_example, schema_of
from tfspawner.data.records import frame


def data(*words, **variables) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "tfspawner", "data", *map(str, words)]
    return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=120)


def example(**features) -> bytes:
    """A serialized Example of lists of numbers."""
    tf = pytest.importorskip("tensorflow")
    kinds = {int: ("int64_list", tf.train.Int64List), float: ("float_list", tf.train.FloatList),
             bytes: ("bytes_list", tf.train.BytesList)}  # fmt: skip
    made = {}
    for name, values in features.items():
        kind, maker = kinds[type(values[0])]
        made[name] = tf.train.Feature(**{kind: maker(value=values)})
    return tf.train.Example(features=tf.train.Features(feature=made)).SerializeToString()


@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1),
    st.lists(st.floats(width=32, allow_nan=False), min_size=1),
    st.lists(st.binary(), min_size=1),
)
def test_an_example_is_read_as_tensorflow_wrote_it(whole, real, text):
    read = read_example(example(whole=whole, real=real, text=text))
    found = {name: (kind_of(values), values.tolist()) for name, values in read.items()}
    assert found == {"whole": ("int64", whole), "real": ("float32", real), "text": ("bytes", text)}


@given(st.binary(max_size=40))
def test_other_bytes_are_an_example_or_a_value_error(noise):
    try:
        schema_of(noise)
    except ValueError:
        pass


@pytest.fixture
def shards(tmp_path):
    """Three sound shards of 5 records each."""
    for number in range(3):
        records = [example(x=[float(i), 0.5], label=[i]) for i in range(number * 5, number * 5 + 5)]
        (tmp_path / f"part-{number}").write_bytes(b"".join(map(frame, records)))
    return tmp_path


def test_ls_shows_sizes_records_and_the_schema(shards):
    plain, counted = data("ls", shards), data("ls", "-r", shards / "part-*")
    assert plain.returncode == counted.returncode == 0, plain.stderr + counted.stderr
    assert plain.stdout.splitlines()[-1].startswith("3 files, ")
    assert "3 files" in counted.stdout
    assert "15 records" in counted.stdout
    assert "each record: label int64[1], x float32[2]" in counted.stdout


def test_ls_of_damaged_files_names_each_once_and_goes_on(shards):
    (shards / "a.parquet").write_bytes(b"PAR1xxxxPAR1")
    (shards / "b.tfrecord").write_bytes(b"no record")
    done = data("ls", "-r", shards)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.count(str(shards)) for line in lines[:2]] == [1, 1]
    assert "a.parquet  is damaged or cut off" in lines[0]
    assert "b.tfrecord  is cut off: record 0 at byte 0" in lines[1]
    assert lines[-1] == "each record: label int64[1], x float32[2]"


def test_ls_of_s3_in_json(s3, shards):
    (s3.folder / "bucket/ls").mkdir(exist_ok=True)
    for path in shards.iterdir():
        (s3.folder / "bucket/ls" / path.name).write_bytes(path.read_bytes())
    done = data("ls", "s3://bucket/ls/part-*", "-o", "json")
    assert done.returncode == 0, done.stderr
    assert [file["uri"] for file in json.loads(done.stdout)] == [f"s3://bucket/ls/part-{n}" for n in range(3)]


def test_head_shows_the_first_records(shards):
    done = data("head", shards / "part-1", "-n", "2")
    assert done.stdout.splitlines() == [
        "record 0", "  label: 5", "  x: 5, 0.5",
        "record 1", "  label: 6", "  x: 6, 0.5",
    ]  # fmt: skip
    assert json.loads(data("head", shards, "-n", "7", "-o", "json").stdout)[6] == {"label": [6], "x": [6.0, 0.5]}


def test_check_of_sound_shards_counts_them_and_shows_the_balance(shards):
    done = data("check", shards, "-w", "2")
    assert done.returncode == 0, done.stderr
    assert "3 files" in done.stdout
    assert "15 records" in done.stdout
    assert "2 workers: " in done.stdout


def damage(path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def another_schema(path) -> None:
    path.write_bytes(frame(example(y=[1.0])) * 5)


@pytest.mark.parametrize(
    ("harm", "words"),
    [(damage, "does not match its checksum"), (cut, "is cut off: record 4"),
     (another_schema, "has y float32[1], and most have label int64[1], x float32[2]")],
)  # fmt: skip
def test_check_names_the_shard_that_is_wrong(shards, harm, words):
    harm(shards / "part-1")
    done = data("check", shards)
    assert done.returncode == 4
    assert words in done.stdout
    assert "part-1" in done.stdout
    assert "part-0" not in done.stdout
    assert "error: " in done.stderr


def test_check_goes_on_where_it_was_broken_off(shards, tmp_path_factory):
    done = tmp_path_factory.mktemp("done") / "sound"
    damage(shards / "part-2")
    assert data("check", shards, "--done", done).returncode == 4
    assert len(done.read_text().splitlines()) == 2
    damage(shards / "part-0")  # it is not looked at again
    second = data("check", shards, "--done", done, "-o", "json")
    found = json.loads(second.stdout)
    assert [bool(shard["error"]) for shard in found["shards"]] == [False, False, True]


@pytest.mark.parametrize(
    ("manifest", "words"),
    [({"part-0": 5, "part-1": 6}, "has 5 records, and 6 in the manifest"), ({"part-9": 5}, "part-9 is in the manifest"),
     ({"part-0": 5}, None)],
)  # fmt: skip
def test_check_compares_with_a_manifest(shards, tmp_path_factory, manifest, words):
    path = tmp_path_factory.mktemp("manifest") / "counts.json"
    path.write_text(json.dumps(manifest))
    done = data("check", shards, "--manifest", path)
    assert done.returncode == (4 if words else 0)
    assert (words or "") in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("ls", "/no/such/file"), 4, "/no/such/file: there is no such file"),
        (("ls", "ftp://host/x"), 2, "there is no file system for ftp://"),
        (("ls",), 2, "Missing argument"),
        (("check", "x", "--manifest", "/none"), 4, "x: there is no such file"),
    ],
)
def test_what_cannot_be_done_is_told(words, code, message):
    done = data(*words)
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr
