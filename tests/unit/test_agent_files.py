"""What a replica holds: its log, its files, the code."""

import errno
import hashlib
import io
import os
import threading

import pytest

from tfspawner.replica.agent import Agent
from tfspawner.replica.code import Code
from tfspawner.replica.files import Files
from tfspawner.replica.job import Job
from tfspawner.replica.log import Log


@pytest.fixture
def files(tmp_path):
    for name in ("output", "code"):
        (tmp_path / name).mkdir()
    (tmp_path / "code/train.py").write_text("x")
    found = Files(tmp_path, [])
    found.begin()
    return found


def paths(manifest):
    return sorted(file["path"] for file in manifest["files"])


def test_output_and_what_is_new_in_the_working_folder_is_listed(files, tmp_path):
    (tmp_path / "output/model/assets").mkdir(parents=True)
    (tmp_path / "output/model/weights").write_bytes(b"w" * 10)
    (tmp_path / "code/history.json").write_text("{}")
    (tmp_path / "code/__pycache__").mkdir()
    (tmp_path / "code/__pycache__/x.pyc").touch()
    manifest = files.manifest()
    assert paths(manifest) == ["model/weights", "workdir/history.json"]
    assert manifest["folders"] == ["model/assets"]
    assert manifest["files"][0]["sha256"] == hashlib.sha256(b"w" * 10).hexdigest()


def test_files_of_a_name_are_listed_alone_and_not_read(files, tmp_path, monkeypatch):
    (tmp_path / "output/logs").mkdir()
    (tmp_path / "output/empty").mkdir()
    for name in ("output/logs/events.out.tfevents.1.a", "code/events.out.tfevents.2.b", "output/model"):
        (tmp_path / name).write_bytes(b"12345")
    monkeypatch.setattr("tfspawner.replica.files.Hashing", None)
    manifest = files.manifest("*tfevents*")
    assert paths(manifest) == ["logs/events.out.tfevents.1.a", "workdir/events.out.tfevents.2.b"]
    assert [(file["size"], file["sha256"]) for file in manifest["files"]] == [(5, "")] * 2
    assert manifest["folders"] == []


def test_a_file_of_the_code_that_changed_comes_back(files, tmp_path):
    (tmp_path / "code/train.py").write_text("changed")
    assert paths(files.manifest()) == ["workdir/train.py"]


def test_links_and_pipes_are_skipped_and_named(files, tmp_path):
    (tmp_path / "output/link").symlink_to("/etc/passwd")
    (tmp_path / "output/folder").symlink_to("/etc")
    os.mkfifo(tmp_path / "output/pipe")
    manifest = files.manifest()
    assert manifest["files"] == []
    assert sorted(manifest["skipped"]) == ["folder", "link", "pipe"]


