"""The list of a replica's files, checked as a whole before any file is fetched or written."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from tfspawner.base.names import LONGEST_PATH, MOST_ENTRIES, is_safe, shown
from tfspawner.errors import ArtifactError

NOT_AN_AGENT = "something else may have taken the agent's place: do not trust what this replica sends"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The files and empty folders that can be fetched, and the names of what cannot."""

    files: list[dict[str, Any]]  # path, size, sha256
    folders: list[str]
    skipped: list[str]  # links and devices
    refused: list[str]


@dataclass(slots=True, kw_only=True)
class Listing:
    """What an agent lists: files with a proper description, and names, whether safe or not."""

    files: list[dict[str, Any]] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    nameless: list[str] = field(default_factory=list)  # what an entry has in place of a name


def gathered(entries: Iterable[tuple[str, Any]], replica: str, *, hashed: bool) -> Listing:
    """Collects a manifest's entries, reduced to the fields we need; hashed: files must have their SHA-256.

    Raises ArtifactError if an entry is wrong, or if there are too many.
    """
    listing = Listing()
    for count, (kind, entry) in enumerate(entries, 1):
        if count > MOST_ENTRIES:
            raise ArtifactError(
                f"{replica} lists more than {MOST_ENTRIES:,} files and folders, the most that can be collected",
                hint="pack them into archives, or have them stored: --artifacts s3://bucket/folder",
            )
        described = _file(entry, replica, hashed) if kind == "files" else entry
        name = described["path"] if kind == "files" else entry
        if isinstance(name, str):
            getattr(listing, kind).append(described)
        else:
            listing.nameless.append(shown(name))
    return listing


def checked(listed: Listing, *, key: Callable[[str], str] = str, longest: int = LONGEST_PATH) -> Manifest:
    """Sorts what an agent lists into what can be fetched and what is refused: unsafe names, and names used twice.

    Names with the same key are the same file on this machine; a path may have `longest` bytes.
    """
    files = {key(file["path"]): file for file in reversed(listed.files) if is_safe(file["path"], longest)}
    parents = {key(parent) for file in files.values() for parent in _with_parents(file["path"])[1:]}
    for name in parents & files.keys():  # listed both as a file and as a folder
        del files[name]
    came = {id(file) for file in files.values()}

    def fits(folder: str) -> bool:
        return is_safe(folder, longest) and not any(key(name) in files for name in _with_parents(folder))

    return Manifest(
        files=[file for file in listed.files if id(file) in came],
        folders=[name for name in listed.folders if fits(name)],
        skipped=listed.skipped,
        refused=[file["path"] for file in listed.files if id(file) not in came]
        + [name for name in listed.folders if not fits(name)]
        + listed.nameless
        + listed.unreadable,
    )


def _with_parents(path: str) -> list[str]:
    return [path, *(str(parent) for parent in PurePosixPath(path).parents)]


def _file(entry: Any, replica: str, hashed: bool) -> dict[str, Any]:
    try:
        name, size, digest = entry["path"], entry["size"], entry["sha256"]
    except (KeyError, TypeError):
        raise ArtifactError(f"{replica} describes a file wrongly: {shown(entry)}", hint=NOT_AN_AGENT) from None
    if (
        type(size) is not int
        or not 0 <= size < 1 << 63
        or not isinstance(digest, str)
        or bool(_SHA256.fullmatch(digest)) != hashed
    ):
        raise ArtifactError(f"{replica} describes its file {shown(name)} wrongly", hint=NOT_AN_AGENT)
    return {"path": name, "size": size, "sha256": digest if hashed else ""}
