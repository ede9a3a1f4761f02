"""Launcher and agents prove to each other that they know the job's token, and never send it."""

import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import urllib3
from agent_port import agent_port
from confinement import CLOSED, LOOKS
from hypothesis import given
from hypothesis import strategies as st

import tfspawner
from tfspawner.backends.client import AgentClient
from tfspawner.errors import AgentUnreachable, NotTheAgent
from tfspawner.replica import connections
from tfspawner.replica.peers import Peer
from tfspawner.replica.proofs import Answered, Key
from tfspawner.replica.protocol import PROOF_HEADER


def verified(header: str, *request: str, token: str = "right"):
    return Key(token).verified(header, *request)


def test_a_proof_holds_for_its_token_replica_method_and_path_alone():
    header = Key("right").request("worker-0", "GET", "/log?offset=1")
    assert verified(header, "worker-0", "GET", "/log?offset=1") == (Key.sending[0], int(header.split(".")[1]))
    assert "right" not in header
    for other in (("worker-1", "GET", "/log?offset=1"), ("worker-0", "POST", "/log?offset=1"),
                  ("worker-0", "GET", "/log?offset=2"), ("worker-0", "GET", "/log")):  # fmt: skip
        assert verified(header, *other) is None
    assert verified(header, "worker-0", "GET", "/log?offset=1", token="wrong") is None


@pytest.mark.parametrize("sent", ["/files?named=*.v2&x=", "/files?named=a%2Fb%20c", "/log?offset=1&wait=0.5"])
@pytest.mark.parametrize("change", [lambda path: path.replace("*", "%2A"), lambda path: path.replace("%20", "+"),
                                    lambda path: path.replace("/files", "/%66iles")])  # fmt: skip
def test_a_proxy_may_write_the_path_otherwise(sent, change):
    assert verified(Key("right").request("worker-0", "GET", sent), "worker-0", "GET", change(sent))


def test_two_words_are_not_the_same_as_one_with_the_cut_elsewhere():
    header = Key("right").request("worker-0", "GET", "/a")
    for other in (("worker-0\nGET", "/a", ""), ("worker-0", "GET\n/a", ""), ("", "worker-0\nGET", "/a")):
        assert verified(header, *other) is None


@given(st.lists(st.integers(1, 2000), max_size=300))
def test_no_number_is_new_twice_and_one_a_little_late_still_is(numbers):
    answered, seen, highest = Answered(), set(), 0
    for number in numbers:
        highest = max(highest, number)
        expected = number not in seen and highest - number < Answered.WINDOW
        assert answered.is_new("sender", number) is expected
        seen.add(number)


def test_numbers_of_one_sender_do_not_count_for_another_and_memory_is_bounded():
    answered = Answered()
    assert answered.is_new("a", 10**18 - 1)
    assert answered.is_new("b", 1)
    assert not answered.is_new("b", 1)
    for number in range(Answered.SENDERS + 10):
        assert answered.is_new(f"sender {number}", 1)
    assert len(answered.last) == Answered.SENDERS


def test_requests_of_other_jobs_do_not_make_one_late():
    answered, here, elsewhere = Answered(), Key("right"), Key("other")
    first, *_ = [
        here.request("worker-0", "GET", "/a"),
        *(elsewhere.request("worker-0", "GET", "/a") for _ in range(300)),
    ]
    for header in (here.request("worker-0", "GET", "/a"), first):
        assert answered.is_new(*here.verified(header, "worker-0", "GET", "/a"))


def test_a_process_that_asks_ever_more_replicas_counts_anew_as_another_sender(monkeypatch):
    monkeypatch.setattr(Key, "sending", ("0" * 16, {}))
    monkeypatch.setattr(Key, "MOST_ASKED", 4)
    key, answered, senders = Key("right"), Answered(), set()
    for number in range(20):
        replica = f"worker-{number % 10}"
        sender = key.verified(key.request(replica, "GET", "/a"), replica, "GET", "/a")
        assert answered.is_new(f"{replica} {sender[0]}", sender[1])
        assert len(Key.sending[1]) <= 4
        senders.add(sender[0])
    assert len(senders) == 5


def test_a_forked_process_is_another_sender():
    before = Key.sending[0]
    read, write = os.pipe()
    if not os.fork():
        os.write(write, Key.sending[0].encode())
        os._exit(0)
    os.wait()
    assert os.read(read, 100).decode() != before == Key.sending[0]


@pytest.fixture
def real(tmp_path):
    with agent_port(tmp_path) as port:
        yield f"127.0.0.1:{port}"


def client(host: str, replica: str = "worker-0") -> AgentClient:
    return AgentClient(replica=replica, url=f"http://{host}", token="right", pool=urllib3.PoolManager(), headers=dict)


def test_a_request_that_was_answered_is_refused_when_it_comes_again(real):
    headers = {PROOF_HEADER: Key("right").request("worker-0", "GET", "/status")}
    told = []
    for _ in range(2):
        connection = http.client.HTTPConnection(real, timeout=10)
        connection.request("GET", "/status", headers=headers)
        told.append(connection.getresponse().status)
    assert told == [200, 401]


def test_agents_and_launcher_hear_a_real_agent(real):
    client(real).ping()
    assert Peer(Key("right"), "worker-0", real).ask_json("GET", "/status") == {"replicas": {"worker-0": {}}}
    with pytest.raises(AgentUnreachable, match="401"):
        client(real, "worker-1").ping()


