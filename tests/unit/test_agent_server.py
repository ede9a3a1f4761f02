"""A real agent, asked over HTTP by strangers and by its launcher."""

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import urllib3

from tfspawner.backends.client import AgentClient
from tfspawner.errors import AgentBusy
from tfspawner.follow.logs import complete_logs
from tfspawner.follow.state import JobState, ReplicaState
from tfspawner.record.writing import Record
from tfspawner.replica.agent import Agent
from tfspawner.replica.job import Job
from tfspawner.replica.packing import packed
from tfspawner.replica.proofs import Key
from tfspawner.replica.protocol import PROOF_HEADER
from tfspawner.replica.server import MOST_STRANGERS

SCRIPT = """
import os, sys
print("token" in "".join(os.environ).lower(), flush=True)
open(os.environ["TFSPAWNER_OUTPUT"] + "/model", "w").write("weights")
sys.stdout.write("last line without end")
"""


class Running:
    """One agent with one worker's script."""

    def __init__(self, folder: Path, script: str = SCRIPT, user: int | None = None) -> None:
        import hashlib
        import tarfile

        (folder / "script.py").write_text(script)
        with tarfile.open(folder / "code.tar.gz", "w:gz") as archive:
            archive.add(folder / "script.py", "script.py")
        digest = hashlib.sha256((folder / "code.tar.gz").read_bytes()).hexdigest()
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        with socket.create_server(("127.0.0.1", 0)) as free:
            tensorflow = free.getsockname()[1]
        config = {
            "job": "j", "roles": {"worker": 1}, "coordinator_address": f"127.0.0.1:{self.port}",
            "script": "script.py", "args": [], "command_file": False, "original_script_path": False, "code_sha256": digest,
            "collect": [], "start_timeout_s": 60, "timeout_s": None, "hold_s": 60, "legacy_keras": False, "needs_tf_keras": False,
            "artifacts": None, "gpus": 0, "restarts": 0, "restart_on": [], "replaces_lost": False, "stall_timeout_s": None,
        }  # fmt: skip
        (folder / "job.json").write_text(json.dumps(config))
        for name, data in packed().items():
            (folder / name).write_bytes(data)
        command = [
            "/usr/bin/python3" if user else sys.executable,  # this one may lie where others cannot look
            folder / "agent.py",
            "--config",
            folder,
            "--role",
            "worker",
            "--root",
            folder / "root",
            "--host",
            "127.0.0.1",
            "--port",
            str(tensorflow),
            "--fd",
            str(listener.fileno()),
        ]
        with listener:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, "TFSPAWNER_TOKEN": "right"},
                pass_fds=[listener.fileno()],
                stdout=subprocess.DEVNULL,
                user=user,
            )

    def ask(self, method: str, path: str, token: str | None = "right", body: bytes | None = None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {} if token is None else {PROOF_HEADER: Key(token).request("worker-0", method, path)}
        connection.request(method, path, body, headers)
        reply = connection.getresponse()
        return reply.status, reply.read(), reply.headers

    def whole_log(self) -> bytes:
        data = b""
        while True:
            _, more, headers = self.ask("GET", f"/log?offset={len(data)}&wait=10")
            data += more
            if headers["X-End"] == "1":
                return data


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    found = Running(tmp_path_factory.mktemp("agent"))
    yield found
    found.process.terminate()
    assert found.process.wait(10) == 0  # its script had succeeded


@pytest.mark.parametrize("token", [None, "", "wrong", "rightx", "r\xefght"])
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/status"), ("GET", "/log"), ("GET", "/files"), ("POST", "/files"), ("POST", "/stream"), ("GET", "/code"),
     ("PUT", "/code"), ("POST", "/release"), ("POST", "/report"), ("GET", "/order"), ("GET", "/nothing")],
)  # fmt: skip
def test_without_the_token_nothing_is_told(running, method, path, token):
    status, text, _ = running.ask(method, path, token)
    assert status == 401
    assert text == b"the request does not prove that it knows the job's token"


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/nothing", None, 404),
        ("GET", "/", None, 404),
        ("GET", "/../../etc/passwd", None, 404),
        ("POST", "/status", b"", 404),
        ("GET", "/log?offset=-1", None, 400),
        ("GET", "/log?offset=many", None, 400),
        ("POST", "/report", b"[]", 400),
        ("POST", "/report", b'{"replica": "worker-9"}', 400),
        ("POST", "/report", b"{", 400),
        ("GET", "/order", None, 400),
        ("PUT", "/code", b"other", 400),
        ("POST", "/stream", b"{}", 400),
    ],
)
def test_nonsense_is_refused_and_the_agent_lives_on(running, method, path, body, status):
    assert running.ask(method, path, body=body)[0] == status
    assert running.ask("GET", "/status")[0] == 200


def test_the_log_is_the_scripts_output_byte_for_byte_and_the_script_has_no_token(running):
    assert running.whole_log() == b"False\nlast line without end"


def test_files_come_as_frames_and_unknown_ones_are_missing(running):
    running.whole_log()
    _, manifest, _ = running.ask("GET", "/files")
    assert [file["path"] for file in json.loads(manifest)["files"]] == ["model"]
    _, stream, _ = running.ask("POST", "/files", body=json.dumps([["model", 3, 7], ["../x", 0, 1]]).encode())
    assert (
        stream == b'{"path": "model", "offset": 3, "size": 4}\nghts{"path": "../x", "missing": true}\n{"end": true}\n'
    )


