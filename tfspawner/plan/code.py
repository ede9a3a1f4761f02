"""The code that travels: a sealed archive, read from any place side by side."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from typing import IO, Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """A gzipped tar archive, the same bytes for the same files, in a file without a name: nothing to clean up."""

    archive: IO[bytes]
    sha256: str
    size_bytes: int
    file_count: int
    left_out: str | None = None  # what stays here for being a key by its name, in one line
    secrets: tuple[str, ...] = ()  # where a secret stands in it, each as "FILE, line N holds the value of NAME"
    is_searched: bool = True  # for secrets, as a whole

    def open(self) -> IO[bytes]:
        """The archive, from its beginning; jobs that share it read it side by side."""
        return io.BufferedReader(_Reader(self.archive.fileno()))


class _Reader(io.RawIOBase):
    """Reads a file from a place of its own on; the file stays open."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self.place = descriptor, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: os.fstat(self.descriptor).st_size}
        self.place = base[whence] + offset
        return self.place

    def readinto(self, buffer: Any) -> int:
        data = os.pread(self.descriptor, len(buffer), self.place)
        buffer[: len(data)] = data
        self.place += len(data)
        return len(data)
