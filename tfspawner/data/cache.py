"""A folder on this machine that keeps remote data in blocks; whoever needs a block first fetches it for all.

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
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import google_crc32c

from tfspawner.base.folders import own_folder
from tfspawner.errors import ConfigurationError

from .files import File
from .reading import read_exactly

BLOCK_BYTES = 4 << 20
CHECKSUM_BYTES = 4  # behind a block's data: CRC-32C of its name and its data
LOCKS = 4096  # how many blocks are fetched at the same time, at most
STALE_S = 3600.0  # an unfinished file of this age was left by a killed process


class Cache:
    """Reads files through a folder that holds most_bytes at most. Blocks of other files are removed first.

    What lies in it was put there by this user, or it is refused: the folder may be anywhere, /tmp among them.
    """

    def __init__(self, folder: Path, most_bytes: int, files: Iterable[File]) -> None:
        self.folder, self.most_bytes = folder, most_bytes
        self.sound: set[str] = set()  # blocks whose checksum was looked at
        if most_bytes < BLOCK_BYTES:
            raise ConfigurationError(f"cache_bytes is {most_bytes}; a cache has {BLOCK_BYTES} bytes or more")
        try:
            self.blocks = self._opened("blocks")
            self.locks = self._opened("locks")
            with self._lock("size") as counter:
                self._take_stock({_name(file) for file in files}, counter)
        except OSError as error:
            raise ConfigurationError(f"cache {folder}: {error.strerror}", hint="name a folder on a disk here") from None

    def _opened(self, part: str) -> int:
        descriptor = own_folder(self.folder / part, f"cache {self.folder}")
        weakref.finalize(self, os.close, descriptor)
        return descriptor

    def read(self, file: File, offset: int, size: int, stop: threading.Event | None = None) -> bytes:
        """As read_exactly, through the cache."""
        pieces = []
        while size > 0:
            block, low = divmod(offset, BLOCK_BYTES)
            piece = self._piece(file, block, low, min(size, BLOCK_BYTES - low), stop)
            pieces.append(piece)
            offset, size = offset + len(piece), size - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _piece(self, file: File, block: int, low: int, size: int, stop: threading.Event | None) -> bytes:
        name, start = f"{_name(file)}.{block}", block * BLOCK_BYTES
        whole = min(BLOCK_BYTES, file.size - start)
        if (cached := self._read(name, whole, low, size)) is not None:
            return cached
        with self._lock(f"{int(hashlib.sha256(name.encode()).hexdigest(), 16) % LOCKS:04}"):
            if (cached := self._read(name, whole, low, size)) is not None:  # somebody else has fetched it meanwhile
                return cached
            self._remove(name)
            data = read_exactly(file, start, whole, stop)
            self._keep(name, data)
        return data[low : low + size]

    def _read(self, name: str, whole: int, low: int, size: int) -> bytes | None:
        """A piece of a block; None if the block is missing or its checksum is wrong."""
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.blocks)
        except OSError:
            return None
        try:
            if name in self.sound:
                data = os.pread(descriptor, size, low)
                if len(data) == size:
                    return data
            data = os.pread(descriptor, whole + CHECKSUM_BYTES + 1, 0)
            if len(data) == whole + CHECKSUM_BYTES and data[whole:] == _checksum(name, data[:whole]):
                self.sound.add(name)
                return data[low : low + size]
        except OSError:
            return None
        finally:
            os.close(descriptor)
        return None

    def _remove(self, name: str) -> None:
        """Removes the file at a block's path."""
        self.sound.discard(name)
        with suppress(OSError):
            size = os.stat(name, dir_fd=self.blocks, follow_symlinks=False).st_size
            os.unlink(name, dir_fd=self.blocks)
            self._reserve(-size)

    def _keep(self, name: str, data: bytes) -> None:
        """Stores the data as a block if there is space; a cache that can no longer be written is not used."""
        if not self._reserve(len(data) + CHECKSUM_BYTES):
            return
        part = f"{name}.{os.getpid()}-{threading.get_ident()}.part"
        try:
            with open(part, "xb", opener=lambda path, flags: os.open(path, flags, 0o600, dir_fd=self.blocks)) as file:
                file.write(data + _checksum(name, data))
            os.replace(part, name, src_dir_fd=self.blocks, dst_dir_fd=self.blocks)
        except OSError:
            with suppress(OSError):
                os.unlink(part, dir_fd=self.blocks)
            self._reserve(-len(data) - CHECKSUM_BYTES)

    def _reserve(self, size: int) -> bool:
        with self._lock("size") as counter:
            total = self._total(counter) + size
            if size > 0 and total > self.most_bytes:
                return False
            self._set(counter, max(0, total))
        return True

    def _take_stock(self, in_use: set[str], counter: int) -> None:
        """Counts the blocks' bytes, and frees space: the oldest blocks of files not in use are removed first."""
        others, total = [], 0
        for name in os.listdir(self.blocks):
            with suppress(FileNotFoundError):
                status = os.stat(name, dir_fd=self.blocks, follow_symlinks=False)
                if name.endswith(".part"):
                    if time.time() - status.st_mtime > STALE_S:
                        os.unlink(name, dir_fd=self.blocks)
                        continue
                elif name.split(".")[0] not in in_use:
                    others.append((status.st_mtime, status.st_size, name))
                total += status.st_size
        for _, size, name in sorted(others):
            if total <= self.most_bytes // 2:
                break
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self.blocks)
            total -= size
        self._set(counter, total)

    def _total(self, counter: int) -> int:
        """The bytes that the folder holds; it counts as full if that cannot be read."""
        text = os.pread(counter, 32, 0).strip()
        return int(text) if text.isdigit() else self.most_bytes if text else 0

    @staticmethod
    def _set(counter: int, total: int) -> None:
        os.pwrite(counter, f"{total:<32}".encode(), 0)

    @contextmanager
    def _lock(self, name: str) -> Iterator[int]:
        """Holds the lock of that name, against other threads and processes; gives its open file."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o600, dir_fd=self.locks)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)


def _checksum(name: str, data: bytes) -> bytes:
    checksum: int = google_crc32c.extend(google_crc32c.value(name.encode()), data)
    return checksum.to_bytes(CHECKSUM_BYTES, "little")


def _name(file: File) -> str:
    """The first part of a file's blocks' names; each version of the file has its own."""
    return hashlib.sha256(f"{file.uri}\n{file.size}\n{file.version}".encode()).hexdigest()[:32]
