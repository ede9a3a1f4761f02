"""What a replica says it holds, checked as a whole before anything is asked for or written."""

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
    """The files and empty folders that can be had, and the names of what cannot."""

    files: list[dict[str, Any]]  # path, size, sha256
    folders: list[str]
    skipped: list[str]  # links and devices
    refused: list[str]


@dataclass(slots=True, kw_only=True)
class Listing:
    """What an agent lists: files that are described as they should be, and names, good and bad ones."""

    files: list[dict[str, Any]] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    nameless: list[str] = field(default_factory=list)  # what stands in the place of a file's or folder's name


def gathered(entries: Iterable[tuple[str, Any]], replica: str, *, hashed: bool) -> Listing:
    """The entries of a manifest as they come, each brought into its smallest form; hashed: files with their SHA-256.

    Raises ArtifactError where something is described wrongly or there is too much of it.
    """
    found = Listing()
    for count, (kind, entry) in enumerate(entries, 1):
        if count > MOST_ENTRIES:
            raise ArtifactError(
                f"{replica} lists more than {MOST_ENTRIES:,} files and folders, the most that can be collected",
                hint="pack them into archives, or have them stored: --artifacts s3://bucket/folder",
            )
        described = _file(entry, replica, hashed) if kind == "files" else entry
        name = described["path"] if kind == "files" else entry
        if isinstance(name, str):
            getattr(found, kind).append(described)
        else:
            found.nameless.append(shown(name))
    return found


def checked(listed: Listing, *, key: Callable[[str], str] = str, longest: int = LONGEST_PATH) -> Manifest:
    """Of what an agent lists, the files with a safe name of their own.

    Names with the same key are the same file here; a path may take `longest` bytes.
    """
    files = {key(file["path"]): file for file in reversed(listed.files) if is_safe(file["path"], longest)}
    parents = {key(parent) for file in files.values() for parent in _with_parents(file["path"])[1:]}
    for name in parents & files.keys():  # a file that is a folder, too
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
