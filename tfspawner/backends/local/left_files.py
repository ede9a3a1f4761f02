"""The files of a local replica whose agent was killed, read from the job's folder."""

from __future__ import annotations

import os
import stat
import tarfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from tfspawner.backends.answers import Part, Report
from tfspawner.backends.listing import Listing, gathered
from tfspawner.base.names import MOST_ENTRIES
from tfspawner.replica.files import Files, Unreadable, open_regular
from tfspawner.replica.protocol import CHUNK

MOST_BYTES = 1 << 30  # of the code, unpacked
FETCHED = "fetched"  # an empty file in the replica's folder: its files have been fetched


class LeftFiles:
    """Gives a replica's files in place of its agent.

    It ignores the patterns of --collect: the script could have changed them to name files outside of the folder.
    """

    def __init__(self, replica: str, root: Path, archive: Path, writes: Callable[[], bool]) -> None:
        self.replica, self.root, self.archive, self.writes = replica, root, archive, writes

    @cached_property
    def _files(self) -> Files:
        files = Files(self.root, [])
        files.before = dict(_unpacked(self.archive, files.code))
        return files

    def report(self, replicas: Collection[str]) -> Report:
        """As the agent's: "running" while a process of the script is alive."""
        return {"state": "running" if self.writes() else "failed", "since": time.time()}

    def manifest(self) -> Listing:
        lists = self._files.manifest()
        return gathered(
            ((kind, entry) for kind, entries in lists.items() for entry in entries), self.replica, hashed=True
        )

    def files(self, ranges: list[tuple[str, int, int]]) -> Iterator[tuple[Part, Pieces]]:
        for name, offset, size in ranges:
            source = self._files.open(name, size)
            if source is None or offset > size:
                yield Part(name, offset, 0, True), Pieces(None, 0)
                continue
            with source:
                source.seek(offset)
                yield Part(name, offset, size - offset, False), Pieces(source, size - offset)

    def is_missed(self) -> bool:
        """Whether there are files that nobody has fetched."""
        with suppress(OSError):
            if stat.S_ISREG((self.root / FETCHED).lstat().st_mode):
                return False
        return any(self._files.entries(Unreadable()))

    def mark_fetched(self) -> None:
        with suppress(OSError):
            os.close(os.open(self.root / FETCHED, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))


class Pieces:
    """A file's bytes."""

    def __init__(self, source: IO[bytes] | None, size: int) -> None:
        self.source, self.remaining = source, size

    def pieces(self) -> Iterator[bytes]:
        while self.source and self.remaining and (data := self.source.read(min(CHUNK, self.remaining))):
            self.remaining -= len(data)
            yield data


def _unpacked(archive: Path, code: Path) -> Iterator[tuple[str, Any]]:
    """(path, (size, time of change)) of the code's files that are unchanged; the script wrote the others."""
    with (
        suppress(Exception),  # the script may have changed the archive
        open_regular(str(archive)) as file,
        tarfile.open(fileobj=file, mode="r:gz") as members,
    ):
        for count, member in enumerate(members):
            path = os.path.join(code, member.name)
            with suppress(OSError, ValueError):
                status = os.lstat(path)
                if (status.st_size, int(status.st_mtime)) == (member.size, int(member.mtime)):
                    yield path, (status.st_size, status.st_mtime_ns)
            if count > MOST_ENTRIES or member.offset_data + member.size > MOST_BYTES:
                return
