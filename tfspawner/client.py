"""The agent's HTTP interface, seen from the launcher's side: over loopback, or through the API server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import quote

import urllib3

from .agent import CHUNK, TOKEN_HEADER
from .code import Code
from .errors import AgentUnreachable

STREAM_IDLE_S = 15.0  # a stream that brings nothing for so long is given up, and begun again
LONGEST_HEAD = 64 << 20  # bytes of a frame's head, or of an answer: the reports of all replicas
LONGEST_FILE_HEAD = 1 << 20
LONGEST_MANIFEST = 256 << 20
LOG_S = 300.0  # in which the bytes of one log request have to come
SLOWEST = 1024  # bytes a second, at which files have to come
Frame = tuple[dict[str, Any], "Body"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentClient:
    """One replica's agent. Every method raises AgentUnreachable where it does not answer as it should."""

    replica: str
    url: str
    token: str
    pool: urllib3.PoolManager
    headers: Callable[[], Mapping[str, str]]  # what the way there asks for; made anew for each request
    manifest_s: float = 300.0  # how long a manifest may take: its beginning, and then all the rest of it
    idle_s: float = 60.0  # how long files may send nothing
    window_s: float = 60.0  # how long they may come slower than SLOWEST

    def status(self, timeout_s: float = 5.0) -> dict[str, Any]:
        """The gang's snapshot where this is the coordinator, else {"replicas": {this one's report}}."""
        status: dict[str, Any] = self._json("GET", "/status", timeout_s=timeout_s)
        return status

    def order(self, version: int, wait_s: float) -> dict[str, Any]:
        """{"version", "phase", "result"} of the gang, as soon as the version is another or wait_s are over."""
        order = self._json("GET", f"/order?version={version}&wait={wait_s:g}", timeout_s=wait_s + 10)
        if not isinstance(order, dict) or not {"version", "phase", "result"} <= order.keys():
            raise AgentUnreachable(f"{self.replica}'s agent sent no order")
        return order

    def brief(self, timeout_s: float = 5.0) -> dict[str, Any]:
        """The gang in one line (to be asked of the coordinator): of equal size for any number of replicas."""
        told: dict[str, Any] = self._json("GET", "/status?brief=1", timeout_s=timeout_s)
        return told

    def manifest(self, named: str | None = None) -> dict[str, Any]:
        """{"files": [{path, size, sha256}]}, and paths: "folders", "skipped" (links, devices), "unreadable".

        Of files named like a pattern alone, without their SHA-256.
        """
        path = f"/files?named={quote(named)}" if named else "/files"
        manifest = self._json("GET", path, timeout_s=self.manifest_s, longest=LONGEST_MANIFEST)
        lists = isinstance(manifest, dict) and [
            manifest.get(key) for key in ("files", "folders", "skipped", "unreadable")
        ]
        if not lists or not all(isinstance(found, list) for found in lists):
            raise AgentUnreachable(f"{self.replica}'s agent sent no list of files")
        return manifest  # type: ignore[no-any-return]  # a dict: see above

    def log(self, offset: int) -> tuple[int, bytes, bool]:
        """Output from offset on, at most 4 MiB of it: where it begins, its bytes, and whether the output ends there.

        It begins later than offset where another pod has taken the replica's place.
        """
        with self._request("GET", f"/log?offset={offset}", timeout_s=30) as reply:
            data = self._read(reply, LOG_S)
            try:
                return int(reply.headers["X-Offset"]), data, reply.headers.get("X-End") == "1"
            except (KeyError, ValueError):
                raise AgentUnreachable(f"{self.replica}'s agent sent no offset of its log") from None

    def release(self) -> None:
        """Lets all replicas of the job end (to be asked of the coordinator)."""
        self._json("POST", "/release", timeout_s=5.0)

    def keep(self) -> None:
        """Lets the job hold its files as long as after success (to be asked of the coordinator)."""
        self._json("POST", "/keep", timeout_s=5.0)

    def stop(self) -> dict[str, Any]:
        """Ends the job's training (to be asked of the coordinator); gives the order that held until then."""
        before = self._json("POST", "/stop", timeout_s=5.0)
        if not isinstance(before, dict) or not {"phase", "generation"} <= before.keys():
            raise AgentUnreachable(f"{self.replica}'s agent sent no order")
        return before

    def send_code(self, code: Code) -> None:
        size = str(code.size_bytes)
        with self._request("PUT", "/code", code.open(), {"Content-Length": size}, timeout_s=60) as reply:
            self._read(reply, 60)

    def stream(self, offsets: Mapping[str, int] | None, idle_s: float = STREAM_IDLE_S) -> Iterator[Frame]:
        """Frames with every replica's output from its offset on, and the gang's news, until the job's end.

        Without offsets the news alone.
        """
        body = json.dumps({"offsets": offsets}).encode()
        with self._request("POST", "/stream", body, timeout_s=idle_s) as reply:
            yield from self._frames(Body(reply, self.replica))

    def files(self, wanted: list[tuple[str, int, int]]) -> Iterator[Frame]:
        """Frames with the bytes of those files (path, offset, size), each from its offset to its size."""
        with self._request("POST", "/files", json.dumps(wanted).encode(), timeout_s=self.idle_s) as reply:
            yield from self._frames(Body(reply, self.replica, longest=LONGEST_FILE_HEAD, window_s=self.window_s))

    def _frames(self, source: Body) -> Iterator[Frame]:
        while True:
            head = source.line()
            if head.get("end"):
                return
            source.left = head.get("size", 0)
            if type(source.left) is not int or source.left < 0:
                raise AgentUnreachable(f"{self.replica}'s agent sent no frame")
            yield head, source
            source.skip()

    def _json(self, method: str, path: str, timeout_s: float, longest: int = LONGEST_HEAD) -> Any:
        with self._request(method, path, timeout_s=timeout_s) as reply:
            try:
                return json.loads(self._read(reply, timeout_s, longest))
            except (ValueError, RecursionError):
                raise AgentUnreachable(f"{self.replica}'s agent sent no JSON for {path}") from None

    def _read(self, reply: urllib3.BaseHTTPResponse, timeout_s: float, longest: int = LONGEST_HEAD) -> bytes:
        """The whole answer. It has timeout_s from here on."""
        deadline = time.monotonic() + timeout_s
        data = bytearray()
        while piece := read_some(reply, CHUNK, self.replica):
            data += piece
            if len(data) > longest:
                raise AgentUnreachable(f"{self.replica}'s agent sent more than {longest:,} bytes")
            if time.monotonic() > deadline:
                raise AgentUnreachable(f"{self.replica}'s agent sent no whole answer in {timeout_s:g} s")
        return bytes(data)

    def _request(self, method: str, path: str, body: bytes | IO[bytes] | None = None,
                 headers: Mapping[str, str] | None = None, *, timeout_s: float) -> urllib3.BaseHTTPResponse:  # fmt: skip
        try:
            reply = self.pool.request(
                method, self.url + path, body=body, preload_content=False, decode_content=False, retries=False, redirect=False,
                headers={**self.headers(), TOKEN_HEADER: self.token, **(headers or {})},
                timeout=urllib3.Timeout(connect=5, read=timeout_s),
            )  # fmt: skip
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise AgentUnreachable(f"{self.replica}'s agent does not answer: {error}") from None
        if reply.status != 200:
            with reply:
                text = read_some(reply, 300, self.replica).decode(errors="replace").strip()
            raise AgentUnreachable(f"{self.replica}'s agent answered {reply.status}: {text}")
        return reply


