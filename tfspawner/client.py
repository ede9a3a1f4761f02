"""The agent's HTTP interface, seen from the launcher's side: over loopback, or through the API server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

import urllib3

from .agent import CHUNK, TOKEN_HEADER
from .code import Code
from .errors import AgentUnreachable

LONGEST_HEAD = 64 << 20  # bytes of a frame's head: the reports of all replicas
Frame = tuple[dict[str, Any], "Body"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentClient:
    """One replica's agent. Every method raises AgentUnreachable where it does not answer as it should."""

    replica: str
    url: str
    token: str
    pool: urllib3.PoolManager
    headers: Callable[[], Mapping[str, str]]  # what the way there asks for; made anew for each request

    def status(self, timeout_s: float = 5.0) -> dict[str, Any]:
        """The gang's snapshot where this is the coordinator, else {"replicas": {this one's report}}."""
        status: dict[str, Any] = self._json("GET", "/status", timeout_s=timeout_s)
        return status

    def manifest(self, timeout_s: float = 300.0) -> dict[str, Any]:
        """{"files": [{path, size, sha256}]}, and paths: "folders", "skipped" (links, devices), "unreadable"."""
        manifest: dict[str, Any] = self._json("GET", "/files", timeout_s=timeout_s)
        lists = isinstance(manifest, dict) and [
            manifest.get(key) for key in ("files", "folders", "skipped", "unreadable")
        ]
        if not lists or not all(isinstance(found, list) for found in lists):
            raise AgentUnreachable(f"{self.replica}'s agent sent no list of files")
        return manifest

    def log(self, offset: int) -> tuple[int, bytes, bool]:
        """Output from offset on, at most 4 MiB of it: where it begins, its bytes, and whether the output ends there.

        It begins later than offset where another pod has taken the replica's place.
        """
        with self._request("GET", f"/log?offset={offset}", timeout_s=30) as reply:
            data = self._read(reply)
            try:
                return int(reply.headers["X-Offset"]), data, reply.headers.get("X-End") == "1"
            except (KeyError, ValueError):
                raise AgentUnreachable(f"{self.replica}'s agent sent no offset of its log") from None

    def release(self) -> None:
        """Lets all replicas of the job end (to be asked of the coordinator)."""
        self._json("POST", "/release", timeout_s=5.0)

    def send_code(self, code: Code) -> None:
        size = str(code.size_bytes)
        with self._request("PUT", "/code", code.open(), {"Content-Length": size}, timeout_s=60) as reply:
            self._read(reply)

    def stream(self, offsets: Mapping[str, int], idle_s: float = 15.0) -> Iterator[Frame]:
        """Frames with every replica's output from its offset on, and the gang's news, until the job's end."""
        body = json.dumps({"offsets": offsets}).encode()
        with self._request("POST", "/stream", body, timeout_s=idle_s) as reply:
            yield from self._frames(reply)

    def files(self, wanted: list[tuple[str, int, int]], idle_s: float = 60.0) -> Iterator[Frame]:
        """Frames with the bytes of those files (path, offset, size), each from its offset to its size."""
        with self._request("POST", "/files", json.dumps(wanted).encode(), timeout_s=idle_s) as reply:
            yield from self._frames(reply)

    def _frames(self, reply: urllib3.BaseHTTPResponse) -> Iterator[Frame]:
        source = Body(reply, self.replica)
        while True:
            head = source.line()
            if head.get("end"):
                return
            source.left = head.get("size", 0)
            if type(source.left) is not int or source.left < 0:
                raise AgentUnreachable(f"{self.replica}'s agent sent no frame")
            yield head, source
            source.skip()

    def _json(self, method: str, path: str, timeout_s: float) -> Any:
        with self._request(method, path, timeout_s=timeout_s) as reply:
            try:
                return json.loads(self._read(reply))
            except ValueError:
                raise AgentUnreachable(f"{self.replica}'s agent sent no JSON for {path}") from None

    def _read(self, reply: urllib3.BaseHTTPResponse) -> bytes:
        try:
            return reply.read()
        except urllib3.exceptions.HTTPError as error:
            raise AgentUnreachable(f"{self.replica}'s agent broke off: {error}") from None

    def _request(self, method: str, path: str, body: bytes | IO[bytes] | None = None,
                 headers: Mapping[str, str] | None = None, *, timeout_s: float) -> urllib3.BaseHTTPResponse:  # fmt: skip
        try:
            reply = self.pool.request(
                method, self.url + path, body=body, preload_content=False, retries=False, redirect=False,
                headers={**self.headers(), TOKEN_HEADER: self.token, **(headers or {})},
                timeout=urllib3.Timeout(connect=5, read=timeout_s),
            )  # fmt: skip
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise AgentUnreachable(f"{self.replica}'s agent does not answer: {error}") from None
        if reply.status != 200:
            text = reply.read(300).decode(errors="replace").strip()
            reply.close()
            raise AgentUnreachable(f"{self.replica}'s agent answered {reply.status}: {text}")
        return reply


class Body:
    """The raw bytes behind a frame's head; to be read before the next frame, or else skipped."""

    def __init__(self, reply: urllib3.BaseHTTPResponse, replica: str) -> None:
        self.reply, self.replica, self.left, self._buffer = reply, replica, 0, b""

    def line(self) -> dict[str, Any]:
        pieces = [self._buffer]
        while b"\n" not in pieces[-1]:
            pieces.append(self._more(65536))
            if len(pieces) > LONGEST_HEAD // 65536:
                raise AgentUnreachable(f"{self.replica}'s agent sent no frame")
        line, _, self._buffer = b"".join(pieces).partition(b"\n")
        try:
            head = json.loads(line)
        except ValueError:
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
        try:
            data = self.reply.read1(most)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise AgentUnreachable(f"{self.replica}'s agent broke off: {error}") from None
        if not data:
            raise AgentUnreachable(f"{self.replica}'s agent broke off before the end")
        return data
