"""Whatever is posted to an agent by one who has the token, it answers 200 or 400, and the gang, its news and its view go on."""

from __future__ import annotations

import contextlib
import copy
import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from false_agent import REPLICAS, report
from mutating import ODD_NUMBERS, ODD_TEXTS, changed, damaged, deep

from tfspawner.backends import answers
from tfspawner.replica.agent import Agent
from tfspawner.replica.gang import Gang
from tfspawner.replica.job import Job
from tfspawner.replica.protocol import PROOF_HEADER, STATES
from tfspawner.replica.routes import Server
from tfspawner.replica.stream import Stream

REPORT = report("worker-1", "running", 1, message="m", hint=None, tail=["a"], stands=['  File "x.py", line 1 in f'], kind="failed",
                peer_lost=True, blames="worker-0", finished=9.0, exit_code=1, storing="",
                stored={"uri": "s3://b/j", "files": 1, "size": 2, "failure": None})  # fmt: skip
BODIES: dict[str, Any] = {
    "POST /report": REPORT,
    "POST /stream": {"offsets": {"worker-0": 0, "worker-1": 0}},
    "POST /files": [["model", 0, 7], ["x", 5, 9]],
    "POST /checkpoints": [["model", 0, 7]],
    "POST /release": None,
    "PUT /code": None,
}
QUERIES = ("/status", "/status?brief=1", "/order?version={}&wait=0", "/log?offset={}", "/log?offset=0&wait={}", "/files?named={}",
           "/cluster", "/checkpoints", "/code?wait=0", "/{}", "/order?replica={}&version=1&wait=0")  # fmt: skip


class Served:
    """The coordinator of two, without its script."""

    def __init__(self, folder: Any) -> None:
        config = {
            "job": "j", "roles": {"worker": 2}, "coordinator_address": "127.0.0.1:1", "code_sha256": "0" * 64, "collect": [],
            "start_timeout_s": 60, "timeout_s": None, "stall_timeout_s": 30.0, "restarts": 2, "restart_on": ["lost", "stalled"],
            "replaces_lost": False, "artifacts": None,
        }  # fmt: skip
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self.agent = Agent(Job(config), "worker", 0, "127.0.0.1", 1, self.port, "right", folder, folder)
        self.server = Server(self.agent, listener)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        (folder / "output/model").write_bytes(b"weights")
        self.agent.log.write(b"hello\n")
        self.restart()

    def restart(self) -> None:
        """A gang that has met and runs."""
        self.agent.gang = gang = Gang(self.agent.job)
        for state, met in (("ready", -1), ("running", 0)):
            for number, replica in enumerate(REPLICAS):
                gang.report(replica, report(replica, state, number, met=met, agent=f"127.0.0.1:{self.port}"))
        assert gang.phase == "running"

    def ask(self, request: str, body: bytes = b"", headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        """The status and the first bytes of the answer; 0 where it hung up without one."""
        method, path = request.split(" ", 1)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)
        try:
            connection.putrequest(method, path)
            for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
                connection.putheader(name, value)
            connection.putheader(PROOF_HEADER, self.agent.key.request(self.agent.replica, method, path))
            connection.endheaders()
            with contextlib.suppress(ConnectionError):  # it answers before the end of what is too much
                connection.send(body)
            reply = connection.getresponse()
            return reply.status, reply.read1(1 << 20)
        except ConnectionError:
            return 0, b""
        finally:
            connection.close()


@pytest.fixture
def said(monkeypatch) -> io.StringIO:
    """What the agent's process writes: its log."""
    words = io.StringIO()
    monkeypatch.setattr("sys.stderr", words)
    return words


@pytest.fixture
def served(tmp_path, said, monkeypatch) -> Iterator[Served]:
    monkeypatch.setattr(Stream, "follow", lambda *args: None)
    found = Served(tmp_path)
    yield found
    found.server.shutdown()
    found.server.server_close()


def lively(served: Served) -> None:
    """The gang decides, and its launcher can read what it tells."""
    gang = served.agent.gang
    assert gang
    gang.tick()
    as_sent = json.loads(json.dumps(gang.snapshot()))
    answers.gang(as_sent, REPLICAS)
    answers.brief(json.loads(json.dumps(gang.brief())), REPLICAS)
    status, _ = served.ask("GET /status")
    assert status == 200


def test_reports_that_lie_are_refused_or_taken_and_the_gang_goes_on(fuzz, served, said):
    assert served.ask("POST /report", json.dumps(REPORT).encode())[0] == 200
    for rng in fuzz.rounds(200):
        served.restart()
        for _ in range(3):
            state = rng.choice((*STATES, "running"))
            told = changed(copy.deepcopy(REPORT) | {"state": state, "generation": 0}, rng)
            try:
                body = json.dumps(told).encode()
            except (RecursionError, ValueError):
                continue
            assert served.ask("POST /report", body)[0] in (200, 400)
        lively(served)
    assert "Traceback" not in said.getvalue()


def test_bodies_and_words_of_any_kind_are_answered_and_put_no_traceback_into_the_log(fuzz, served, said):
    for rng in fuzz.rounds(200):
        if rng.random() < 0.3:
            word = str(rng.choice((*ODD_TEXTS, *ODD_NUMBERS))).encode(errors="replace")[:1000]
            path = rng.choice(QUERIES).format("".join(f"%{byte:02x}" for byte in word))
            status, _ = served.ask(f"GET {path}")
            assert status in (200, 400, 404, 503), (path, status)
            continue
        request = rng.choice(list(BODIES))
        body = json.dumps(BODIES[request]).encode()
        how = rng.randrange(5)
        headers = {}
        if how == 0:
            body = damaged(body, rng)
        elif how == 1:
            with contextlib.suppress(RecursionError, ValueError):
                body = json.dumps(changed(BODIES[request], rng)).encode()
        elif how == 2:
            body = rng.choice(
                (
                    b"[" * 100_000,
                    b"[]," * 300_000,
                    b'{"a":' * 50_000,
                    b'"' * 100_000,
                    b"9" * 5000,
                    json.dumps(deep(400)).encode(),
                )
            )
        elif how == 3:
            headers = {
                "Content-Length": rng.choice(("-1", "1" * 30, str(10**15), "x", "\u0663", "1, 2", "", "+5", "1_0"))
            }
            with contextlib.suppress(UnicodeEncodeError):
                headers["Content-Length"].encode("latin-1")
        else:
            headers = {"Transfer-Encoding": "chunked"}
        headers = {name: value.encode("utf-8").decode("latin-1") for name, value in headers.items()}
        status, _ = served.ask(request, body, headers)
        assert status in (200, 400), (request, status, headers, body[:50])
        if fuzz.round % 20 == 0:
            lively(served)
    assert "Traceback" not in said.getvalue(), said.getvalue()


def test_a_body_that_is_never_sent_or_longer_than_any_is_not_waited_for(served):
    began = time.monotonic()
    for request in BODIES:
        assert served.ask(request, b"{}", {"Content-Length": str(10**17)})[0] in (200, 400)
    assert time.monotonic() - began < 10
