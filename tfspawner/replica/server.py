"""The agent's HTTP server: clients have to prove that they know the job's token."""

from __future__ import annotations

import itertools
import json
import math
import re
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from .base import Replica
from .checks import read_json
from .connections import IDLE_S, KEEPS_UP_S, Line
from .protocol import CHUNK, NOT_KNOWN, PROOF_HEADER
from .stream import STREAMS_HOLD

HEAD_S = 20.0  # how long a stranger has to show the token

MOST_STRANGERS = 256  # how many strangers' connections are held at once: each has a thread

DRAIN_S, DRAIN_IDLE_S = 20.0, 0.5  # how long a refused request's body is read, and how long it may send nothing


class Handler(BaseHTTPRequestHandler):
    """Answers requests to one agent, which the server object holds."""

    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"  # for requests without a version: they are also answered with a status
    disable_nagle_algorithm = True
    server: Listener
    connection: Line
    proof: str | None = None  # the proof that this request has shown
    unread = 0  # bytes of the request's body

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing: requests are not news."""
        pass

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answers invalid HTTP like any other stranger, and not with Python's error page."""
        self.refuse(401, NOT_KNOWN)

    def version_string(self) -> str:
        """What the Server header says."""
        return "tf-spawner"  # not which Python this is

    def send_response(self, code: int, message: str | None = None) -> None:
        """Every answer proves the key, and tells a browser that no page may use it, as an image or script either."""
        super().send_response(code, message)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        if self.proof:
            agent = self.server.agent
            self.send_header(PROOF_HEADER, agent.key.answer(self.proof, agent.replica, int(code)))

    def __getattr__(self, name: str) -> Any:
        """Answers every method, even an unknown one, in the same way."""
        if name.startswith("do_"):
            return self.handle_any
        raise AttributeError(name)

    def handle_one_request(self) -> None:
        """Waits for a request, but not for ever."""
        self.proof = None
        self.connection.begin(IDLE_S, math.inf)
        super().handle_one_request()

    def is_known(self) -> bool:
        """Whether the request proves to know the job's token, and is not a repeated one; answers a stranger's."""
        agent, header = self.server.agent, self.headers.get(PROOF_HEADER, "")
        if self.proof is None:
            sender = agent.key.verified(header, agent.replica, self.command, self.path)
            if sender is None or not agent.answered.is_new(*sender):
                self.refuse(401, NOT_KNOWN)
                return False
            self.proof = header
            self.server.forget(self.connection)
        return True

    def handle_expect_100(self) -> bool:
        """Asks for the body only if the client has the token."""
        return self.is_known() and super().handle_expect_100()

    def handle_any(self) -> None:
        """Answers a request, or refuses it."""
        agent = self.server.agent
        if not self.is_known() or not self.has_length():
            return
        self.connection.begin(KEEPS_UP_S)
        try:
            url = urlsplit(self.path)
        except ValueError as error:
            return self.refuse(400, f"bad request: {error!r}")
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        name = f"{self.command.lower()}_{url.path.strip('/').split('/')[0]}"
        handle = getattr(self, name, None) if self.command in ("GET", "POST", "PUT") else None
        if handle is None:
            return self.refuse(404, f"no {self.command} {url.path} here")
        try:
            with agent.serving(name):
                handle(agent, url.path, query)
        except (BrokenPipeError, ConnectionError, socket.timeout):
            self.close_connection = True
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError, OSError) as error:
            self.refuse(400, f"bad request: {error!r}")

    def has_length(self) -> bool:
        """Whether the length of the request's body is known; if not, answers the request."""
        lengths = self.headers.get_all("Content-Length", ["0"])
        self.unread = int(lengths[0]) if len(lengths) == 1 and re.fullmatch("[0-9]{1,18}", lengths[0]) else -1
        if self.unread >= 0 and "Transfer-Encoding" not in self.headers:
            return True
        self.refuse(400, "bad request: its body has no length")
        return False

    def refuse(self, status: int, message: str) -> None:
        """Answers with an error, and hangs up."""
        self.close_connection = True  # what is left of a stranger's body is not read
        if self.proof:
            self.drain()
        self.reply(message.encode(), status)

    def read(self, most: int) -> bytes:
        """The next bytes of the request's body."""
        data = self.rfile.read(min(most, self.unread))
        self.unread = self.unread - len(data) if data else 0
        return data

    def drain(self) -> None:
        """Reads the rest of the body: a proxy that cannot send it all passes no answer on."""
        deadline = time.monotonic() + DRAIN_S
        with suppress(OSError):  # a time-out is one
            while self.unread > 0 and time.monotonic() < deadline:
                self.connection.begin(DRAIN_IDLE_S)
                data = self.rfile.read1(min(CHUNK, self.unread))  # what there is
                if not data:
                    break
                self.unread -= len(data)

    def reply(self, data: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Answers with these bytes."""
        self.close_connection = self.close_connection or self.unread > 0  # it would be taken for the next request
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def reply_json(self, value: Any) -> None:
        """Answers with a JSON value."""
        self.reply(json.dumps(value).encode(), headers={"Content-Type": "application/json"})

    def begin_stream(self) -> None:
        """Begins an answer of any length; hangs up on a client that does not keep up, which may begin again."""
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Connection", "close")
        self.end_headers()

    def frame(self, head: dict[str, Any], data: bytes = b"") -> None:
        """Sends a line of JSON, and bytes after it."""
        self.wfile.write(json.dumps(head).encode() + b"\n" + data)

    def body(self, longest: int, most_marks: int) -> Any:
        """The request's JSON value. Raises ValueError for one that is too large."""
        if self.unread > longest:
            raise ValueError(f"{self.unread} bytes are more than the {longest} that this may take")
        data, self.unread = self.rfile.read(self.unread), 0
        return read_json(data, most_marks)

    def alive(self) -> bool:
        """Whether the other side still holds the connection (it sends nothing while it waits)."""
        waiting = select.poll()  # select() fails where more than 1,024 files are open
        waiting.register(self.connection, select.POLLIN)
        return not waiting.poll(0)


class Listener(ThreadingHTTPServer):
    """Takes connections, and hangs up on the oldest of too many that have not shown the token."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, agent: Replica, listener: socket.socket, handler: type[Handler]) -> None:
        super().__init__(listener.getsockname()[:2], handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.agent = agent
        self.strangers: dict[socket.socket, float] = {}  # connections that have not shown the token yet, and since when
        self.streams: list[int] = []  # what each may hold, in bytes
        self.lock = threading.Lock()
        listener.listen(self.request_queue_size)

    def get_request(self) -> tuple[Line, Any]:
        """A connection as a Line, which judges the other side's pace."""
        connection, address = super().get_request()
        return Line.over(connection), address

    def process_request(self, request: Any, client_address: Any) -> None:
        """Notes a connection as a stranger's until it has shown the token."""
        with self.lock:
            too_many = list(self.strangers)[: max(0, len(self.strangers) + 1 - MOST_STRANGERS)]
            self.strangers[request] = time.monotonic()
        self.hang_up(too_many)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forgets a connection that has ended."""
        self.forget(request)
        super().shutdown_request(request)

    def forget(self, connection: Any) -> None:
        """Removes the connection from the strangers."""
        with self.lock:
            self.strangers.pop(connection, None)

    @contextmanager
    def streaming(self, size: int) -> Iterator[int]:
        """Counts a stream of so many bytes; gives 0, or the number of streams that leave no memory for it."""
        with self.lock:
            others = len(self.streams) if sum(self.streams) + size > STREAMS_HOLD else 0
            if not others:
                self.streams.append(size)
        try:
            yield others
        finally:
            with self.lock:
                if not others:
                    self.streams.remove(size)

    def service_actions(self) -> None:
        """Hangs up on strangers whose time is over: each holds a thread and a file."""
        late = time.monotonic() - HEAD_S
        with self.lock:
            overdue = list(itertools.takewhile(lambda stranger: stranger[1] < late, self.strangers.items()))
        self.hang_up([connection for connection, _ in overdue])

    def hang_up(self, connections: list[socket.socket]) -> None:
        """Ends these connections."""
        for connection in connections:
            self.forget(connection)
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Shows a bug's traceback; a broken connection is not a bug."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, socket.timeout)):
            super().handle_error(request, client_address)
