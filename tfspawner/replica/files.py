"""Lists, hashes and opens the files that a replica wrote."""

from __future__ import annotations

import errno
import fnmatch
import glob
import hashlib
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

from .protocol import CHUNK

FileState = tuple[str, int, int]  # a file's path, size and time of its last change


class Unreadable:
    """Files that cannot be read: the first names, and how many more there are."""

    MOST, LONGEST = 1000, 1000

    def __init__(self) -> None:
        self.names: list[str] = []
        self.unnamed = 0

    def note(self, name: str) -> None:
        if len(self.names) == self.MOST:
            self.unnamed += 1
        else:
            self.names.append(name if len(name) <= self.LONGEST else f"{name[: self.LONGEST]}...")

    def listed(self) -> list[str]:
        """The names, and how many more there are."""
        return self.names + ([f"and {self.unnamed:,} more"] if self.unnamed else [])


class Files:
    """What the replica wrote: its output folder, new files in its working folder, and named patterns."""

    def __init__(self, root: Path, patterns: list[str]) -> None:
        self.output, self.code, self.patterns = root / "output", root / "code", patterns
        self.before: dict[str, tuple[int, int]] = {}
        self.began = 0.0
        self.sources: dict[str, str] = {}
        self.hashes: dict[FileState, str] = {}
        self.begun: dict[FileState, Hashing] = {}  # the one that was interrupted last
        self.hashing = threading.Lock()

    def begin(self) -> None:
        """Remembers the working folder as it is before the script starts."""
        self.began = time.time() - 1
        entries = self.walk(self.code, "", Unreadable())
        self.before = {source: (s.st_size, s.st_mtime_ns) for source, _, s in entries}

    def walk(self, top: Path, prefix: str, unreadable: Unreadable) -> Iterator[tuple[str, str, os.stat_result]]:
        """(source, name, stat) of all files and empty folders below top, however deep; links are not followed."""
        waiting = [(str(top), prefix)]
        if os.path.islink(top):
            waiting.clear()
            unreadable.note(str(top))
        while waiting:
            folder, below = waiting.pop()
            folders = []
            is_empty = folder != str(top)
            try:
                here = os.lstat(folder)
                names = sorted(os.listdir(folder))
            except FileNotFoundError:
                continue  # gone since it was listed
            except OSError:
                unreadable.note(below or folder)
                continue
            for entry in names:
                source, name = os.path.join(folder, entry), os.path.join(below, entry)
                status = self.status_of(source, name, unreadable)
                if entry == "__pycache__" and (status is None or stat.S_ISDIR(status.st_mode)):
                    continue
                is_empty = False
                if status and stat.S_ISDIR(status.st_mode):
                    folders.append((source, name))
                elif status:
                    yield source, name, status
            if is_empty:
                yield folder, below, here
            waiting += reversed(folders)

    def status_of(self, source: str, name: str, unreadable: Unreadable) -> os.stat_result | None:
        """The file's status; None if it is gone, or cannot be read (its name is then noted)."""
        try:
            return os.lstat(source)
        except FileNotFoundError:
            return None
        except OSError:
            unreadable.note(name)
            return None

    def entries(self, unreadable: Unreadable) -> Iterator[tuple[str, str, os.stat_result]]:
        """(path, name, status) of each file that is to come back."""
        yield from self.walk(self.output, "", unreadable)
        for source, name, status in self.walk(self.code, "workdir", unreadable):
            if not stat.S_ISDIR(status.st_mode) and self.before.get(source) != (status.st_size, status.st_mtime_ns):
                yield source, name, status
        for pattern in self.patterns:
            for path in self.matching(pattern, unreadable):
                name = "collected/" + os.path.normpath(path).lstrip("/")
                status_there = self.status_of(path, name, unreadable)
                if status_there and stat.S_ISDIR(status_there.st_mode):
                    yield from self.walk(Path(path), name, unreadable)
                elif status_there and status_there.st_mtime >= self.began:
                    yield path, name, status_there

    def matching(self, pattern: str, unreadable: Unreadable) -> list[str]:
        """The files of the code's folder that a pattern of --collect names, sorted."""
        try:
            return sorted(glob.glob(os.path.join(self.code, pattern), recursive=True))
        except (OSError, RecursionError):  # Python's own search calls itself for each folder in a folder
            unreadable.note(pattern)
            return []

    def manifest(self, named: str | None = None, alive: Callable[[], bool] = lambda: True) -> dict[str, Any]:
        """{"files": [{path, size, sha256}], and paths: "folders", "skipped" (links, devices), "unreadable"}.

        Of files named like a pattern alone, the SHA-256 is left out: they may be growing. Raises AskerGone.
        """
        files: dict[str, dict[str, Any]] = {}
        folders, skipped, unreadable = [], [], Unreadable()
        for source, name, status in self.entries(unreadable):
            if named and not fnmatch.fnmatchcase(os.path.basename(source), named):
                continue
            if stat.S_ISDIR(status.st_mode):
                folders.append(name)
            elif not stat.S_ISREG(status.st_mode):
                skipped.append(name)
            else:
                try:
                    digest = "" if named else self.hash(source, status, alive)
                except AskerGone:
                    raise
                except FileNotFoundError:
                    continue  # gone since it was listed
                except OSError:
                    unreadable.note(name)
                    continue
                while name in files:  # another file of the same name, from another folder
                    name += ".1"
                files[name] = {"path": name, "size": status.st_size, "sha256": digest, "mtime_ns": status.st_mtime_ns}
                self.sources[name] = source
        return {
            "files": list(files.values()),
            "folders": folders,
            "skipped": skipped,
            "unreadable": unreadable.listed(),
        }

    def hash(self, source: str, status: os.stat_result, alive: Callable[[], bool]) -> str:
        """The SHA-256 of the bytes that the file had when it was listed: it may be growing. Raises OSError, AskerGone.

        One file is read at a time. Where nobody waits for it any more, the next who asks goes on from there.
        """
        key = (source, status.st_size, status.st_mtime_ns)
        while key not in self.hashes:
            if not self.hashing.acquire(timeout=0.2):
                if not alive():
                    raise AskerGone
                continue
            try:
                if key not in self.hashes:
                    begun = self.begun.pop(key, None) or Hashing()
                    try:
                        self.hashes[key] = begun.of(source, status.st_size, alive)
                    except AskerGone:
                        self.begun = {key: begun}
                        raise
            finally:
                self.hashing.release()
        return self.hashes[key]

    def paths(self) -> list[tuple[str, str, int, str]]:
        """(name, path, size, SHA-256) of all files that are there now."""
        return [(f["path"], self.sources[f["path"]], f["size"], f["sha256"]) for f in self.manifest()["files"]]

    def open(self, name: str, size: int) -> Any:
        """The file with that name in the last manifest; None if it is gone or shorter than size."""
        try:
            file = open_regular(self.sources[name])
        except (KeyError, OSError):
            return None
        if os.fstat(file.fileno()).st_size >= size:
            return file
        file.close()
        return None


