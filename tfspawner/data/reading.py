"""Reads parts of files as a stream of records: a window of ranged reads in parallel, put back into order."""

from __future__ import annotations

import threading
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from tfspawner.errors import DataError
from tfspawner.replica.retrying import Retrying

from .files import File, FileSystem
from .filesystems import filesystem_of
from .records import GZIP_MAGIC, HEADER, OVERHEAD, Cutter, boundaries, is_header, masked_crc
from .sharding import Part

CHUNK_BYTES = 4 << 20
WINDOW_BYTES = 64 << 20
FIRST_CHUNKS = 8  # so many times smaller than the others
HEAD_BYTES = 64 << 10  # holds a published record
MOST_PACKED_BYTES = 256 << 20  # of a gzipped record: the file does not say how large it is unpacked
TRIES = 6
RETRY_FOR_S = 60.0

Chunk = tuple[Part, int, bytes]
Reader = Callable[[File, int, int, threading.Event], bytes]  # read_exactly, or something before it


def read_records(
    parts: Iterable[Part],
    *,
    gzipped: bool = False,
    window_bytes: int = WINDOW_BYTES,
    chunk_bytes: int = CHUNK_BYTES,
    read: Reader | None = None,
) -> Generator[list[bytes]]:
    """The parts' records in order, as lists of those that came together.

    At most window_bytes are in memory before they are cut, and one record above them. Raises DataError for
    damage, with the file, the byte and the record.
    """
    part, cutter = None, Cutter("")
    finder: _Finder | None = None
    for now, offset, data in read_chunks(parts, window_bytes=window_bytes, chunk_bytes=chunk_bytes, read=read):
        if now is not part:
            if part is not None:
                yield from _end(part, cutter, finder)
            part = now
            finder = _Finder(now) if now.start and not gzipped else None
            cutter = _GzipCutter(now.file.uri) if gzipped else Cutter(now.file.uri, offset, now.file.size)
        if finder:
            beginning = finder.feed(data)
            if beginning is None:
                continue
            cutter, data, finder = Cutter(now.file.uri, beginning[0], now.file.size), beginning[1], None
        until = None if now.end == now.file.size or gzipped else now.end
        yield from _lists(cutter.feed(data, until), chunk_bytes)
    if part is not None:
        yield from _end(part, cutter, finder)


def _lists(records: Iterator[bytes], most_bytes: int) -> Iterator[list[bytes]]:
    """Groups records into lists of about most_bytes: a chunk of a gzipped file may hold a thousand times its size."""
    batch, size = list[bytes](), 0
    for record in records:
        batch.append(record)
        size += len(record) + OVERHEAD
        if size > most_bytes:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _end(part: Part, cutter: Cutter, finder: _Finder | None) -> Iterator[list[bytes]]:
    """The record that begins before the part's end and goes beyond it."""
    if finder:
        beginning = finder.at_end()
        if beginning is None:
            return
        cutter = Cutter(part.file.uri, beginning[0], part.file.size)
        records = list(cutter.feed(beginning[1], part.end))
        if records:
            yield records
    while part.end < part.file.size and cutter.offset < part.end and cutter.lacking:
        data = read_exactly(part.file, cutter.offset + cutter.held, cutter.lacking)
        records = list(cutter.feed(data, part.end))
        if records:
            yield records
    if part.end == part.file.size:
        cutter.finish()


