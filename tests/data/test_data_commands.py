"""`tf-spawner data` as its users call it."""

import json
import os
import resource
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from in_process import called

from tfspawner.data.example import kind_of, read_example, schema_of, write_example
from tfspawner.data.records import frame


def data(*words, before=None, **variables) -> subprocess.CompletedProcess:
    """What the command says; by a process of its own only where something is different in it."""
    if not before and not variables:
        return called("data", *words)
    command = [sys.executable, "-m", "tfspawner", "data", *map(str, words)]
    environment = {**os.environ, **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, preexec_fn=before)


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
    assert "first record of each file: label int64[1], x float32[2]" in counted.stdout
    assert "first record: label int64[1], x float32[2]" in data("ls", "-r", shards / "part-0").stdout


def test_ls_of_damaged_files_names_each_once_and_goes_on(shards):
    (shards / "a.parquet").write_bytes(b"PAR1xxxxPAR1")
    (shards / "b.tfrecord").write_bytes(b"no record")
    done = data("ls", "-r", shards)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.count(str(shards)) for line in lines[:2]] == [1, 1]
    assert "a.parquet  is damaged or cut off" in lines[0]
    assert "b.tfrecord  is cut off: record 0 at byte 0" in lines[1]
    assert lines[-1] == "first record of each file: label int64[1], x float32[2]"


def test_ls_tells_of_files_whose_first_records_are_unlike(shards):
    another_schema(shards / "part-1")
    (shards / "part-3").write_bytes(frame(b""))
    lines = data("ls", "-r", shards).stdout.splitlines()
    assert lines[-3:] == [
        "first record of 2 files: label int64[1], x float32[2]",
        "first record of 1 file: y float32[1]",
        "first record of 1 file: no features",
    ]


def write_empty(path) -> None:
    """Records with empty lists: one says no kind, one has neither floats nor texts, and the last has no features."""
    entry = b"\x0a\x01x\x12\x00"
    kindless = b"\x0a" + bytes([len(entry) + 2]) + b"\x0a" + bytes([len(entry)]) + entry
    full = {"label": np.array([1]), "x": np.float32([1, 2])}
    empty = {"e": np.empty(0, object), "label": np.empty(0, np.int64), "x": np.float32([])}
    records = [kindless, write_example(full), write_example(empty), b""]
    path.write_bytes(b"".join(map(frame, records)))


def test_empty_lists_are_said_to_be_empty(tmp_path):
    write_empty(tmp_path / "part")
    assert data("head", tmp_path / "part", "-n", "4").stdout.splitlines() == [
        "record 0", "  x: no values",
        "record 1", "  label: 1", "  x: 1, 2",
        "record 2", "  e: no values", "  label: no values", "  x: no values",
        "record 3", "  no features",
    ]  # fmt: skip
    found = json.loads(data("stats", tmp_path / "part", "-o", "json").stdout)
    assert {name: words["kind"] for name, words in found.items()} == {"e": "empty", "label": "int64", "x": "float32"}
    assert found["label"]["classes"] == {"1": 1}
    lines = data("stats", tmp_path / "part").stdout.splitlines()
    assert [line.split() for line in lines if line.startswith(" e ")] == [["e", "empty", "1", "0"]]
    assert "label: 1: 1, no value: 1" in lines


@pytest.mark.parametrize(("verb", "words"), [("head", "no records"), ("stats", "no records with features")])
def test_a_file_without_records_is_said_to_have_none(tmp_path, verb, words):
    (tmp_path / "part").touch()
    done = data(verb, tmp_path / "part")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", f"{words}\n")


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
    done.write_text(done.read_text().replace('"records": 5', '"records": 7'))  # it is not looked at again
    second = data("check", shards, "--done", done, "-o", "json")
    found = json.loads(second.stdout)
    assert [bool(shard["error"]) for shard in found["shards"]] == [False, False, True]
    assert [shard["records"] for shard in found["shards"][:2]] == [7, 7]


