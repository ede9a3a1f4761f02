"""A job of two replicas whose agents are one false one: a real server whose answers a test makes, and a backend that names it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import urllib3

from tfspawner.backends.base import JobSummary, Observation
from tfspawner.backends.client import AgentClient
from tfspawner.base.patience import patient
from tfspawner.replica.gang import Gang
from tfspawner.replica.job import Job
from tfspawner.replica.proofs import Key
from tfspawner.replica.protocol import PROOF_HEADER

REPLICAS = ["worker-0", "worker-1"]
LOGS = {"worker-0": b"Epoch 1/3\n10/10 [====] - 1s - loss: 0.5\n", "worker-1": b"hello\n"}
FILES = {"model": b"weights" * 100, "logs/events.out.tfevents.1": b"events" * 20, "empty": b""}
Answer = tuple[int, dict[str, str], bytes]  # status, headers, body


def an_ended_gang() -> Gang:
    """As a real coordinator keeps it: its worker-1 failed."""
    config = {"start_timeout_s": 60, "timeout_s": None, "stall_timeout_s": None, "restarts": 2, "restart_on": []}
    gang = Gang(Job({"job": "j", "roles": {"worker": 2}, **config}))
    for state, met in (("ready", -1), ("running", 0)):
        for number, replica in enumerate(REPLICAS):
            gang.report(replica, report(replica, state, number, met=met))
    gang.report("worker-1", report("worker-1", "failed", 1, message="ended with exit code 1", exit_code=1, kind="failed",
                                   tail=["Traceback", "ValueError: no"], hint="look", peer_lost=False, finished=9.0))  # fmt: skip
    gang.report("worker-0", report("worker-0", "stopped", 0, finished=9.0, exit_code=75))
    assert gang.phase == "ended"
    gang.restarts.append({"replica": "worker-1", "message": "was lost", "kind": "lost", "generation": 1, "time": 5.0})
    gang.behind = {"worker-1": 12.5}
    return gang


def report(replica: str, state: str, number: int, **news: Any) -> dict[str, Any]:
    gpu = {"name": "H200", "use": 97, "memory": 1 << 30, "memory_total": 1 << 37}
    return {"replica": replica, "state": state, "since": 2.0, "message": "", "address": f"127.0.0.1:{2222 + number}",
            "agent": f"127.0.0.1:{7117 + number}", "life": replica, "generation": 0, "met": 0, "checkpoint": 0, "log_size": 9,
            "silent_s": 0.1, "pid": 5, "started": 3.0,
            "progress": {"epoch": 1, "epochs": 3, "step": 10, "steps": 10, "rate": 3.5, "epoch_since": 3.0, "epoch_s": 1.0,
                         "metrics": {"loss": 0.5, "accuracy": 0.25}},
            "usage": {"cpu": 1.5, "memory": 1 << 20, "gpus": [gpu]}, **news}  # fmt: skip


def frame(head: Any, data: bytes = b"") -> bytes:
    return json.dumps(head).encode() + b"\n" + data


def honest(kind: str, replica: str, gang: Gang, wanted: Any) -> Answer:
    """What an agent would answer."""
    if kind == "log":
        data = LOGS[replica][int(wanted) :]
        return 200, {"X-Offset": wanted, "X-End": "1", "X-Size": str(len(LOGS[replica]))}, data
    return 200, {}, b"".join(frame(*one) for one in parts(kind, replica, gang, wanted))


def parts(kind: str, replica: str, gang: Gang, wanted: Any) -> list[tuple[Any, bytes]]:
    """The JSON values of an answer, each with the bytes behind it."""
    if kind == "status":
        return [(gang.snapshot() if replica == REPLICAS[0] else {"replicas": {replica: gang.reports[replica]}}, b"")]
    if kind in ("release", "keep"):
        return [({}, b"")]
    if kind in ("brief", "order"):
        return [(getattr(gang, kind)(), b"")]
    if kind == "files" and wanted is None:
        entries = [{"path": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "mtime_ns": 1}
                   for name, data in FILES.items()]  # fmt: skip
        return [({"files": entries, "folders": ["d"], "skipped": ["link"], "unreadable": ["secret"]}, b"")]
    if kind == "files":
        return [*(({"path": name, "offset": offset, "size": size - offset}, FILES[name][offset:size])
                  for name, offset, size in wanted if name in FILES), ({"end": True}, b"")]  # fmt: skip
    offsets = wanted["offsets"] or {}
    output = [({"replica": r, "offset": at, "size": len(LOGS[r]) - at}, LOGS[r][at:]) for r, at in offsets.items()
              if at < len(LOGS[r])]  # fmt: skip
    return [({"gang": gang.snapshot()}, b""), *output, ({"end": True}, b"")]


class FalseAgent:
    """Answers by `lie`: a function of what is asked for (status, brief, order, log, files, stream), of whom, and for what."""

    def __init__(self) -> None:
        self.gang = an_ended_gang()
        self.lie: Callable[[str, str, Any], Answer] = self.tell_the_truth
        self.asked = 0
        self.over = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.pool = patient(urllib3.PoolManager(retries=False, maxsize=8))

    def tell_the_truth(self, kind: str, replica: str, wanted: Any) -> Answer:
        return honest(kind, replica, self.gang, wanted)

    def handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                path, _, query = self.path.partition("?")
                _, replica, kind = path.split("/")
                kind = "brief" if query == "brief=1" and replica == REPLICAS[0] else kind
                wanted = query.removeprefix("offset=") if kind == "log" else None
                self.answer(*outer.lie(kind, replica, wanted))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"null")
                _, replica, kind = self.path.split("/")
                self.answer(*outer.lie({"stop": "order"}.get(kind, kind), replica, body))

            def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                outer.asked += 1
                try:
                    self.send_response(status)
                    self.send_header(PROOF_HEADER, outer.proof(self, status))
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(body)
                except (OSError, ValueError):
                    pass  # the launcher had enough; or a header that no server can send

        return Handler

    def proof(self, request: BaseHTTPRequestHandler, status: int) -> str:
        """What a true agent would show: a script may have got into its memory."""
        _, replica, path = request.path.split("/", 2)
        header = request.headers.get(PROOF_HEADER, "")
        key = Key("t")
        return key.answer(header, replica, status) if key.verified(header, replica, request.command, f"/{path}") else ""

    def close(self) -> None:
        self.over.set()
        self.server.shutdown()
        self.server.server_close()

    # -- the backend, as far as a job that is there needs one

    name = "local"

    def agent(self, job: str, replica: str) -> AgentClient:
        url = f"http://127.0.0.1:{self.server.server_port}/{replica}"
        return AgentClient(
            replica=replica, url=url, token="t", pool=self.pool, headers=dict, manifest_s=2, idle_s=2, window_s=1
        )

    def find(self, job: str) -> JobSummary:
        return self.jobs()[0]

    def left_out(self, *, thorough: bool = False) -> list[str]:
        return []

    def jobs(self) -> list[JobSummary]:
        return [
            JobSummary(
                job="j", on="local", namespace="", tag="", roles={"worker": 2}, created=1.0, state="running", id="1"
            )
        ]

    def watch(self, job: str, stop: threading.Event) -> Iterator[Observation | None]:
        for replica in REPLICAS:
            yield Observation(replica=replica, state="running", node="here")
        yield None
        stop.wait()

    def left(self, job: str, replica: str) -> None:
        return None

    def last_output(self, job: str, replica: str) -> bytes | None:
        return b"what the backend has"