class Tree(Files):
    """All files of one folder; TensorFlow's checkpoint state files come before the files that they name."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, [])
        self.folder = folder
        self.lock = threading.Lock()  # held for a short time: while it is listed, and while another takes its place
        self.replaced = 0  # how often another folder took its place

    def entries(self, unreadable: Unreadable) -> Iterator[tuple[str, str, os.stat_result]]:
        """(path, name, status) of each file, the one named checkpoint first."""
        with self.lock:
            listing = list(self.walk(self.folder, "", unreadable))
        yield from sorted(listing, key=lambda entry: os.path.basename(entry[0]) != "checkpoint")

    def manifest(self, named: str | None = None, alive: Callable[[], bool] = lambda: True) -> dict[str, Any]:
        """As for other files; starts again if another folder took this one's place while its files were read."""
        while True:
            before = self.replaced
            manifest = super().manifest(named, alive)
            if self.replaced == before:
                return manifest

    def changed_at(self) -> int:
        """When the newest file changed, in ns; 0 if there is none."""
        entries = self.entries(Unreadable())
        return max((status.st_mtime_ns for _, _, status in entries if stat.S_ISREG(status.st_mode)), default=0)


def open_regular(path: str) -> Any:
    """Opens a regular file for reading; no link, and nothing that could block, such as a pipe. Raises OSError."""
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "this is no file any more", path)
    return open(file, "rb")


class AskerGone(ConnectionError):
    """The client no longer waits for the answer."""


class Hashing:
    """Computes a file's SHA-256; can be interrupted, and then continues where it was."""

    def __init__(self) -> None:
        self.digest, self.done = hashlib.sha256(), 0

    def of(self, path: str, size: int, alive: Callable[[], bool] = lambda: True) -> str:
        """The SHA-256 of its first size bytes. Raises OSError, AskerGone."""
        with open_regular(path) as file:
            file.seek(self.done)
            while self.done < size:
                if not alive():
                    raise AskerGone
                data = file.read(min(CHUNK, size - self.done))
                if not data:
                    raise OSError(errno.EIO, "the file shrank", path)
                self.digest.update(data)
                self.done += len(data)
        return self.digest.hexdigest()


def sha256_of(path: str, size: int) -> str:
    """The SHA-256 of the file's first size bytes."""
    return Hashing().of(path, size)
