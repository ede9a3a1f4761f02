"""How long a replica waits for its coordinator: one that is gone is told from one that is slow."""

from __future__ import annotations

import socketserver
import threading
import time
from contextlib import suppress

import pytest

from tfspawner.replica.agent import Agent
from tfspawner.replica.gang import Gang
from tfspawner.replica.job import Job
from tfspawner.replica.peers import Peer
from tfspawner.replica.proofs import Key
from tfspawner.replica.protocol import PROOF_HEADER

CONFIG = {
    "job": "j", "roles": {"worker": 2}, "coordinator_address": "worker-0:7117", "collect": [], "code_sha256": "",
    "start_timeout_s": 60, "timeout_s": None, "restarts": 1, "restart_on": ["lost"], "replaces_lost": False,
    "stall_timeout_s": None,
}  # fmt: skip


@pytest.fixture
def replica(tmp_path, monkeypatch):
    """worker-1 while it runs; its coordinator is given 0.2 s where nothing answers, 1 s where it is slow."""
    monkeypatch.setattr("tfspawner.replica.reporting.COORDINATOR_LOST_AFTER_S", 0.2)
    monkeypatch.setattr("tfspawner.replica.reporting.COORDINATOR_SLOW_S", 1.0)
    made = Agent(Job(CONFIG), "worker", 1, "127.0.0.1", 1, 2, "", tmp_path, tmp_path)
    made.order["phase"] = "running"
    return made


@pytest.mark.parametrize(
    ("error", "least_s", "most_s"),
    [(ConnectionRefusedError("refused"), 0.2, 0.9), (TimeoutError("timed out"), 1.0, 5.0)],
)
def test_a_coordinator_that_is_slow_is_waited_for_longer_than_one_that_is_gone(
    replica, monkeypatch, error, least_s, most_s
):
    def ask_json(*_: object) -> None:
        raise error

    monkeypatch.setattr(Peer, "ask_json", ask_json)
    began = time.monotonic()
    threading.Thread(target=replica.listen, daemon=True).start()
    assert replica.stop.wait(most_s)
    assert time.monotonic() - began >= least_s
    assert (replica.report["message"], replica.report["kind"]) == (f"lost the coordinator worker-0: {error}", "lost")


@pytest.mark.parametrize("phase", ["stopping", "ended"])
@pytest.mark.parametrize("stores", [True, False])
def test_a_replica_with_files_to_store_waits_for_the_gangs_result_and_others_for_its_end(replica, phase, stores):
    """The gang ends when all is stored, and what is stored before that would not begin."""
    replica.store = object() if stores else None
    replica.order.update(phase=phase, result="succeeded")
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(replica.begins_again()), daemon=True)
    thread.start()
    is_over = stores or phase == "ended"
    thread.join(10 if is_over else 1)
    assert answers == ([False] if is_over else [])
    replica.terminated.set()
    thread.join(10)
    assert answers == [False]


def test_a_gang_of_which_one_lost_the_coordinator_starts_again():
    gang = Gang(Job(CONFIG))
    report = {"since": 0, "message": "", "address": "a", "agent": "b", "life": "1", "generation": 0, "met": -1}
    for state in ("ready", "running"):
        for name in ("worker-0", "worker-1"):
            gang.report(name, dict(report, replica=name, state=state))
    lost = {"state": "stopped", "message": "lost the coordinator worker-0: timed out", "kind": "lost", "finished": 1.0}
    gang.report("worker-1", dict(report, replica="worker-1", **lost))
    assert (gang.phase, gang.result) == ("stopping", None)
    assert gang.restarting["message"] == lost["message"]


class Trickling(socketserver.BaseRequestHandler):
    """What has taken over an agent's port: it answers a byte at a time, some of it with the right proof."""

    def handle(self) -> None:
        asked = self.request.recv(1 << 16).decode("latin-1")
        request = next(line.split(": ")[1] for line in asked.splitlines() if line.startswith(PROOF_HEADER))
        proof = f"{PROOF_HEADER}: {Key('t').answer(request, 'worker-0', 200)}\r\n"
        rest = {"head": "X-Word: " + "x" * 1000, "before": "HTTP/1.1 100 Continue\r\n\r\n" * 1000, "body": " " * 1000}
        begun = {"head": f"HTTP/1.1 200 OK\r\n{proof}", "before": "",
                 "body": f"HTTP/1.1 200 OK\r\n{proof}Content-Length: 1000\r\n\r\n"}  # fmt: skip
        with suppress(OSError):
            self.request.sendall(begun[self.server.kind].encode())
            for byte in rest[self.server.kind].encode():
                self.request.sendall(bytes([byte]))
                time.sleep(0.1)


@pytest.mark.parametrize("kind", ["before", "head", "body"])
@pytest.mark.parametrize("whole", [True, False])
def test_what_answers_a_byte_at_a_time_does_not_keep_a_replica_waiting(kind, whole):
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Trickling)
    server.daemon_threads, server.kind = True, kind
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    peer = Peer(Key("t"), "worker-0", f"127.0.0.1:{server.server_address[1]}")
    raised: list[BaseException] = []

    def ask() -> None:
        try:
            if whole:
                peer.ask_json("GET", "/order", timeout_s=1)
            else:
                with peer.ask("GET", "/code", timeout_s=1) as reply:
                    reply.read()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(20)
    server.shutdown()
    server.server_close()
    assert raised, "it is waiting still"
    assert isinstance(raised[0], TimeoutError)  # so that it counts as slow, not as gone