def read_some(reply: urllib3.BaseHTTPResponse, most: int, replica: str) -> bytes:
    """At most that many bytes, as soon as there are any; none at the end."""
    try:
        return reply.read1(most)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise AgentUnreachable(f"{replica}'s agent broke off: {error}") from None


class Body:
    """The raw bytes behind a frame's head; to be read before the next frame, or else skipped.

    With window_s, the other side is broken off when it let us wait that long for less than SLOWEST.
    """

    def __init__(self, reply: urllib3.BaseHTTPResponse, replica: str, *, longest: int = LONGEST_HEAD,
                 window_s: float | None = None) -> None:  # fmt: skip
        self.reply, self.replica, self.longest, self.window_s = reply, replica, longest, window_s
        self.left, self._buffer = 0, b""
        self._waited, self._came = 0.0, 0

    def line(self) -> dict[str, Any]:
        pieces, size = [self._buffer], len(self._buffer)
        while b"\n" not in pieces[-1]:
            if size > self.longest:
                raise AgentUnreachable(f"{self.replica}'s agent sent no frame")
            pieces.append(self._more(65536))
            size += len(pieces[-1])
        line, _, self._buffer = b"".join(pieces).partition(b"\n")
        try:
            head = json.loads(line)
        except (ValueError, RecursionError):
            raise AgentUnreachable(f"{self.replica}'s agent sent no frame") from None
        if not isinstance(head, dict):
            raise AgentUnreachable(f"{self.replica}'s agent sent no frame")
        return head

    def pieces(self) -> Iterator[bytes]:
        while self.left:
            data = self._buffer or self._more(CHUNK)
            data, self._buffer = data[: self.left], data[self.left :]
            self.left -= len(data)
            yield data

    def skip(self) -> None:
        for _ in self.pieces():
            pass

    def _more(self, most: int) -> bytes:
        began = time.monotonic()
        data = read_some(self.reply, most, self.replica)
        if not data:
            raise AgentUnreachable(f"{self.replica}'s agent broke off before the end")
        self._waited += time.monotonic() - began
        self._came += len(data)
        if self.window_s and self._waited > self.window_s:
            if self._came < SLOWEST * self._waited:
                raise AgentUnreachable(f"{self.replica}'s agent sent {self._came} bytes in {self._waited:.0f} s")
            self._waited, self._came = 0.0, 0
        return data
