"""tf-spawner data cp: between a folder and a bucket and back, compared, and broken off at any moment."""

import os
import random
import signal
import subprocess
import sys

import pytest
from in_process import called

from tfspawner.data.copying import Copy, copy_all
from tfspawner.data.filesystems import SCHEMES, LocalFiles, list_files
from tfspawner.errors import DataError


def cp(*words) -> subprocess.CompletedProcess:
    return called("data", "cp", *words)


@pytest.fixture
def files(tmp_path):
    """Five files, of 0 bytes to 20 MB."""
    (tmp_path / "from").mkdir()
    for number, size in enumerate((0, 1, 5_000_000, 20_000_000, 4 << 20)):
        (tmp_path / f"from/part-{number}").write_bytes(random.Random(number).randbytes(size))
    return tmp_path / "from"


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_there_and_back_again(s3, files, tmp_path):
    there = cp(files, "s3://bucket/copied/")
    assert there.returncode == 0, there.stderr
    assert there.stdout == "5 files, 27.8 MiB, copied and compared\n"
    assert contents(s3.folder / "bucket/copied") == contents(files)
    back = cp("s3://bucket/copied/part-*", tmp_path / "back")
    assert back.returncode == 0, back.stderr
    assert contents(tmp_path / "back") == contents(files)
    again = cp("s3://bucket/copied/part-*", tmp_path / "back")
    assert again.stdout == "5 files, 27.8 MiB, copied and compared, 5 of them there already\n"


def test_between_two_buckets_and_under_another_name(s3, files):
    assert cp(files / "part-2", "s3://bucket/one/file").returncode == 0
    done = cp("s3://bucket/one/file", "s3://bucket/two/other")
    assert done.returncode == 0, done.stderr
    assert (s3.folder / "bucket/two/other").read_bytes() == (files / "part-2").read_bytes()


def test_another_file_is_only_replaced_when_asked_to(files, tmp_path):
    target = tmp_path / "to/part-1"
    target.parent.mkdir()
    target.write_bytes(b"mine")
    refused = cp(files / "part-1", target)
    assert refused.returncode == 4
    assert f"{target} is there already, and is another file" in refused.stderr
    assert target.read_bytes() == b"mine"
    assert cp(files / "part-1", target, "--overwrite").returncode == 0
    assert target.read_bytes() == (files / "part-1").read_bytes()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("/no/such", "/tmp/x"), 4, "/no/such: there is no such file"),
        (("x",), 2, "give one or more sources"),
        (("FROM/part-1", "/tmp/part-*"), 2, "a pattern names no destination"),
        (("FROM/part-1", "FROM/../other/part-1", "/tmp/into"), 2, "would both become /tmp/into/part-1"),
        (("FROM/part-1", "https://127.0.0.1:9/x"), 4, "the server does not answer"),
        (("FROM/part-1", "/proc/x"), 4, "/proc"),
    ],
)
def test_what_cannot_be_copied_is_told(files, words, code, message):
    (files.parent / "other").mkdir()
    (files.parent / "other/part-1").write_bytes(b"y")
    done = cp(*(word.replace("FROM", str(files)) for word in words))
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr


def test_one_that_is_killed_leaves_no_file_with_a_name_and_the_next_goes_on(s3, tmp_path):
    source = tmp_path / "from"
    source.mkdir()
    for number in range(40):
        (source / f"part-{number:02}").write_bytes(random.Random(number).randbytes(4_000_000))
    target = tmp_path / "to"
    target.mkdir()
    process = subprocess.Popen([sys.executable, "-m", "tfspawner", "data", "cp", source, target])
    while not any(path.name.startswith("part-") for path in target.iterdir()):
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    whole = {path.name: path.read_bytes() for path in target.iterdir() if path.name.startswith("part-")}
    assert 0 < len(whole) < 40
    expected = contents(source)
    assert all(expected[name] == content for name, content in whole.items())
    assert cp(source, target).returncode == 0
    assert contents(target) == expected  # nothing else is there any more either


def test_what_arrives_otherwise_than_it_was_sent_is_noticed(files, tmp_path, monkeypatch):
    put = LocalFiles.put

    def harmed(self, path, uri):
        with open(path, "r+b") as file:
            file.write(b"harm")
        put(self, path, uri)

    monkeypatch.setattr(LocalFiles, "put", harmed)
    [source] = list_files(str(files / "part-2"))
    with pytest.raises(DataError, match="is not what was sent"):
        list(copy_all([Copy(source, str(tmp_path / "x"))], lambda _: None, overwrite=False))


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="needs a second file system")
def test_a_file_is_put_onto_another_file_system_whole(tmp_path, files):
    [local] = [SCHEMES[""]()]
    folder = f"/dev/shm/tf-spawner-test-{os.getpid()}"
    try:
        local.put(str(files / "part-2"), f"{folder}/x")
        assert os.listdir(folder) == ["x"]
        assert [(file.uri, file.size) for file in local.list(f"{folder}/x")] == [(f"{folder}/x", 5_000_000)]
    finally:
        for name in os.listdir(folder):
            os.unlink(f"{folder}/{name}")
        os.rmdir(folder)