class _GzipCutter(Cutter):
    """Cuts the contents of a gzip stream; offsets are those of the unpacked bytes."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.unpack = zlib.decompressobj(zlib.MAX_WBITS | 16)

    def feed(self, data: bytes, until: int | None = None) -> Iterator[bytes]:
        for low in range(0, len(data), HEAD_BYTES):  # in pieces: what is left over is copied each time
            yield from self._unpacked(data[low : low + HEAD_BYTES])

    def _unpacked(self, data: bytes) -> Iterator[bytes]:
        while data:
            try:
                plain = self.unpack.decompress(data, CHUNK_BYTES)
            except zlib.error as error:
                raise DataError(
                    f"{self.uri} is damaged: its gzip stream breaks after record {self.count}: {error}"
                ) from None
            data = self.unpack.unconsumed_tail
            if self.unpack.eof:
                data = self.unpack.unused_data
                self.unpack = zlib.decompressobj(zlib.MAX_WBITS | 16) if data else self.unpack
            yield from super().feed(plain)

    def _bound(self, length: int) -> None:
        if length > MOST_PACKED_BYTES:
            raise DataError(
                f"{self.uri}: record {self.count} at byte {self.offset} says that it is {length:,} bytes long, and in a"
                f" gzipped file it may be {MOST_PACKED_BYTES:,}",
                hint="such records can be read from files that are not gzipped",
            )

    def finish(self) -> None:
        if not self.unpack.eof:
            raise DataError(f"{self.uri} is cut off: its gzip stream has no end after record {self.count}")
        super().finish()


class _Finder:
    """Looks for the first record that begins in a part that starts in the middle of a file."""

    def __init__(self, part: Part) -> None:
        self.part, self.data = part, b""
        self.searched = 0

    def feed(self, data: bytes) -> tuple[int, bytes] | None:
        """(the record's byte in the file, the bytes from there on), once that is certain."""
        self.data += data
        return self._search(last=False)

    def at_end(self) -> tuple[int, bytes] | None:
        """As feed, when the part has no more bytes: a header may begin in it and go beyond its end."""
        self._extend(self.part.end + HEADER.size - 1)
        return self._search(last=True)

    def _extend(self, end: int) -> None:
        """Reads on, up to that byte of the file."""
        here = self.part.start + len(self.data)
        self.data += read_exactly(self.part.file, here, max(0, min(end, self.part.file.size) - here))

    def _search(self, last: bool) -> tuple[int, bytes] | None:
        file, start = self.part.file, self.part.start
        for place in boundaries(self.data[self.searched :]):
            place += self.searched
            if start + place >= self.part.end:
                return None
            length = HEADER.unpack_from(self.data, place)[0]
            end = place + OVERHEAD + length
            if start + end > file.size:
                continue
            if end + HEADER.size > len(self.data) and start + len(self.data) < file.size:
                if not last:
                    self.searched = place
                    return None  # the next bytes will show it
                self._extend(start + end + HEADER.size)
            footer = int.from_bytes(self.data[end - 4 : end], "little")
            next_one = self.data[end : end + HEADER.size]
            if masked_crc(self.data[place + HEADER.size : end - 4]) == footer and (
                start + end == file.size or is_header(next_one)
            ):
                return start + place, self.data[place:]
        self.searched = max(0, len(self.data) - HEADER.size + 1)
        return None


def _pieces(parts: Iterable[Part], chunk_bytes: int, depth: int) -> Iterator[tuple[Part, int, int]]:
    """(part, offset, size): the first window's are small, so that the first records come soon."""
    count = 0
    for part in parts:
        at = part.start
        while at < part.end:
            size = min(chunk_bytes if count >= depth else max(1, chunk_bytes // FIRST_CHUNKS), part.end - at)
            yield part, at, size
            at, count = at + size, count + 1


def read_chunks(
    parts: Iterable[Part], *, window_bytes: int, chunk_bytes: int, read: Reader | None = None
) -> Iterator[Chunk]:
    """(part, offset, bytes) in order, with at most window_bytes of reads in flight."""
    depth = max(1, window_bytes // chunk_bytes)
    pieces = _pieces(parts, chunk_bytes, depth)
    stop = threading.Event()
    pool = ThreadPoolExecutor(depth, thread_name_prefix="tfspawner-read")
    waiting: deque[tuple[Part, int, Future[bytes]]] = deque()
    try:
        for part, at, size in pieces:
            waiting.append((part, at, pool.submit(read or read_exactly, part.file, at, size, stop)))
            if len(waiting) == depth:
                done, offset, future = waiting.popleft()
                yield done, offset, future.result()
        while waiting:
            done, offset, future = waiting.popleft()
            yield done, offset, future.result()
    finally:
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)


def read_exactly(file: File, offset: int, size: int, stop: threading.Event | None = None) -> bytes:
    """That many bytes; errors that may pass are retried, with growing pauses. Raises DataError."""
    filesystem: FileSystem = filesystem_of(file.uri)
    retrying, data = Retrying(TRIES, 0.2, within_s=RETRY_FOR_S, varies=True), b""
    while len(data) < size:
        try:
            piece = filesystem.read(file.uri, offset + len(data), size - len(data))
        except OSError as error:
            if retrying.is_over() or (stop and stop.is_set()):
                raise DataError(
                    f"{file.uri}: bytes from {offset + len(data)} on cannot be read after {retrying.failures} tries: "
                    f"{error}"
                ) from None
            retrying.pause()
            continue
        if len(piece) > size - len(data):
            raise DataError(f"{file.uri}: {len(piece)} bytes came where {size - len(data)} were asked for")
        if not piece:
            raise DataError(
                f"{file.uri} ends at byte {offset + len(data)}, and was listed with {file.size}",
                hint="it was changed meanwhile: begin again",
            )
        data = data + piece if data else piece
    return data


def is_gzipped(file: File) -> bool:
    """Whether the file is a gzip stream; a plain TFRecord file may begin with the same two bytes."""
    return _gzip_head(read_exactly(file, 0, min(HEADER.size, file.size)))


def first_record(file: File) -> tuple[bool, bytes]:
    """(whether the file is a gzip stream, its first record; b"" if it has none), by one read for most records."""
    head = read_exactly(file, 0, min(HEAD_BYTES, file.size))
    gzipped = _gzip_head(head[: HEADER.size])
    cutter = _GzipCutter(file.uri) if gzipped else Cutter(file.uri, 0, file.size)
    at = 0
    while head:
        for record in cutter.feed(head):
            return gzipped, record
        at += len(head)
        size = HEAD_BYTES if gzipped else cutter.lacking
        head = read_exactly(file, at, min(size, file.size - at))
    cutter.finish()
    return gzipped, b""


def _gzip_head(head: bytes) -> bool:
    return head.startswith(GZIP_MAGIC) and not is_header(head)
