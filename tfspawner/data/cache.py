"""A folder on this machine that keeps what was read from afar, in blocks: each is fetched once, by whoever needs it first.

Any number of processes share the folder. A block has its name only once it is whole, and whoever fetches it holds a
lock that ends with its process: nothing is left to repair after a kill. A full cache keeps what it has, which is the
best that can be done for passes over the same files again and again; the rest is read from afar each time.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import ConfigurationError
from .filesystems import File
from .reading import read_exactly

BLOCK_BYTES = 4 << 20
LOCKS = 4096  # so many blocks, at most, are fetched at the same time
STALE_S = 3600.0  # a file still without its name after so long was left by a process that was killed


class Cache:
    """Reads files through a folder that holds most_bytes at most. What files in it belong to no file of these goes first."""

    def __init__(self, folder: Path, most_bytes: int, files: Iterable[File]) -> None:
        self.folder, self.most_bytes = folder, most_bytes
        if most_bytes < BLOCK_BYTES:
            raise ConfigurationError(f"cache_bytes is {most_bytes}; a cache has {BLOCK_BYTES} bytes or more")
        try:
            for part in ("blocks", "locks"):
                (folder / part).mkdir(parents=True, exist_ok=True)
            with self._lock("size"):
                self._take_stock({_name(file) for file in files})
        except OSError as error:
            raise ConfigurationError(f"cache {folder}: {error.strerror}", hint="name a folder on a disk here") from None

    def read(self, file: File, offset: int, size: int, stop: threading.Event | None = None) -> bytes:
        """As read_exactly, by way of the folder."""
        pieces = []
        while size > 0:
            block, low = divmod(offset, BLOCK_BYTES)
            piece = self._piece(file, block, low, min(size, BLOCK_BYTES - low), stop)
            pieces.append(piece)
            offset, size = offset + len(piece), size - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _piece(self, file: File, block: int, low: int, size: int, stop: threading.Event | None) -> bytes:
        path = self.folder / "blocks" / f"{_name(file)}.{block}"
        with suppress(FileNotFoundError):
            return _read(path, low, size)
        with self._lock(f"{int(hashlib.sha256(path.name.encode()).hexdigest(), 16) % LOCKS:04}"):
            with suppress(FileNotFoundError):  # somebody else has fetched it meanwhile
                return _read(path, low, size)
            start = block * BLOCK_BYTES
            data = read_exactly(file, start, min(BLOCK_BYTES, file.size - start), stop)
            self._keep(path, data)
        return data[low : low + size]

    def _keep(self, path: Path, data: bytes) -> None:
        """Makes the data a block, where there is room; a cache that cannot be written any more is none."""
        if not self._reserve(len(data)):
            return
        part = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.part")
        try:
            part.write_bytes(data)
            part.replace(path)
        except OSError:
            part.unlink(missing_ok=True)
            self._reserve(-len(data))

    def _reserve(self, size: int) -> bool:
        with self._lock("size") as counter:
            total = int(os.pread(counter, 32, 0) or 0) + size
            if size > 0 and total > self.most_bytes:
                return False
            self._set(counter, total)
        return True

    def _take_stock(self, wanted: set[str]) -> None:
        """Counts what is there, and makes room: of files that nobody here asks for, the oldest blocks go first."""
        others, total = [], 0
        for entry in os.scandir(self.folder / "blocks"):
            with suppress(FileNotFoundError):
                status = entry.stat()
                if entry.name.endswith(".part"):
                    if time.time() - status.st_mtime > STALE_S:
                        os.unlink(entry.path)
                        continue
                elif entry.name.split(".")[0] not in wanted:
                    others.append((status.st_mtime, status.st_size, entry.path))
                total += status.st_size
        for _, size, path in sorted(others):
            if total <= self.most_bytes // 2:
                break
            with suppress(FileNotFoundError):
                os.unlink(path)
            total -= size
        with open(self.folder / "locks/size", "r+b") as counter:
            self._set(counter.fileno(), total)

    @staticmethod
    def _set(counter: int, total: int) -> None:
        os.pwrite(counter, f"{total:<32}".encode(), 0)

    @contextmanager
    def _lock(self, name: str) -> Iterator[int]:
        """Holds the lock of that name, against other threads and processes; gives its open file."""
        descriptor = os.open(self.folder / "locks" / name, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)


def _name(file: File) -> str:
    """The beginning of a file's blocks' names: another version of it has another."""
    return hashlib.sha256(f"{file.uri}\n{file.size}\n{file.version}".encode()).hexdigest()[:32]


def _read(path: Path, low: int, size: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.pread(descriptor, size, low)
    finally:
        os.close(descriptor)