def test_what_no_stream_brought_is_shown_when_the_logs_are_completed(running, tmp_path):
    whole = running.whole_log()
    shown = []
    client = AgentClient(replica="worker-0", url=f"http://127.0.0.1:{running.port}", token="right",
                         pool=urllib3.PoolManager(), headers=dict)  # fmt: skip
    record = Record(tmp_path / "runs/j", "id")
    record.append_log("worker-0", 0, whole[:3])
    view = SimpleNamespace(log=lambda replica, data: shown.append((replica, data)))
    state = JobState(job="j", replicas={"worker-0": ReplicaState(replica="worker-0")})
    assert complete_logs(None, state, {"worker-0": client}, record, view) == ([], {})
    record.close()
    assert (record.logs / "worker-0.log").read_bytes() == whole
    assert b"".join(data for _, data in shown) == whole[3:]


def test_a_report_that_the_coordinator_could_not_take_yet_is_repeated_soon(tmp_path):
    arrived = []
    taken = threading.Event()

    class Late(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            arrived.append(time.monotonic())
            status = 200 if len(arrived) > 3 else 503
            self.send_response(status)
            self.send_header(PROOF_HEADER, Key("").answer(self.headers[PROOF_HEADER], "worker-0", status))
            self.end_headers()
            self.wfile.write(b"{}")
            if len(arrived) > 3:
                taken.set()

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Late)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    job = Job({"job": "j", "roles": {"worker": 2}, "restarts": 0, "replaces_lost": False, "collect": [],
                     "coordinator_address": f"127.0.0.1:{server.server_port}"})  # fmt: skip
    replica = Agent(job, "worker", 1, "127.0.0.1", 1, 2, "", tmp_path, tmp_path)
    replica.tell("getting the code")
    threading.Thread(target=replica.heartbeat, daemon=True).start()
    assert taken.wait(30)
    server.shutdown()
    assert arrived[3] - arrived[0] < 2  # a heartbeat comes once a second


def test_of_many_strangers_few_are_held_and_who_knows_the_token_gets_in(running):
    def threads() -> int:
        return len(list(Path(f"/proc/{running.process.pid}/task").iterdir()))

    strangers = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(MOST_STRANGERS + 100)]
    assert running.ask("GET", "/status")[0] == 200
    deadline = time.monotonic() + 20
    while threads() > MOST_STRANGERS + 50:
        assert time.monotonic() < deadline, threads()
        time.sleep(0.05)
    strangers[0].settimeout(20)
    assert strangers[0].recv(1) == b"", "the oldest was not hung up on"
    for stranger in strangers:
        stranger.close()


def test_a_log_is_given_in_pieces_as_small_as_they_are_asked_for(running):
    whole = running.whole_log()
    assert running.ask("GET", "/log?offset=1&most=5")[1] == whole[1:6]
    assert running.ask("GET", "/log?offset=1&most=99999999999")[1] == whole[1:]


def processor_time(process: int) -> int:
    words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return int(words[11]) + int(words[12])


CHATTY = """
import sys
for _ in range(40):
    sys.stdout.write(("x" * 99 + "\\n") * 10_000)
"""


def test_clients_that_stand_still_make_the_agent_hold_little(tmp_path):
    """40 MB of output, and three who asked for it and read nothing."""
    chatty = Running(tmp_path, CHATTY)
    try:
        offset, deadline = 0, time.monotonic() + 60
        while int(chatty.ask("GET", f"/log?offset={offset}&most=1")[2]["X-Size"]) < 40_000_000:
            assert time.monotonic() < deadline
            time.sleep(0.05)

        def resident() -> int:
            return int(Path(f"/proc/{chatty.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

        def works_still() -> bool:
            """Whether it takes the processor within half a second."""
            before = processor_time(chatty.process.pid)
            time.sleep(0.5)
            return processor_time(chatty.process.pid) > before

        before, idle = resident(), []
        for _ in range(3):
            connection = http.client.HTTPConnection("127.0.0.1", chatty.port, timeout=30)
            proof = Key("right").request("worker-0", "POST", "/stream")
            body = json.dumps({"offsets": {"worker-0": 0}})
            connection.request("POST", "/stream", body, {PROOF_HEADER: proof})
            idle.append((connection, connection.getresponse()))
        while works_still():  # until the agent has read as far ahead as it ever will
            assert time.monotonic() < deadline
        assert resident() - before < 32_000_000
    finally:
        chatty.process.kill()
        chatty.process.wait()


@pytest.fixture
def sleeping(tmp_path):
    found = Running(tmp_path, "import time\ntime.sleep(600)\n")
    yield found
    found.process.kill()
    found.process.wait()


def test_all_streams_together_have_a_bound_and_one_more_is_refused_in_words(sleeping):
    def stream():
        client = AgentClient(replica="worker-0", url=f"http://127.0.0.1:{sleeping.port}", token="right",
                             pool=urllib3.PoolManager(), headers=dict)  # fmt: skip
        found = client.stream({"worker-0": 0}, ["worker-0"])
        next(found)
        return found

    def fill():
        while len(streams) < 200:
            streams.append(stream())

    streams = []
    with pytest.raises(AgentBusy, match=r"answered 503: \d+ streams are open here, .* end one") as refused:
        fill()
    assert f" {len(streams)} streams" in refused.value.message
    streams.pop().close()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            streams.append(stream())
            break
        except AgentBusy:
            time.sleep(0.1)
    else:
        pytest.fail("the place of one that has ended is not free again")
    for one in streams:
        one.close()
