"""Who knows the token and sends or takes next to nothing keeps no agent busy; a slow link goes on to the end."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from agent_port import agent_port, proof

from tfspawner.replica.agent import Agent
from tfspawner.replica.code import Code
from tfspawner.replica.connections import SLOWEST, Line
from tfspawner.replica.job import Job

MIB = 1 << 20
LONG = 30.0  # in which a loaded machine, too, sees that a window of a second is over


class Busy:
    """Counts the requests that an agent serves, as it does to know whether somebody collects."""

    def __init__(self) -> None:
        self.count, self.changed = 0, threading.Condition()

    @contextmanager
    def serving(self, name: str) -> Iterator[None]:
        self.add(1)
        try:
            yield
        finally:
            self.add(-1)

    def add(self, number: int) -> None:
        with self.changed:
            self.count += number
            self.changed.notify_all()

    def is_at(self, count: int) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: self.count == count, LONG)


class Written:
    """A replica's files, all zeros; and a list of them that no socket holds."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        with open(path, "wb") as file:
            file.truncate(size)

    def open(self, name: str, size: int):
        return open(self.path, "rb")

    def manifest(self, named, alive):
        return {"files": ["x" * 1000] * 20_000}


@pytest.fixture
def window(monkeypatch):
    """Of less than a second, in place of a minute."""
    monkeypatch.setattr("tfspawner.replica.connections.KEEPS_UP_S", 0.8)
    monkeypatch.setattr("tfspawner.replica.server.KEEPS_UP_S", 0.8)
    monkeypatch.setattr("tfspawner.replica.base.COLLECTING_PAUSE_S", 0.2)


def asked(port: int, method: str, path: str, body: bytes = b"", length: int | None = None) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=LONG)
    size = len(body) if length is None else length
    head = f"{method} {path} HTTP/1.1\r\n{proof(method, path)}Content-Length: {size}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


@contextmanager
def trickling(step) -> Iterator[None]:
    """Does a step of next to nothing, again and again, as long as the other side takes part."""
    over = threading.Event()

    def work() -> None:
        with suppress(OSError):
            while not over.wait(0.05):
                step()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield
    over.set()
    thread.join()


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/files"), ("PUT", "/code"), ("POST", "/checkpoints"), ("POST", "/stream")]
)
@pytest.mark.parametrize("step", [b"", b" "], ids=["nothing", "a byte at a time"])
def test_a_body_that_does_not_come_is_not_waited_for(tmp_path, window, method, path, step):
    busy = Busy()
    code = Code(Job({"code_sha256": "0", "job": "j", "roles": {"worker": 1}}), tmp_path, tmp_path / "none")
    known = {"code": code, "root": tmp_path, "files": (files := Written(tmp_path / "file", 9)), "job": code.job,
             "checkpoints": type("Checkpoints", (), {"newest": files})}  # fmt: skip
    with agent_port(tmp_path, serving=busy.serving, **known) as port:
        asking = asked(port, method, path, b"[", length=1000)
        assert busy.is_at(1)
        with trickling(lambda: asking.sendall(step)):
            assert busy.is_at(0), "it is served still"
        asking.close()


@pytest.mark.parametrize(("method", "path"), [("GET", "/files"), ("POST", "/files"), ("POST", "/checkpoints")])
def test_who_takes_an_answer_byte_by_byte_is_hung_up_on(tmp_path, window, method, path):
    busy = Busy()
    files = Written(tmp_path / "file", 64 * MIB)
    body = json.dumps([["model", 0, 64 * MIB]]).encode() if method == "POST" else b""
    known = {"files": files, "checkpoints": type("Checkpoints", (), {"newest": files})}
    with agent_port(tmp_path, serving=busy.serving, **known) as port:
        asking = asked(port, method, path, body)
        with trickling(lambda: asking.recv(1)):
            assert asking.recv(1)
            assert busy.is_at(0), "it is served still"
        asking.close()