def test_patterns_collect_what_is_new_elsewhere(files, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/mymodel0.h5").touch()
    (tmp_path / "elsewhere/other").touch()
    files.patterns = [f"{tmp_path}/elsewhere/mymodel*", "../elsewhere/oth*"]
    base = f"collected{tmp_path}/elsewhere"
    assert paths(files.manifest()) == [f"{base}/mymodel0.h5", f"{base}/other"]


def test_a_growing_file_is_served_as_what_was_hashed(files, tmp_path):
    path = tmp_path / "output/events"
    path.write_bytes(b"first")
    entry = files.manifest()["files"][0]
    path.write_bytes(b"first and more")
    with files.open("events", entry["size"]) as file:
        assert hashlib.sha256(file.read(entry["size"])).hexdigest() == entry["sha256"]


def test_a_file_that_shrank_or_was_never_listed_is_not_served(files, tmp_path):
    (tmp_path / "output/a").write_bytes(b"long")
    files.manifest()
    (tmp_path / "output/a").write_bytes(b"")
    assert files.open("a", 4) is None
    assert files.open("../code/train.py", 0) is None


def test_a_file_swapped_for_a_link_is_not_served(files, tmp_path):
    (tmp_path / "output/a").write_bytes(b"x")
    files.manifest()
    (tmp_path / "output/a").unlink()
    (tmp_path / "output/a").symlink_to("/etc/hostname")
    assert files.open("a", 1) is None


def test_the_log_is_read_from_any_offset(tmp_path):
    log = Log(tmp_path / "log")
    log.write(b"0123456789")
    assert (log.read(0), log.read(4), log.read(4, 2), log.read(99)) == (b"0123456789", b"456789", b"45", b"")


@pytest.mark.parametrize(("happening", "ended"), [(lambda log: log.write(b"x"), False), (lambda log: log.end(), True)])
def test_who_waits_for_the_log_is_woken_by_output_and_by_its_end(tmp_path, happening, ended):
    log, woken = Log(tmp_path / "log"), []
    waiting = threading.Thread(target=lambda: woken.append(log.wait_for(0, 60, lambda: True)))
    waiting.start()
    happening(log)
    waiting.join(10)
    assert woken == [ended]


@pytest.fixture
def code(tmp_path):
    job = Job({"job": "j", "roles": {"worker": 1}, "code_sha256": hashlib.sha256(b"right").hexdigest()})
    return Code(job, tmp_path, tmp_path / "none")


def test_the_code_is_taken_when_it_is_what_the_job_names(code):
    code.receive(io.BytesIO(b"right"), 5)
    assert code.arrived.is_set()
    assert code.archive.read_bytes() == b"right"


@pytest.mark.parametrize(("data", "size"), [(b"wrong", 5), (b"righ", 5)])
def test_other_code_is_refused_and_leaves_nothing(code, data, size, tmp_path):
    with pytest.raises(ValueError, match="code's archive"):
        code.receive(io.BytesIO(data), size)
    assert not code.arrived.is_set()
    assert not code.archive.exists()


def test_the_first_report_of_a_generation_tells_of_the_checkpoint(tmp_path):
    config = {"job": "j", "roles": {"worker": 3}, "coordinator_address": "", "restarts": 1, "replaces_lost": True,
              "collect": []}  # fmt: skip
    agent = Agent(Job(config), "worker", 1, "127.0.0.1", 1, 2, "", tmp_path, tmp_path)
    assert agent.new_report()["checkpoint"] == 0
    agent.checkpoints.copy.mkdir()
    (agent.checkpoints.copy / "step").write_text("36")
    assert agent.new_report()["checkpoint"] == (agent.checkpoints.copy / "step").stat().st_mtime_ns


class NoRoom:
    """The log's file on a disk with so much room."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self.file.write(data[: self.room])
        self.room -= written
        return written

    def fileno(self):
        return self.file.fileno()

    def truncate(self, size):
        self.room += self.file.seek(0, 2) - size
        return self.file.truncate(size)

    def seek(self, at):
        return self.file.seek(at)


@pytest.mark.parametrize("base", [0, 7 << 32])
def test_output_without_room_is_counted_and_that_stands_in_its_place_whole_once_there_is_room(tmp_path, base):
    log = Log(tmp_path / "log", base)
    log.file = NoRoom(log.file, 25)
    log.write(b"first line\n")
    log.write(b"second line is cut here\n")
    assert (log.read(base), log.size) == (b"first line\nsecond line is", base + 25)
    log.write(b"third\n")
    log.file.room = 30  # too little to say so
    log.write(b"fourth\n")
    assert log.read(base) == b"first line\nsecond line is"
    assert log.unkept == 10 + len("third\nfourth\n")
    log.file.room = 1000
    log.write(b"fifth\n")
    told = log.read(base + 25).decode()
    assert told.startswith("\n[tf-spawner] 23 bytes of output could not be kept here: No space left on device; ")
    assert told.endswith(f" bytes are free at {tmp_path}\nfifth\n")
    assert log.size == base + (tmp_path / "log").stat().st_size
    assert b"fourth" in log.tail
