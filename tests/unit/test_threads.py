"""No thread of the agent or the launcher dies in silence: the replica fails and says why, or follow() raises it."""

from __future__ import annotations

import ast
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_agent_patience import CONFIG

import tfspawner
from tfspawner.errors import NotFoundError
from tfspawner.follow.follower import Follower
from tfspawner.follow.state import Silent
from tfspawner.replica.agent import Agent
from tfspawner.replica.job import Job
from tfspawner.replica.log import Log

PROJECT = Path(tfspawner.__file__).parent
# Where a thread is begun otherwise than by the agent's begin() or the follower's _raising(), and what becomes of its errors.
BEGUN = {
    ("replica/base.py", "begin"): "it is what all others are begun by",
    ("follow/follower.py", "follow"): "_raising() puts them into the queue that follow() reads",
    ("backends/kubernetes/backend.py", "watch"): "they are put into the queue that watch() reads",
    ("follow/homecoming.py", "bring"): "it raises them, once the thread has ended",
    ("base/threads.py", "each"): "it raises the first",
    ("jobs/sweeps.py", "_run_all"): "_work() keeps it, and run() raises it",
    ("jobs/tensorboard.py", "__init__"): "run() keeps it, and watch() raises it",
    ("data/xrootd.py", "start"): "listen() ends the process, and tells all who wait",
    ("views/sweep.py", "__init__"): "it redraws the table; its traceback is shown, and the sweep goes on",
    ("cli/target.py", "complete_job"): "the shell completes nothing then, in silence on purpose",
}


def test_no_other_thread_is_begun_than_those_whose_errors_are_heard():
    found = set()
    for path in sorted(PROJECT.rglob("*.py")):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                called = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
                if any(ast.unparse(call.func).endswith("Thread") for call in called):
                    found.add((path.relative_to(PROJECT).as_posix(), function.name))
    assert found == set(BEGUN)


@pytest.fixture
def replica(tmp_path):
    return Agent(Job({**CONFIG, "gpus": 0}), "worker", 1, "127.0.0.1", 1, 2, "", tmp_path, tmp_path)


def test_an_agents_thread_that_fails_stops_the_replica_and_is_the_reason(replica, capfd):
    def listen() -> None:
        raise KeyError("phase")

    replica.begin(listen).join(10)
    assert replica.stop.is_set()
    assert replica.broken == "tf-spawner's agent failed in listen: KeyError: 'phase'"
    assert "Traceback" in capfd.readouterr().err


def test_a_script_is_read_to_its_end_although_its_output_cannot_be_passed_on(replica, monkeypatch):
    def write(data: bytes) -> None:
        raise KeyError("progress")

    monkeypatch.setattr(replica.log, "write", write)
    read_end, write_end = os.pipe()
    pump = replica.begin(replica.keep_output, read_end)
    with open(write_end, "wb") as script:
        script.write(b"x" * 1_000_000)  # more than the pipe holds
    pump.join(10)
    assert not pump.is_alive()
    assert replica.broken == "tf-spawner's agent failed in keep_output: KeyError: 'progress'"


def test_output_that_the_parser_fails_at_is_kept_and_what_follows_is_read(tmp_path, monkeypatch, capfd):
    log = Log(tmp_path / "log")
    monkeypatch.setattr("tfspawner.replica.log.parse_progress", lambda line: {"step": None}["epoch"])
    log.write(b"1/2 one\n")
    log.write(b"1/2 two\n")
    monkeypatch.undo()
    log.write(b"Epoch 2/3\n")
    assert (tmp_path / "log").read_bytes() == b"1/2 one\n1/2 two\nEpoch 2/3\n"
    assert log.progress["epoch"] == 2
    assert capfd.readouterr().err == "[tf-spawner] progress is not read: KeyError('epoch')\n"


def test_what_cannot_be_measured_any_more_does_not_end_the_training(replica):
    def sample() -> None:
        raise ValueError("no number")

    replica.usage = SimpleNamespace(sample=sample, problems=[])
    assert (replica.used(), replica.usage, replica.broken) == ({}, None, "")
    assert b"is not measured any more: ValueError('no number')" in replica.log.tail


def test_a_part_of_the_output_that_a_disk_takes_is_followed_by_the_rest(tmp_path):
    log, written = Log(tmp_path / "log"), []
    log.file = SimpleNamespace(write=lambda data: written.append(bytes(data[:3])) or len(data[:3]))
    log.write(b"1234567")
    assert (b"".join(written), log.size) == (b"1234567", 7)


class Broken:
    """A backend of which one part fails."""

    def __init__(self, part: str, error: Exception) -> None:
        self.part, self.error = part, error

    def watch(self, job: str, stop: threading.Event):
        if self.part == "watch":
            raise self.error
        while not stop.wait(0.1):
            yield None

    def agent(self, job: str, replica: str):
        raise self.error


@pytest.mark.parametrize("part", ["watch", "agent"])
@pytest.mark.parametrize("error", [KeyError("gang"), NotFoundError("there is no job 'j'")])
def test_what_fails_in_a_followers_thread_is_raised_by_follow(part, error):
    follower = Follower(Broken(part, error), "j", ["worker-0"], None, Silent(), start_timeout_s=None)
    follower.reachable.set()
    with pytest.raises(type(error)) as raised:
        follower.follow(deadline=time.monotonic() + 10)
    assert raised.value is error
