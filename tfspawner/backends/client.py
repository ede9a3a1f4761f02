"""The client of an agent's HTTP interface: over loopback, or through the API server."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Protocol, TypeVar
from urllib.parse import quote

import urllib3

from tfspawner.errors import AgentBusy, AgentUnreachable, BadAnswer, NotTheAgent
from tfspawner.plan.code import Code
from tfspawner.replica.proofs import Key
from tfspawner.replica.protocol import CHUNK, LOG_ANSWER, PROOF_HEADER
from tfspawner.replica.reports import next_offset
from tfspawner.replica.retrying import Retrying

from . import answers
from .listing import Listing, gathered

STREAM_IDLE_S = 15.0  # a stream that sends nothing for this long is closed and opened again
LONGEST_HEAD = 64 << 20  # bytes of a frame's head, or of an answer: the reports of all replicas
LONGEST_FILE_HEAD = 1 << 20
LONGEST_MANIFEST = 256 << 20
LONGEST_SMALL = 64 << 10  # an order, or an answer that only confirms
LOG_S = 300.0  # how long one log request, or one frame, may take
SLOWEST = 1024  # bytes a second: the lowest rate at which files may come
LOG_PAUSE_S = 0.2  # before a log request is repeated first: the API server's proxy has hiccups
MOST_BASES = 3  # how often a replica may get another pod while its log is read
Parsed = TypeVar("Parsed")


class Pieces(Protocol):
    """The bytes of one file."""

    def pieces(self) -> Iterator[bytes]:
        """The file's bytes in order; can be called once."""