class Impostor(BaseHTTPRequestHandler):
    """Has taken over a port: it answers as an agent would, with a proof as the test says, and keeps what it was sent."""

    seen: list[str] = []
    proof = ""
    status = 200

    def do_GET(self):
        Impostor.seen.append(str(self.headers) + self.path)
        self.send_response(self.status)
        if self.proof:
            self.send_header(PROOF_HEADER, self.proof.replace("ECHO", self.headers[PROOF_HEADER]))
        self.end_headers()
        self.wfile.write(json.dumps({"replicas": {"../../x": {}}}).encode())

    do_POST = do_GET

    def log_message(self, *args):
        pass


@pytest.fixture
def impostor():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Impostor)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    Impostor.seen.clear()
    yield f"127.0.0.1:{server.server_port}"
    Impostor.proof, Impostor.status = "", 200
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("proof", ["", "ECHO", "0" * 64, "\xff", Key("wrong").answer("x", "worker-0", 200)])
def test_who_has_taken_over_a_port_is_not_heard_and_learns_no_token(impostor, proof):
    Impostor.proof = proof
    with pytest.raises(NotTheAgent, match="worker-0 was lost: its agent is gone, and what answers in its place"):
        client(impostor).ping()
    with pytest.raises(NotTheAgent):
        next(client(impostor).stream(None, ["worker-0"]))
    with pytest.raises(OSError, match="is not worker-0's agent"):
        Peer(Key("right"), "worker-0", impostor).ask_json("GET", "/status")
    assert len(Impostor.seen) == 3
    assert "right" not in "".join(Impostor.seen)


@pytest.mark.parametrize(("status", "proof"), [(200, ""), (200, "0" * 64), (401, ""), (503, "")])
def test_an_address_at_which_another_answers_is_looked_up_anew(impostor, monkeypatch, status, proof):
    Impostor.status, Impostor.proof = status, proof
    monkeypatch.setattr(connections, "RESOLVED", {"gone": "127.0.0.1"})
    with pytest.raises(OSError, match="at gone"):
        Peer(Key("right"), "worker-0", f"gone:{impostor.rpartition(':')[2]}").ask_json("GET", "/status")
    assert connections.RESOLVED == {}


def test_an_address_at_which_the_agent_answers_stays_whatever_it_answers(real, monkeypatch):
    monkeypatch.setattr(connections, "RESOLVED", {"there": "127.0.0.1"})
    with pytest.raises(OSError, match="404"):
        Peer(Key("right"), "worker-0", f"there:{real.rpartition(':')[2]}").ask_json("GET", "/nothing")
    assert connections.RESOLVED == {"there": "127.0.0.1"}


def test_what_a_taken_port_was_asked_lets_nobody_in_elsewhere(impostor, real):
    """Its request is passed on to the true agent of another replica, to have its proof."""
    with pytest.raises(NotTheAgent):
        client(impostor, "worker-1").ping()
    header = next(line for line in Impostor.seen[0].splitlines() if line.startswith(PROOF_HEADER)).partition(": ")[2]
    connection = http.client.HTTPConnection(real, timeout=10)
    connection.request("GET", "/status", headers={PROOF_HEADER: header})
    assert connection.getresponse().status == 401


# ---- what the script's own user can see of the agent --------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to run an agent as another user")
@pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="needs a Python that every user can run")
def test_a_script_of_the_same_user_cannot_look_into_its_agent():
    from test_agent_server import Running

    nobody = 65534
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chown(folder, nobody, nobody)
        running = Running(folder, LOOKS, user=nobody)
        try:
            lines = running.whole_log().decode().splitlines()
        finally:
            running.process.terminate()
            running.process.wait(10)
    assert dict(line.split(" ", 1) for line in lines[:-1]) == CLOSED
    assert lines[-1] == "False"


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")
def test_the_token_leaves_the_environment_of_the_agents_process():
    """Seen by the process itself, as root: who may look into every process finds other variables there, and not this one."""
    program = (
        "import os, sys; from tfspawner.replica.processes import take_token\n"
        "token = take_token(None)\n"
        "left = open('/proc/self/environ', 'rb').read()\n"
        "print(token == 'a-token', b'a-token' in left, b'OTHER=stays' in left, 'TFSPAWNER_TOKEN' in os.environ)"
    )
    env = {"PATH": os.environ["PATH"], "TFSPAWNER_TOKEN": "a-token", "OTHER": "stays",
           "PYTHONPATH": str(Path(tfspawner.__file__).parents[1])}  # fmt: skip
    if os.geteuid() != 0:
        pytest.skip("needs root: once it is closed, a process cannot read its own environment there")
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False", "True", "False"], done.stderr


def test_the_cost_of_proofs_is_small_beside_a_request():
    key, answered = Key("right"), Answered()
    began = time.perf_counter()
    for _ in range(1000):
        header = key.request("worker-0", "GET", "/log?offset=1")
        sender = key.verified(header, "worker-0", "GET", "/log?offset=1")
        assert sender
        assert answered.is_new(*sender)
        key.answer(header, "worker-0", 200)
    assert (time.perf_counter() - began) / 1000 < 0.002  # some 50 µs; a request takes 1,000 or more
