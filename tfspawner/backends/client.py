"""The agent's HTTP interface, seen from the launcher's side: over loopback, or through the API server."""

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

from . import answers
from .listing import Listing, gathered

STREAM_IDLE_S = 15.0  # a stream that brings nothing for so long is given up, and begun again
LONGEST_HEAD = 64 << 20  # bytes of a frame's head, or of an answer: the reports of all replicas
LONGEST_FILE_HEAD = 1 << 20
LONGEST_MANIFEST = 256 << 20
LONGEST_SMALL = 64 << 10  # an order, an answer that only says that all went well
LOG_S = 300.0  # in which the bytes of one log request, or of a frame, have to come
SLOWEST = 1024  # bytes a second, at which files have to come
# Before a log that broke off is asked for again: the API server's proxy has hiccups.
LOG_PAUSES_S = (0.2, 0.4, 0.8, 1.6)
MOST_BASES = 3  # so many other processes may take a replica's place while its log comes
Parsed = TypeVar("Parsed")


class Pieces(Protocol):
    """The bytes of one file."""

    def pieces(self) -> Iterator[bytes]:
        """The file's bytes in order; can be asked for once."""


class Holder(Protocol):
    """Who gives a replica's files."""

    @property
    def replica(self) -> str: ...
    def report(self, replicas: Collection[str]) -> answers.Report | None:
        """What is known of this replica, where the job has these replicas; None where nothing is."""

    def manifest(self) -> Listing:
        """The replica's files by kind, each with size and checksum."""

    def files(self, wanted: list[tuple[str, int, int]]) -> Iterator[tuple[answers.Part, Pieces]]:
        """The contents of (path, offset, size) in that order; take each one's pieces before the next."""


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

    def status(self, replicas: Collection[str], timeout_s: float = 5.0) -> answers.Gang:
        """The gang's snapshot (to be asked of the coordinator) with what is known of its replicas."""
        with self._parsing("status"):
            return answers.gang(self._json("GET", "/status", timeout_s=timeout_s, replicas=len(replicas)), replicas)

    def report(self, replicas: Collection[str], timeout_s: float = 5.0) -> answers.Report | None:
        """What it knows of its own replica; None where that has not begun."""
        with self._parsing("status"):
            told = self._json("GET", "/status", timeout_s=timeout_s, replicas=len(replicas))
            return answers.own_report(told, self.replica, replicas)

    def ping(self, timeout_s: float = 5.0) -> None:
        """Returns if it answers."""
        self._json("GET", "/status?brief=1", timeout_s=timeout_s)

    def order(self, version: int, wait_s: float) -> answers.Order:
        """The gang's phase and result, as soon as the version is another or wait_s are over."""
        path = f"/order?version={version}&wait={wait_s:g}"
        with self._parsing("order"):
            return answers.order(self._json("GET", path, timeout_s=wait_s + 10, longest=LONGEST_SMALL))

    def brief(self, replicas: Collection[str], timeout_s: float = 5.0) -> answers.Brief:
        """The gang in one line (to be asked of the coordinator): of equal size for any number of replicas."""
        with self._parsing("status"):
            return answers.brief(self._json("GET", "/status?brief=1", timeout_s=timeout_s, replicas=1), replicas)

    def manifest(self, named: str | None = None) -> Listing:
        """What the replica wrote; of files named like a pattern alone, without their SHA-256. Raises ArtifactError, too."""
        path = f"/files?named={quote(named)}" if named else "/files"
        with self._request("GET", path, timeout_s=self.manifest_s) as reply, self._parsing("JSON for /files"):
            pieces = self._pieces(reply, self.manifest_s, LONGEST_MANIFEST)
            return gathered(answers.listing(pieces), self.replica, hashed=not named)

    def log(self, offset: int) -> tuple[int, bytes, bool, int]:
        """Output from offset on: where it begins, its bytes, whether the output ends there, and where it ended when asked.

        It begins later than offset where another pod has taken the replica's place.
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
        """All output from offset on that there is now, in pieces: where each begins, and its bytes.

        A piece that breaks off is asked for again, up to `tries` times in all. Raises BadAnswer, before a byte comes,
        where that is more than most bytes.
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
        for pause_s in LOG_PAUSES_S[: tries - 1]:
            try:
                return self.log(offset)
            except BadAnswer:
                raise
            except AgentUnreachable:
                time.sleep(pause_s)
        return self.log(offset)

    def release(self) -> None:
        """Lets all replicas of the job end (to be asked of the coordinator)."""
        self._json("POST", "/release", timeout_s=5.0, longest=LONGEST_SMALL)

    def keep(self) -> None:
        """Lets the job hold its files as long as after success (to be asked of the coordinator)."""
        self._json("POST", "/keep", timeout_s=5.0, longest=LONGEST_SMALL)

    def stop(self) -> answers.Order:
        """Ends the job's training (to be asked of the coordinator); gives the order that held until then."""
        with self._parsing("order"):
            return answers.order(self._json("POST", "/stop", timeout_s=5.0, longest=LONGEST_SMALL))

    def send_code(self, code: Code) -> None:
        """Uploads the code (to be asked of the coordinator), unless it has it already."""
        path = f"/code?wanted={code.sha256}"
        with self._parsing(f"JSON for {path}"):
            if not answers.wanted(self._json("GET", path, timeout_s=5.0, longest=LONGEST_SMALL)):
                return
        size = str(code.size_bytes)
        with self._request("PUT", "/code", code.open(), {"Content-Length": size}, timeout_s=60) as reply:
            self._read(reply, 60, LONGEST_SMALL)

    def stream(
        self, offsets: Mapping[str, int] | None, replicas: Collection[str], idle_s: float = STREAM_IDLE_S
    ) -> Iterator[tuple[answers.Output | answers.Gang, Body]]:
        """Frames with every replica's output from its offset on, and the gang's news, until the job's end.

        Without offsets the news alone. Raises AgentBusy where it has too many streams.
        """
        body = json.dumps({"offsets": offsets}).encode()
        with self._request("POST", "/stream", body, timeout_s=idle_s) as reply:
            source = Body(reply, self.replica, replicas=len(replicas), whole_s=LOG_S)

            def parsed(head: Any) -> answers.Output | answers.Gang | None:
                return answers.frame(head, replicas, has_output=offsets is not None)

            while found := self._frame(source, parsed):
                source.left = found.size if isinstance(found, answers.Output) else 0
                yield found, source
                source.skip()

    def files(self, wanted: list[tuple[str, int, int]]) -> Iterator[tuple[answers.Part, Body]]:
        """Frames with the bytes of those files (path, offset, size), each from its offset to its size."""
        with self._request("POST", "/files", json.dumps(wanted).encode(), timeout_s=self.idle_s) as reply:
            source = Body(reply, self.replica, longest=LONGEST_FILE_HEAD, window_s=self.window_s)
            while found := self._frame(source, answers.part):
                source.left = found.size
                yield found, source
                source.skip()

    def _frame(self, source: Body, parsed: Callable[[Any], Parsed]) -> Parsed:
        with self._parsing("frame"):
            return parsed(source.head())

    @contextmanager
    def _parsing(self, what: str) -> Iterator[None]:
        """Makes what is no such answer a BadAnswer."""
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
        """The whole answer. It has timeout_s from here on."""
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
            kind = AgentBusy if is_busy else AgentUnreachable  # a proxy on the way says 503, too
            raise kind(f"{self.replica}'s agent answered {reply.status}: {answers.cleaned(text)}")
        if not key.is_answer(reply.headers.get(PROOF_HEADER), request, self.replica, reply.status):
            reply.close()
            raise NotTheAgent(self.replica)
        return reply


def read_some(reply: urllib3.BaseHTTPResponse, most: int, replica: str) -> bytes:
    """At most that many bytes, as soon as there are any; none at the end."""
    try:
        return reply.read1(most)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise AgentUnreachable(f"{replica}'s agent broke off: {answers.cleaned(str(error))}") from None


class Body:
    """The raw bytes behind a frame's head; to be read before the next frame, or else skipped.

    With window_s, the other side is broken off when it let us wait that long for less than SLOWEST; with whole_s, when a
    frame that has begun takes longer. A head may be `longest` bytes long, and tell of so many replicas.
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
        self.left, self._buffer = 0, b""
        self._waited, self._came = 0.0, 0
        self._spent = 0.0  # in waiting for the rest of the frame

    def head(self) -> Any:
        """The next frame's head. Raises ValueError where it is none."""
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
        while self.left:
            data = self._buffer or self._more(CHUNK)
            data, self._buffer = data[: self.left], data[self.left :]
            self.left -= len(data)
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
