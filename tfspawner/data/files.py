"""A data file, wherever it is stored, and what a file system has to offer."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Protocol

HIDDEN = ("_", ".")  # Spark's _SUCCESS and the like are not data


@dataclass(frozen=True, slots=True, order=True)
class File:
    """One file of a listing; `version` changes when the file does, and is empty if the place has no versions."""

    uri: str
    size: int
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a URI stands for: files, and the counts of what else is there."""

    files: list[File]
    wrong: list[str] = field(default_factory=list)  # pipes, links that lead nowhere
    folders: int = 0
    hidden: int = 0  # files of a folder whose names begin with _ or .

    @property
    def others(self) -> str:
        """The number of folders and of hidden files, in words."""
        counts = (self.folders, "folder"), (self.hidden, "hidden file")
        return " and ".join(f"{count:,} {what}{'s' * (count != 1)}" for count, what in counts if count)


class FileSystem(Protocol):
    """A place where data is stored. All methods raise DataError, and many threads may call them."""

    def look(self, uri: str) -> Listing:
        """The file of that URI, or the files that its pattern fits, or those of the folder that it names.

        A name that holds a pattern's characters is a file's or a folder's own where that is there.
        """

    def list(self, uri: str) -> list[File]:
        """Only the files."""

    def read(self, uri: str, offset: int, size: int) -> bytes:
        """size bytes from offset on; fewer where the file ends. Raises OSError for what may pass."""

    def put(self, path: str, uri: str) -> None:
        """Puts a local file there, under its name only when it is whole; the file itself may be moved."""


def has_pattern(path: str) -> bool:
    """Whether the path is a pattern of several files."""
    return bool(re.search(r"[*?\[]", path))


def is_hidden(name: str, pattern: str = "") -> bool:
    """Whether a file is left out of a folder or a pattern's matches; a pattern that begins like it takes it."""
    return name.startswith(HIDDEN) and pattern[:1] != name[:1]
