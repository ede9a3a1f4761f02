"""S3 objects as files: reads are read ahead, and a written file is uploaded when it is closed."""

from __future__ import annotations

import os
import tempfile
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, BinaryIO

from .retrying import Retrying
from .structures import FAILED_PRECONDITION, NOT_FOUND, Failure

if TYPE_CHECKING:
    from .s3 import S3

MEMORY_BYTES = 256 << 20  # read ahead of all open files together; one block of each is always allowed
BLOCK_BYTES = 4 << 20
LEAST_BLOCK_BYTES = 256 << 10
MOST_BLOCKS_AHEAD = 16
READS_AT_ONCE = 32
TRIES = 6


class Reading:
    """What all open files share: threads that read, and the memory for what is read ahead."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.reset()
        os.register_at_fork(after_in_child=self.reset)

    def reset(self) -> None:
        """Starts afresh with new threads: after a fork there are none."""
        self.pool = ThreadPoolExecutor(READS_AT_ONCE, thread_name_prefix="tfspawner-s3")
        self.files, self.held = 0, 0
        self.lock = threading.Lock()

    def block_bytes(self) -> int:
        """How much a file reads at once: less if many are open."""
        return max(LEAST_BLOCK_BYTES, min(BLOCK_BYTES, MEMORY_BYTES // max(1, self.files) // 4))

    def take(self, size: int, *, first: bool) -> bool:
        """Reserves memory for a block; False if none is left and the block is not a file's first."""
        with self.lock:
            if not first and self.held + size > MEMORY_BYTES:
                return False
            self.held += size
            return True

    def give(self, size: int) -> None:
        """Gives a block's memory back."""
        with self.lock:
            self.held -= size


class ReadFile:
    """An object open for reading; it reads ahead, and further the longer reads continue."""

    def __init__(self, s3: S3, bucket: str, key: str, size: int, reading: Reading) -> None:
        self.s3, self.bucket, self.key, self.size, self.reading = s3, bucket, key, size, reading
        self.lock = threading.Lock()
        self.blocks: deque[tuple[int, int, Future[bytes]]] = deque()  # (offset, size, bytes), without gaps
        self.next = 0
        self.begun = 0  # blocks since the last jump: the first are small, so that the first records come soon
        self.closed = False
        with reading.lock:
            reading.files += 1

    def close(self) -> None:
        """Frees what was read ahead; a file can be closed once."""
        with self.lock:
            self.closed = True
            self.drop(self.size + 1)
        with self.reading.lock:
            self.reading.files -= 1

    def read(self, offset: int, size: int, *, some: bool = False) -> bytes:
        """size bytes from offset on; fewer at the object's end, or if `some` are enough."""
        with self.lock:
            end = min(offset + size, self.size)
            pieces = []
            while offset < end:
                self.look_ahead(offset)
                start, _, future = self.blocks[0]
                data = future.result()
                piece = data[offset - start : end - start]
                if not piece:
                    raise Failure(NOT_FOUND, "it ends before the size that it had when it was opened")
                pieces.append(piece)
                offset += len(piece)
                if some:
                    break
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def look_ahead(self, offset: int) -> None:
        """Makes sure that the first block holds the byte at offset, and that further blocks are being read."""
        self.drop(offset)
        if not self.blocks or offset < self.blocks[0][0]:
            self.drop(self.size + 1)
            if offset != self.next:
                self.next, self.begun = offset, 0
        while len(self.blocks) < min(self.begun + 4, MOST_BLOCKS_AHEAD) and self.next < self.size:
            size = min(self.reading.block_bytes(), LEAST_BLOCK_BYTES << self.begun // 2, self.size - self.next)
            if not self.reading.take(size, first=not self.blocks):
                break
            self.blocks.append((self.next, size, self.reading.pool.submit(self.fetch, self.next, size)))
            self.next += size
            self.begun += 1

    def drop(self, offset: int) -> None:
        """Frees the blocks that end at or before the offset."""
        while self.blocks and self.blocks[0][0] + self.blocks[0][1] <= offset:
            _, size, future = self.blocks.popleft()
            future.cancel()
            self.reading.give(size)

    def fetch(self, offset: int, size: int) -> bytes:
        """Reads a block; retries errors that may pass."""
        retrying = Retrying(TRIES, 0.1)
        while True:
            try:
                return self.s3.read(self.bucket, self.key, offset, size)
            except OSError as error:
                if not getattr(error, "passing", False) or retrying.is_over() or self.closed:
                    raise
                retrying.pause()


class WriteFile:
    """An object being written: a local file that is uploaded when it is closed."""

    def __init__(self, s3: S3, bucket: str, key: str) -> None:
        self.s3, self.bucket, self.key = s3, bucket, key
        self.file: BinaryIO | None = tempfile.TemporaryFile(prefix="tf-spawner-")
        self.size = 0

    def append(self, data: bytes) -> None:
        """Writes to the file on disk that becomes the object."""
        if self.file is None:
            raise Failure(FAILED_PRECONDITION, "it is closed")
        self.file.write(data)
        self.size += len(data)

    def close(self) -> None:
        """Stores the object; a second call does nothing."""
        if self.file is None:
            return
        file, self.file = self.file, None
        with file:
            file.flush()
            self.s3.put(self.bucket, self.key, f"/proc/self/fd/{file.fileno()}")
