"""Where a replica's files are written: a folder that no name or link leads out of, and its free space."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from tfspawner.base.words import human_bytes
from tfspawner.errors import ArtifactError, Command, Hint

PARTS = ".parts"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY


class Landing:
    """top/<replica>/… for whole files, and top/.parts/<replica>/… for what has come of the others.

    Names below top are safe ones (see manifest.is_safe); each step of a path starts from an open directory and
    follows no link. Raises ArtifactError where a link or a file stands in the place of a folder, else OSError.
    """

    def __init__(self, top: Path, replica: str) -> None:
        self.top, self.replica = top.absolute(), replica

    def place(self, file: dict[str, Any]) -> str:
        """The file's final place, below the landing's folder."""
        return f"{self.replica}/{file['path']}"

    def part(self, file: dict[str, Any]) -> str:
        """The file's place while it is incomplete; other contents for the same path get another name."""
        name = hashlib.sha256(f"{file['path']}/{file['sha256']}".encode()).hexdigest()
        return f"{PARTS}/{self.replica}/{name}"

    @contextmanager
    def at(self, name: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """The open directory that name is in, and name's last part; make: with the folders that are missing."""
        if make:
            self.top.parent.mkdir(parents=True, exist_ok=True)
        *parents, last = f"{self.top.name}/{name}".split("/")
        directory = os.open(self.top.parent, _FOLDER)
        try:
            for depth, part in enumerate(parents, 1):
                inner = self._step(directory, part, "/".join(parents[:depth]), make)
                os.close(directory)
                directory = inner
            yield directory, last
        finally:
            os.close(directory)

    def _step(self, directory: int, part: str, path: str, make: bool) -> int:
        if make:
            with suppress(FileExistsError):
                os.mkdir(part, dir_fd=directory)
        try:
            return os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=directory)
        except OSError as error:
            with suppress(FileNotFoundError):
                mode = os.stat(part, dir_fd=directory, follow_symlinks=False).st_mode
                if stat.S_ISLNK(mode):
                    raise self._link(path) from None
                if not stat.S_ISDIR(mode):
                    raise self._other_kind(path, "file", "folder") from None
            raise error

    def _link(self, path: str) -> ArtifactError:
        return ArtifactError(
            f"{self.top.parent / path} is a link, and {self.replica}'s files would be written through it",
            hint=Hint("remove the link, then: ", Command("fetch")),
        )

    def _other_kind(self, path: str, here: str, there: str) -> ArtifactError:
        return ArtifactError(
            f"{self.top.parent / path} is a {here}, and at {self.replica} a {there}",
            hint=Hint("remove it here, then: ", Command("fetch")),
        )

    def size(self, name: str) -> int | None:
        """A file's size; None if there is none, or something else that a file can replace."""
        with suppress(FileNotFoundError), self.at(name) as (directory, last):
            status = os.stat(last, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                raise self._other_kind(f"{self.top.name}/{name}", "folder", "file")
            return status.st_size if stat.S_ISREG(status.st_mode) else None
        return None

    def sha256(self, name: str) -> Any:
        """The digest of a file here. Follows no link."""
        with self.at(name) as (directory, last):
            source = os.open(last, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory)
        with open(source, "rb") as file:
            return hashlib.file_digest(file, "sha256")

    def holds(self, file: dict[str, Any]) -> bool:
        """Whether the file is here already, by size and checksum."""
        place = self.place(file)
        return self.size(place) == file["size"] and bool(self.sha256(place).hexdigest() == file["sha256"])

    @contextmanager
    def writing(self, name: str, *, behind: bool = False) -> Iterator[BinaryIO]:
        """Opens a new file, or an old one to append to."""
        with self.at(name, make=True) as (directory, last):
            if not behind:
                with suppress(FileNotFoundError):
                    os.unlink(last, dir_fd=directory)
            flags = os.O_WRONLY | os.O_NOFOLLOW | (os.O_APPEND if behind else os.O_CREAT | os.O_EXCL)
            with open(os.open(last, flags, 0o666, dir_fd=directory), "wb") as file:
                yield file

    def move(self, name: str, to: str) -> None:
        """Moves a file within the landing's folder, and makes the folders above its new place."""
        with self.at(name) as (source, old), self.at(to, make=True) as (target, new):
            os.replace(old, new, src_dir_fd=source, dst_dir_fd=target)

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        with suppress(FileNotFoundError), self.at(name) as (directory, last):
            os.unlink(last, dir_fd=directory)

    def make_folder(self, name: str = "") -> None:
        """Makes this folder of the replica, or else its top folder."""
        with self.at(f"{self.replica}/{name}".rstrip("/") + "/", make=True):
            pass

    def remove_parts(self) -> None:
        """Removes the remains of the replica's incomplete files."""
        with suppress(FileNotFoundError), self.at(f"{PARTS}/{self.replica}") as (directory, last):
            shutil.rmtree(last, ignore_errors=True, dir_fd=directory)

    def folds_case(self) -> bool:
        """Whether names that differ only in case are the same file here, as on macOS."""
        probe = f"{PARTS}/{self.replica}/case"
        with self.writing(probe):
            is_same = self.size(f"{PARTS}/{self.replica}/CASE") is not None
        self.remove(probe)
        return is_same


class FreeSpace:
    """A folder's free space, shared by all who write there: each reserves all it needs before its first byte."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.promised, self.lock = folder, 0, threading.Lock()

    @contextmanager
    def taken(self, size: int, replica: str) -> Iterator[Callable[[int], None]]:
        """Reserves size bytes; gives a function to call with each number of bytes written. Raises ArtifactError."""
        left = size

        def wrote(count: int) -> None:
            nonlocal left
            with self.lock:
                left -= count
                self.promised -= count

        with self.lock:
            self._ensure(size, replica)
            self.promised += size
        try:
            yield wrote
        finally:
            with self.lock:
                self.promised -= left

    def _ensure(self, size: int, replica: str) -> None:
        free = shutil.disk_usage(self.folder).free
        if size > free - self.promised:
            others = f", {human_bytes(self.promised)} of them for other replicas' files" if self.promised else ""
            need, have = f"{human_bytes(size)} more", f"{human_bytes(free)} are free at {self.folder}"
            raise ArtifactError(
                f"{replica}'s files take {need}, and {have}{others}",
                hint=Hint("make room or give another --out, then: ", Command("fetch")),
            )
