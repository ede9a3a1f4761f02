"""Code that is uploaded past the job: an answer may be lost, and another process may take the coordinator's place."""

from __future__ import annotations

import hashlib
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
from test_agent_server import Running

from tfspawner.backends.base import Observation
from tfspawner.backends.client import AgentClient
from tfspawner.errors import AgentUnreachable
from tfspawner.follow.follower import Follower
from tfspawner.follow.state import Silent
from tfspawner.plan.code import Code


class Uploaded(Running):
    """An agent whose code does not come with the job."""

    def __init__(self, folder: Path, script: str, code: Code | None = None, **options: Any) -> None:
        folder.mkdir()
        started = subprocess.Popen

        def start(*args: Any, **values: Any) -> Any:
            (folder / "code.tar.gz").rename(folder / "archive")
            job = json.loads((folder / "job.json").read_text()) | options
            job |= {"code_sha256": code.sha256} if code else {}
            (folder / "job.json").write_text(json.dumps(job))
            return started(*args, **values)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(subprocess, "Popen", start)
            super().__init__(folder, script)
        self.archive = folder / "archive"

    def code(self) -> Code:
        data = self.archive.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        return Code(archive=open(self.archive, "rb"), sha256=sha256, size_bytes=len(data), file_count=1)


class Place:
    """A backend with one replica, whose process may be replaced."""

    def __init__(self, running: Running) -> None:
        self.running, self.puts = running, 0

    def agent(self, job: str, replica: str) -> AgentClient:
        pool = urllib3.PoolManager(retries=False)
        url = f"http://127.0.0.1:{self.running.port}"
        return AgentClient(replica=replica, url=url, token="right", pool=pool, headers=dict)

    def watch(self, job: str, stop: threading.Event) -> Iterator[Observation]:
        yield Observation(replica="worker-0", state="running")
        stop.wait()


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr("tfspawner.follow.judge.SILENCE_S", 60.0)
    found = Place(Uploaded(tmp_path / "first", "print('hello', flush=True)"))
    yield found
    found.running.process.kill()
    found.running.process.wait()


def test_an_upload_whose_answer_is_lost_is_an_upload(place, monkeypatch):
    real, lost = AgentClient._request, []

    def request(self: AgentClient, method: str, *args: Any, **values: Any) -> Any:
        reply = real(self, method, *args, **values)
        if method == "PUT" and not lost:
            lost.append(reply.status)
            raise AgentUnreachable("the answer was lost")
        return reply

    monkeypatch.setattr(AgentClient, "_request", request)
    follower = Follower(place, "j", ["worker-0"], None, Silent(), start_timeout_s=20, upload=place.running.code())
    assert follower.follow(time.monotonic() + 60).result == "succeeded"
    assert lost == [200]


def test_code_that_is_there_is_taken_again_and_other_code_is_refused_with_the_reason(place):
    code = place.running.archive.read_bytes()
    for _ in range(2):
        assert place.running.ask("PUT", "/code", body=code)[:2] == (200, b"{}")
    status, reason, _ = place.running.ask("PUT", "/code", body=bytes(32 << 20))  # more than any socket holds
    assert (status, reason) == (400, b"bad request: ValueError('the code is here already, and this is another')")


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_who_sends_a_long_body_hears_why_it_is_refused(place, method):
    status, reason, _ = place.running.ask(method, "/nothing", body=bytes(32 << 20))
    assert (status, reason.decode()) == (404, f"no {method} /nothing here")


def test_another_process_in_the_coordinators_place_gets_the_code_again(place, tmp_path):
    place.running.process.kill()
    gate, second = tmp_path / "gate", tmp_path / "second"
    wait = f"import os, time\nprint('first life', flush=True)\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.1)"
    place.running = Uploaded(tmp_path / "long", wait)
    code = place.running.code()
    lines: list[bytes] = []

    def log(replica: str, data: bytes) -> None:
        lines.append(data)
        if b"first life" in data:
            place.running.process.kill()
            place.running.process.wait()
            place.running = Uploaded(second, "", code)

    view = type("Shown", (Silent,), {"log": staticmethod(log)})()
    follower = Follower(place, "j", ["worker-0"], None, view, start_timeout_s=20, upload=code)
    following = threading.Thread(target=lambda: follower.follow(time.monotonic() + 60), daemon=True)
    following.start()
    deadline = time.monotonic() + 30
    while not (second / "root/code").exists():
        assert time.monotonic() < deadline, "the second process did not get the code"
        time.sleep(0.05)
    gate.touch()
    following.join(30)
    assert not following.is_alive()


def test_a_pod_to_which_nobody_sends_the_code_again_ends_and_says_so(tmp_path):
    """Such as one that took another's place, after a detached launch."""
    running = Uploaded(tmp_path / "lone", "", start_timeout_s=2, restarts=1)
    try:
        told: dict[str, Any] = {}
        deadline = time.monotonic() + 60
        while told.get("phase") != "ended":
            assert time.monotonic() < deadline, told
            time.sleep(0.2)
            told = json.loads(running.ask("GET", "/status")[1])
    finally:
        running.process.kill()
        running.process.wait()
    assert told["result"] == "timeout"
    assert "worker-0 waits for its code, which is kept nowhere in the cluster" in told["cause"]["message"]
    assert "--detach" in told["cause"]["hint"]
