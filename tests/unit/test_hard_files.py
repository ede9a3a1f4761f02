"""Files that are hard to list or to read: none keeps the others from coming, and nobody else waits for them."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_port import agent_port, proof
from test_agent_server import Running

from tfspawner.replica.agent import Agent
from tfspawner.replica.checkpoints import discard
from tfspawner.replica.files import AskerGone, Files, Hashing, Tree, Unreadable
from tfspawner.replica.job import Job
from tfspawner.replica.protocol import CHUNK

CONFIG = {"job": "j", "roles": {"worker": 2}, "coordinator_address": "", "restarts": 1, "replaces_lost": False,
          "collect": [], "start_timeout_s": 60, "command_file": False, "args": []}  # fmt: skip
SPARSE = 1 << 40  # bytes, of which none takes room: reading them takes many minutes


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    for name in ("output", "code"):
        (tmp_path / name).mkdir()
    (tmp_path / "output/model").write_bytes(b"weights")
    yield Files(tmp_path, [])
    subprocess.run(["rm", "-rf", tmp_path / "output"], check=True)  # Python's own may not reach so deep


@pytest.fixture
def replica(tmp_path: Path) -> Agent:
    return Agent(Job(CONFIG), "worker", 0, "127.0.0.1", 1, 2, "right", tmp_path, tmp_path)


def make_deep(top: Path, part: str, count: int, name: str) -> None:
    """A file below so many folders in each other, each reached from the one before."""
    here = os.open(top, os.O_RDONLY)
    for _ in range(count):
        os.mkdir(part, dir_fd=here)
        below = os.open(part, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)


def within(seconds: float, work: Callable[[], Any]) -> Any:
    """What work returns, or the error that it raises; fails where it takes longer."""
    found = []

    def run() -> None:
        try:
            found.append(work())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert found, f"not done in {seconds} s"
    return found[0]


def holds_soon(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_a_path_longer_than_the_system_takes_is_named_and_all_else_comes(files: Files, tmp_path: Path) -> None:
    make_deep(tmp_path / "output", "d" * 200, 25, "f" * 200)
    manifest = files.manifest()
    assert [file["path"] for file in manifest["files"]] == ["model"]
    (name,) = manifest["unreadable"]
    assert name.startswith("d" * 200 + "/")
    assert len(name) <= Unreadable.LONGEST + 3


def test_folders_in_folders_are_listed_however_deep(files: Files, tmp_path: Path) -> None:
    make_deep(tmp_path / "output", "d", 1100, "deep")
    manifest = files.manifest()
    assert [file["path"] for file in manifest["files"]] == ["model", "d/" * 1100 + "deep"]
    assert manifest["unreadable"] == []


def test_a_pattern_that_leads_too_deep_is_named_and_all_else_comes(files: Files, tmp_path: Path) -> None:
    make_deep(tmp_path / "output", "d", 1100, "deep")
    files.patterns = [f"{tmp_path}/output/**/dee?", f"{tmp_path}/output/mod*"]
    manifest = files.manifest()
    assert f"collected{tmp_path}/output/model" in [file["path"] for file in manifest["files"]]
    assert manifest["unreadable"] in ([], files.patterns[:1])  # by Python's version


def test_a_folder_that_may_be_listed_but_not_entered_keeps_its_files_alone() -> None:
    user, nobody = os.geteuid(), 65534
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        top.chmod(0o755)
        for folder in ("output/locked/inner", "code"):
            (top / folder).mkdir(parents=True)
        (top / "output/locked/file").touch()
        (top / "output/model").touch()
        (top / "output/locked").chmod(0o444)
        try:
            if user == 0:
                os.seteuid(nobody)
            manifest = Files(top, []).manifest()
        finally:
            os.seteuid(user)
            (top / "output/locked").chmod(0o755)
    assert [file["path"] for file in manifest["files"]] == ["model"]
    assert manifest["unreadable"] == ["locked/file", "locked/inner"]


def test_of_many_that_cannot_be_read_some_are_named_and_the_others_counted() -> None:
    unreadable = Unreadable()
    for number in range(Unreadable.MOST + 1234):
        unreadable.note(f"{number}" + "x" * 5000)
    listed = unreadable.listed()
    assert (len(listed), listed[-1]) == (Unreadable.MOST + 1, "and 1,234 more")
    assert sum(map(len, listed)) < 2 * Unreadable.MOST * Unreadable.LONGEST


def test_an_output_folder_that_is_a_link_is_named_and_not_walked(files: Files, tmp_path: Path) -> None:
    (tmp_path / "output").rename(tmp_path / "elsewhere")
    (tmp_path / "output").symlink_to("elsewhere")
    manifest = files.manifest()
    assert (manifest["files"], manifest["unreadable"]) == ([], [str(tmp_path / "output")])


def test_checkpoints_behind_a_link_are_not_looked_at(replica: Agent, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/step").write_text("1")
    replica.checkpoints.folder.rmdir()
    replica.checkpoints.folder.symlink_to("elsewhere")
    assert replica.checkpoints.changed_at() == 0
    assert replica.checkpoints.newest.manifest()["files"] == []
    discard(replica.checkpoints.folder)
    assert not replica.checkpoints.folder.is_symlink()
    assert (tmp_path / "elsewhere/step").read_text() == "1"


def test_a_script_that_makes_its_checkpoints_folder_a_link_is_told_what_that_means(tmp_path: Path) -> None:
    script = (
        "import os; folder = os.environ['TFSPAWNER_CHECKPOINTS']\n"
        "os.mkdir('elsewhere'); os.rmdir(folder); os.symlink(os.path.abspath('elsewhere'), folder)"
    )
    running = Running(tmp_path, script)
    try:
        told = running.whole_log().decode()
    finally:
        running.process.terminate()
        running.process.wait(10)
    assert f"{tmp_path}/root/checkpoints is a link now, and what it leads to is not kept over a restart" in told


def test_who_begins_again_waits_for_no_checkpoint_that_is_read_and_nobody_reads_for_one_who_left(
    replica: Agent, tmp_path: Path
) -> None:
    large = replica.checkpoints.folder / "large"
    large.touch()
    os.truncate(large, SPARSE)
    tree = replica.checkpoints.newest
    with agent_port(tmp_path, checkpoints=replica.checkpoints, serving=replica.serving) as port:
        with socket.create_connection(("127.0.0.1", port)) as asking:
            asking.sendall(f"GET /checkpoints HTTP/1.1\r\n{proof('GET', '/checkpoints')}\r\n".encode())
            assert holds_soon(lambda: tree.hashing.locked())
            replica.order = dict(replica.order, generation=1)
            assert within(5, replica.begins_again) is True
            assert replica.report["checkpoint"] == large.stat().st_mtime_ns
            assert within(5, lambda: replica.serving("get_status").__enter__()) is None
            assert tree.hashing.locked()
        assert holds_soon(lambda: not tree.hashing.locked())
    assert next(iter(tree.begun.values())).done < SPARSE


def test_a_file_whose_reading_was_broken_off_is_read_on_from_there(files: Files, tmp_path: Path) -> None:
    data = os.urandom(5 * CHUNK)
    (tmp_path / "output/model").write_bytes(data)
    left = iter([True, True, True, False])
    with pytest.raises(AskerGone):
        files.manifest(alive=lambda: next(left))
    asked: list[bool] = []
    manifest = files.manifest(alive=lambda: not asked.append(True))  # type: ignore[func-returns-value]
    assert manifest["files"][0]["sha256"] == hashlib.sha256(data).hexdigest()
    assert len(asked) == 2


def test_two_who_ask_at_once_read_a_file_once(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, go_on, read = threading.Event(), threading.Event(), []

    class Counted(Hashing):
        def of(self, path: str, size: int, alive: Callable[[], bool] = lambda: True) -> str:
            read.append(path)
            reading.set()
            go_on.wait(10)
            return super().of(path, size, alive)

    monkeypatch.setattr("tfspawner.replica.files.Hashing", Counted)
    manifests: list[Any] = []
    threads = [threading.Thread(target=lambda: manifests.append(files.manifest())) for _ in range(2)]
    threads[0].start()
    assert reading.wait(10)
    threads[1].start()
    time.sleep(0.1)
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert len(read) == 1
    assert manifests[0] == manifests[1]


@pytest.mark.parametrize("swap", [os.mkfifo, lambda path: os.symlink("other", path)])
def test_a_file_swapped_for_a_pipe_or_a_link_is_waited_for_by_nobody(files: Files, tmp_path: Path, swap: Any) -> None:
    path = tmp_path / "output/model"
    (tmp_path / "output/other").write_bytes(b"weights")
    files.manifest()
    path.write_bytes(b"weights2")
    status = os.lstat(path)
    path.unlink()
    swap(path)
    assert isinstance(within(5, lambda: files.hash(str(path), status, lambda: True)), OSError)
    assert within(5, lambda: [files.open("model", 0)]) == [None]


def test_a_checkpoint_is_never_listed_as_of_two_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Tree(tmp_path / "copy")
    tree.folder.mkdir()
    (tree.folder / "old").touch()

    def swapped(*asked: Any) -> str:
        if not tree.replaced:
            with tree.lock:
                tree.folder.rename(tmp_path / "former")
                tree.folder.mkdir()
                (tree.folder / "new").touch()
                tree.replaced += 1
        return "digest"

    monkeypatch.setattr(tree, "hash", swapped)
    assert [file["path"] for file in tree.manifest()["files"]] == ["new"]


def test_a_script_whose_name_begins_with_a_dash_is_run(tmp_path: Path) -> None:
    (tmp_path / "-x.py").write_text("print('ran')")
    found = Agent(Job({**CONFIG, "script": "-x.py"}), "worker", 0, "127.0.0.1", 1, 2, "", tmp_path, tmp_path)
    assert found.command()[0] == sys.executable
    done = subprocess.run(found.command(), cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout == "ran\n", done.stderr