def test_an_agent_lets_its_replica_end_whoever_is_on_the_line(tmp_path, window):
    """The replica's own account of who collects, with one who sends no body."""
    config = {"job": "j", "roles": {"worker": 1}, "coordinator_address": "127.0.0.1:1", "code_sha256": "", "collect": [],
              "restarts": 0, "replaces_lost": False}  # fmt: skip
    replica = Agent(Job(config), "worker", 0, "127.0.0.1", 1, 2, "", tmp_path, tmp_path)
    known = {"files": replica.files}
    with agent_port(tmp_path, serving=replica.serving, **known) as port:
        asking = asked(port, "POST", "/files", length=1000)
        deadline = time.monotonic() + LONG
        while replica.is_collected():
            assert time.monotonic() < deadline, "the request has not come"
            time.sleep(0.01)
        while not replica.is_collected():
            assert time.monotonic() < deadline, "it is collecting still"
            time.sleep(0.1)
        asking.close()


@pytest.fixture
def carried(monkeypatch):
    """What a link carries, in `size`; the agent's clock goes on by that alone, a second for each megabyte.

    So all is a hundred times as fast as on a link of 10 kB a second, and no machine is too loaded for it. `windows`
    has how long each window is that was begun.
    """
    made, begin = SimpleNamespace(size=0, windows=[]), Line.begin

    def begin_faster(line: Line, within_s: float, least: float = 100 * SLOWEST) -> None:
        made.windows.append(within_s)
        begin(line, within_s, least)

    clock = SimpleNamespace(**{**vars(time), "monotonic": lambda: made.size / 1_000_000})
    monkeypatch.setattr(sys.modules[Line.__module__], "time", clock)
    monkeypatch.setattr(Line, "begin", begin_faster)
    return made


def test_a_link_of_10_kb_a_second_goes_on(tmp_path, monkeypatch, carried):
    """What sockets hold on the way, up to megabytes, moves in leaps: what has arrived counts, not what could be sent."""
    window_s = 0.1
    monkeypatch.setattr("tfspawner.replica.connections.KEEPS_UP_S", window_s)
    monkeypatch.setattr("tfspawner.replica.server.KEEPS_UP_S", window_s)
    busy = Busy()
    with agent_port(tmp_path, serving=busy.serving, files=Written(tmp_path / "file", 64 * MIB)) as port:
        asking = asked(port, "POST", "/files", json.dumps([["model", 0, 64 * MIB]]).encode())
        deadline = time.monotonic() + LONG
        while carried.windows.count(window_s) < 4:
            assert time.monotonic() < deadline, "no window was judged"
            size = len(asking.recv(1000))
            assert size, "it is hung up on"
            carried.size += size
            time.sleep(0.002)
        assert busy.count == 1
        asking.close()
        assert busy.is_at(0)


def test_a_connection_that_asks_nothing_more_is_closed(tmp_path, monkeypatch):
    monkeypatch.setattr("tfspawner.replica.server.IDLE_S", 1.0)
    with agent_port(tmp_path) as port:
        asking = asked(port, "GET", "/status")
        data = b""
        while b"\r\n\r\n" not in data:
            data += asking.recv(MIB)
        while asking.recv(MIB):
            pass
        asking.close()


@pytest.mark.parametrize("has_sendfile", [True, False])
def test_a_file_comes_whole_where_the_kernel_does_not_send_it(tmp_path, monkeypatch, has_sendfile):
    import errno
    import os

    def refused(*_):
        raise OSError(errno.EINVAL, "this file system cannot")

    if not has_sendfile:
        monkeypatch.setattr(os, "sendfile", refused)
    size = 3 * MIB + 5
    written = Written(tmp_path / "file", size)
    written.path.write_bytes(os.urandom(size))
    with agent_port(tmp_path, files=written) as port:
        asking = asked(port, "POST", "/files", json.dumps([["model", 2, size]]).encode())
        data = b"".join(iter(lambda: asking.recv(MIB), b""))
        asking.close()
    frame = data.partition(b"\r\n\r\n")[2]
    head, _, rest = frame.partition(b"\n")
    assert json.loads(head) == {"path": "model", "offset": 2, "size": size - 2}
    assert rest == written.path.read_bytes()[2:] + b'{"end": true}\n'


def test_a_line_on_which_nothing_arrives_any_more_is_dead(monkeypatch):
    """Such as to a machine that sleeps: its kernel takes nothing. In its place one that does not read."""
    monkeypatch.setattr("tfspawner.replica.connections.KEEPS_UP_S", 0.2)
    here, there = socket.socketpair()
    line = Line.over(here)
    deadline = time.monotonic() + LONG
    assert not line.is_dead()
    line.sendall(b"news")
    while not line.is_dead():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    there.recv(4)
    time.sleep(0.4)
    assert not line.is_dead()
    line.close()
    there.close()