class Holder(Protocol):
    """A source of a replica's files."""

    @property
    def replica(self) -> str: ...
    def report(self, replicas: Collection[str]) -> answers.Report | None:
        """What is known of this replica, in a job with these replicas; None if nothing is."""

    def manifest(self) -> Listing:
        """The replica's files by kind, each with size and checksum."""

    def files(self, ranges: list[tuple[str, int, int]]) -> Iterator[tuple[answers.Part, Pieces]]:
        """The contents of (path, offset, size) in that order; take each one's pieces before the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentClient:
    """A client of one replica's agent. Every method raises AgentUnreachable if there is no proper answer."""

    replica: str
    url: str
    token: str
    pool: urllib3.PoolManager
    headers: Callable[[], Mapping[str, str]]  # for the server on the way; called for each request
    manifest_s: float = 300.0  # how long a manifest may take to begin, and then to arrive
    idle_s: float = 60.0  # how long no bytes of files may arrive
    window_s: float = 60.0  # how long files may arrive slower than SLOWEST

    def status(self, replicas: Collection[str], timeout_s: float = 5.0) -> answers.Gang:
        """The gang's status, with the reports of the given replicas. Only the coordinator has it."""
        with self._parsing("status"):
            return answers.gang(self._json("GET", "/status", timeout_s=timeout_s, replicas=len(replicas)), replicas)

    def report(self, replicas: Collection[str], timeout_s: float = 5.0) -> answers.Report | None:
        """The agent's report on its own replica; None if that has not begun."""
        with self._parsing("status"):
            status = self._json("GET", "/status", timeout_s=timeout_s, replicas=len(replicas))
            return answers.own_report(status, self.replica, replicas)

    def ping(self, timeout_s: float = 5.0) -> None:
        """Returns if the agent answers."""
        self._json("GET", "/status?brief=1", timeout_s=timeout_s)

    def order(self, version: int, wait_s: float) -> answers.Order:
        """The gang's phase and result, as soon as the version has changed or wait_s have passed."""
        path = f"/order?version={version}&wait={wait_s:g}"
        with self._parsing("order"):
            return answers.order(self._json("GET", path, timeout_s=wait_s + 10, longest=LONGEST_SMALL))

    def brief(self, replicas: Collection[str], timeout_s: float = 5.0) -> answers.Brief:
        """A summary of the gang, of the same size for any number of replicas. Only the coordinator has it."""
        with self._parsing("status"):
            return answers.brief(self._json("GET", "/status?brief=1", timeout_s=timeout_s, replicas=1), replicas)

    def manifest(self, named: str | None = None) -> Listing:
        """The list of files that the replica wrote. Raises ArtifactError as well.

        named: only files whose names match this pattern, and without their SHA-256.
        """
        path = f"/files?named={quote(named)}" if named else "/files"
        with self._request("GET", path, timeout_s=self.manifest_s) as reply, self._parsing("JSON for /files"):
            pieces = self._pieces(reply, self.manifest_s, LONGEST_MANIFEST)
            return gathered(answers.listing(pieces), self.replica, hashed=not named)

    def log(self, offset: int) -> tuple[int, bytes, bool, int]:
        """Output from offset on: (where it begins, its bytes, whether the output is complete, where the log ends now).

        It begins later than offset if another pod has replaced the replica's.
        """
        with self._request("GET", f"/log?offset={offset}", timeout_s=30) as reply, self._parsing("log"):
            data = self._read(reply, LOG_S, LOG_ANSWER)
            begins, (has_ended, size) = (
                next_offset(reply.headers.get("X-Offset"), offset),
                answers.log_head(reply.headers),
            )
            if begins + len(data) > max(begins, size):
                raise ValueError(f"{len(data)} bytes of one that ends at {size}")
            return begins, data, has_ended, size

    def rest_of_log(self, offset: int, most: int, *, tries: int = 2) -> Iterator[tuple[int, bytes]]:
        """All present output from offset on, in pieces: (where the piece begins, its bytes).

        Each is requested up to `tries` times. Raises BadAnswer before the first byte if there are more than `most`.
        """
        end, bases = -1, 0
        while True:
            begins, data, has_ended, size = self._log_in(tries, offset)
            bases += begins != offset
            if end < 0 or begins != offset:
                end = size
            if end - begins > most or bases > MOST_BASES:
                raise BadAnswer(
                    f"{self.replica}'s agent speaks of {end - begins:,} bytes of log, and {most:,} can be taken"
                )
            if begins < end and not data:
                raise BadAnswer(f"{self.replica}'s agent sent none of {end - begins:,} bytes of its log")
            yield begins, data
            offset = begins + len(data)
            if has_ended or offset >= end:
                return

    def _log_in(self, tries: int, offset: int) -> tuple[int, bytes, bool, int]:
        retrying = Retrying(tries, LOG_PAUSE_S)
        while True:
            try:
                return self.log(offset)
            except BadAnswer:
                raise
            except AgentUnreachable:
                if retrying.is_over():
                    raise
                retrying.pause()

    def release(self) -> None:
        """Lets all replicas of the job end. Only the coordinator can do it."""
        self._json("POST", "/release", timeout_s=5.0, longest=LONGEST_SMALL)

    def keep(self) -> None:
        """Has the job hold its files as long as after success. Only the coordinator can do it."""
        self._json("POST", "/keep", timeout_s=5.0, longest=LONGEST_SMALL)

    def stop(self) -> answers.Order:
        """Ends the job's training, and returns the order that was in force. Only the coordinator can do it."""
        with self._parsing("order"):
            return answers.order(self._json("POST", "/stop", timeout_s=5.0, longest=LONGEST_SMALL))

    def send_code(self, code: Code) -> None:
        """Uploads the code to the coordinator, unless it has it already."""
        path = f"/code?wanted={code.sha256}"
        with self._parsing(f"JSON for {path}"):
            if not answers.is_wanted(self._json("GET", path, timeout_s=5.0, longest=LONGEST_SMALL)):
                return
        size = str(code.size_bytes)
        with self._request("PUT", "/code", code.open(), {"Content-Length": size}, timeout_s=60) as reply:
            self._read(reply, 60, LONGEST_SMALL)

    def stream(
        self, offsets: Mapping[str, int] | None, replicas: Collection[str], idle_s: float = STREAM_IDLE_S
    ) -> Iterator[tuple[answers.Output | answers.Gang, Body]]:
        """Yields frames with each replica's output from its offset on, and with the gang's news, until the job ends.

        Without offsets, only the news. Raises AgentBusy if the agent has too many streams.
        """
        body = json.dumps({"offsets": offsets}).encode()
        with self._request("POST", "/stream", body, timeout_s=idle_s) as reply:
            source = Body(reply, self.replica, replicas=len(replicas), whole_s=LOG_S)

            def parsed(head: Any) -> answers.Output | answers.Gang | None:
                return answers.frame(head, replicas, has_output=offsets is not None)

            while frame := self._frame(source, parsed):
                source.remaining = frame.size if isinstance(frame, answers.Output) else 0
                yield frame, source
                source.skip()

    def files(self, ranges: list[tuple[str, int, int]]) -> Iterator[tuple[answers.Part, Body]]:
        """Yields frames with the bytes of the files in ranges, (path, offset, size), each from offset to size."""
        with self._request("POST", "/files", json.dumps(ranges).encode(), timeout_s=self.idle_s) as reply:
            source = Body(reply, self.replica, longest=LONGEST_FILE_HEAD, window_s=self.window_s)
            while part := self._frame(source, answers.part):
                source.remaining = part.size
                yield part, source
                source.skip()

    def _frame(self, source: Body, parsed: Callable[[Any], Parsed]) -> Parsed:
        with self._parsing("frame"):
            return parsed(source.head())

    @contextmanager
    def _parsing(self, what: str) -> Iterator[None]:
        """Turns an error in parsing an answer into BadAnswer."""
        try:
            yield
        except (ValueError, RecursionError) as error:
            raise BadAnswer(f"{self.replica}'s agent sent no {what}: {error}") from None

    def _json(self, method: str, path: str, timeout_s: float, longest: int = LONGEST_HEAD, replicas: int = 0) -> Any:
        with self._request(method, path, timeout_s=timeout_s) as reply, self._parsing(f"JSON for {path}"):
            return answers.json_of(self._read(reply, timeout_s, longest), replicas)

    def _read(self, reply: urllib3.BaseHTTPResponse, timeout_s: float, longest: int = LONGEST_HEAD) -> bytes:
        return b"".join(self._pieces(reply, timeout_s, longest))

    def _pieces(self, reply: urllib3.BaseHTTPResponse, timeout_s: float, longest: int) -> Iterator[bytes]:
        """The whole answer in pieces; it may take timeout_s from now on."""
        deadline, size = time.monotonic() + timeout_s, 0
        while piece := read_some(reply, CHUNK, self.replica):
            size += len(piece)
            if size > longest:
                raise BadAnswer(f"{self.replica}'s agent sent more than {longest:,} bytes")
            if time.monotonic() > deadline:
                raise AgentUnreachable(f"{self.replica}'s agent sent no whole answer in {timeout_s:g} s")
            yield piece

    def _request(
        self,
        method: str,
        path: str,
        body: bytes | IO[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float,
    ) -> urllib3.BaseHTTPResponse:
        key = Key(self.token)
        request = key.request(self.replica, method, path)
        try:
            reply = self.pool.request(
                method,
                self.url + path,
                body=body,
                preload_content=False,
                decode_content=False,
                retries=False,
                redirect=False,
                headers={**self.headers(), PROOF_HEADER: request, **(headers or {})},
                timeout=urllib3.Timeout(connect=5, read=timeout_s),
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise AgentUnreachable(f"{self.replica}'s agent does not answer: {answers.cleaned(str(error))}") from None
        if reply.status != 200:
            with reply:
                text = read_some(reply, 300, self.replica).decode(errors="replace").strip()
            is_busy = reply.status == 503 and key.is_answer(reply.headers.get(PROOF_HEADER), request, self.replica, 503)
            kind = AgentBusy if is_busy else AgentUnreachable  # a proxy on the way may say 503 as well
            raise kind(f"{self.replica}'s agent answered {reply.status}: {answers.cleaned(text)}")
        if not key.is_answer(reply.headers.get(PROOF_HEADER), request, self.replica, reply.status):
            reply.close()
            raise NotTheAgent(self.replica)
        return reply


def read_some(reply: urllib3.BaseHTTPResponse, most: int, replica: str) -> bytes:
    """Up to `most` bytes, as soon as there are any; none at the end."""
    try:
        return reply.read1(most)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise AgentUnreachable(f"{replica}'s agent broke off: {answers.cleaned(str(error))}") from None


class Body:
    """The raw bytes after a frame's head; read or skip them before the next frame.

    Gives up when the sender stays below SLOWEST for window_s, or takes longer than whole_s for one frame. A head may
    have `longest` bytes, and may describe `replicas` replicas.
    """

    def __init__(
        self,
        reply: urllib3.BaseHTTPResponse,
        replica: str,
        *,
        longest: int = LONGEST_HEAD,
        replicas: int = 0,
        window_s: float | None = None,
        whole_s: float = math.inf,
    ) -> None:
        self.reply, self.replica, self.longest, self.replicas = reply, replica, longest, replicas
        self.window_s, self.whole_s = window_s, whole_s
        self.remaining, self._buffer = 0, b""
        self._waited, self._came = 0.0, 0
        self._spent = 0.0  # seconds spent waiting for the rest of the frame

    def head(self) -> Any:
        """The next frame's head. Raises ValueError if it is not valid."""
        pieces, size = [self._buffer or self._more(65536)], len(self._buffer)
        self._spent = 0.0
        while b"\n" not in pieces[-1]:
            if size > self.longest:
                raise ValueError(f"more than {self.longest:,} bytes")
            pieces.append(self._more(65536))
            size += len(pieces[-1])
        line, _, self._buffer = b"".join(pieces).partition(b"\n")
        return answers.json_of(line, self.replicas)

    def pieces(self) -> Iterator[bytes]:
        while self.remaining:
            data = self._buffer or self._more(CHUNK)
            data, self._buffer = data[: self.remaining], data[self.remaining :]
            self.remaining -= len(data)
            yield data

    def skip(self) -> None:
        """Reads past what is left of the body, so that the connection can be used again."""
        for _ in self.pieces():
            pass

    def _more(self, most: int) -> bytes:
        began = time.monotonic()
        data = read_some(self.reply, most, self.replica)
        if not data:
            raise AgentUnreachable(f"{self.replica}'s agent broke off before the end")
        waited_s = time.monotonic() - began
        self._spent += waited_s
        if self._spent > self.whole_s:
            raise AgentUnreachable(f"{self.replica}'s agent sent no whole frame in {self.whole_s:g} s")
        self._waited += waited_s
        self._came += len(data)
        if self.window_s and self._waited > self.window_s:
            if self._came < SLOWEST * self._waited:
                raise AgentUnreachable(f"{self.replica}'s agent sent {self._came} bytes in {self._waited:.0f} s")
            self._waited, self._came = 0.0, 0
        return data