@pytest.mark.parametrize("place", ["local", "s3"])
def test_a_file_that_changed_since_it_was_found_sound_is_read_again(shards, tmp_path_factory, place, request):
    done, uri = tmp_path_factory.mktemp("done") / "sound", str(shards)
    if place == "s3":
        request.getfixturevalue("s3")
        uri = "s3://bucket/changed/"
        assert data("cp", shards, uri).returncode == 0
    assert data("check", uri, "--done", done).returncode == 0
    again = data("check", uri, "--done", done)
    assert (again.returncode, len(done.read_text().splitlines())) == (0, 3), again.stderr
    was = (shards / "part-1").stat()
    damage(shards / "part-1")  # of the same size, and as old as before, as rsync and tar leave it
    os.utime(shards / "part-1", ns=(was.st_atime_ns, was.st_mtime_ns))
    if place == "s3":
        assert data("cp", shards / "part-1", uri, "--overwrite").returncode == 0
    third = data("check", uri, "--done", done)
    assert (third.returncode, "part-1" in third.stdout) == (4, True), third.stdout + third.stderr


def test_what_was_found_sound_by_an_older_version_is_read_again(shards, tmp_path_factory):
    done = tmp_path_factory.mktemp("done") / "sound"
    files = [shards / f"part-{number}" for number in range(3)]
    lines = [{"uri": str(f), "size": f.stat().st_size, "records": 7, "schema": {}, "error": None} for f in files]
    done.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = data("check", shards, "--done", done)
    assert (found.returncode, "15 records" in found.stdout) == (0, True), found.stderr


@pytest.mark.parametrize(
    "content", ["my notes\n", "bought: {eggs}\n", "no end of line", "{}\n", "\n", '{"uri": "x"}\n', "shard"]
)
def test_a_file_that_check_has_not_made_is_not_written_to(shards, tmp_path_factory, content):
    done = tmp_path_factory.mktemp("done") / "notes"
    done.write_bytes((shards / "part-0").read_bytes() if content == "shard" else content.encode())
    before = done.read_bytes()
    refused = data("check", shards, "--done", done)
    assert (refused.returncode, done.read_bytes()) == (2, before)
    assert f"--done {done} is not" in refused.stderr


@pytest.mark.parametrize("left", [1, 20, 100])
def test_a_line_of_done_that_was_cut_off_is_not_joined_with_the_next(shards, tmp_path_factory, left):
    done = tmp_path_factory.mktemp("done") / "sound"
    assert data("check", shards, "--done", done).returncode == 0
    whole = done.read_text().splitlines(keepends=True)
    done.write_text(whole[0] + "\n" + whole[1][:left])
    for _ in range(2):
        again = data("check", shards, "--done", done, "-o", "json")
        assert again.returncode == 0, again.stderr
    assert sum(line in whole for line in done.read_text().splitlines(keepends=True)) == 3


def test_a_full_disk_is_told_with_the_file_that_it_was_met_on(shards, tmp_path_factory):
    done = tmp_path_factory.mktemp("done") / "sound"
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))  # noqa: E731
    refused = data("check", shards, "--done", done, before=limit)
    assert (refused.returncode, f"--done {done} cannot be written: File too large" in refused.stderr) == (4, True)
    assert data("check", shards, "--done", done).returncode == 0


def test_the_file_of_done_is_not_taken_for_data(shards):
    for _ in range(2):
        found = data("check", shards, "--done", shards / "sound")
        assert (found.returncode, "3 files" in found.stdout) == (0, True), found.stdout + found.stderr


def test_empty_files_have_a_balance_too(tmp_path):
    (tmp_path / "part-0").touch()
    found = data("check", tmp_path, "-w", "2")
    assert (found.returncode, "2 workers: 0 B to 0 B each" in found.stdout) == (0, True), found.stderr


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
