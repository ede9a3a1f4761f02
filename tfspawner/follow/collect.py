"""Brings the replicas' files back: checked by SHA-256, resumed after a break, put in place whole.

What an agent says is not trusted: a name that could lead out of the folder is refused.
"""

from __future__ import annotations

import hashlib
import itertools
import shutil
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfspawner.backends.client import Holder
from tfspawner.backends.listing import Manifest, checked
from tfspawner.base.names import LONGEST_PATH, shown
from tfspawner.base.threads import each
from tfspawner.base.words import human_bytes
from tfspawner.errors import AgentUnreachable, ArtifactError, Command, Hint
from tfspawner.replica.retrying import Retrying

from .landing import PARTS, FreeSpace, Landing

TRIES_WITHOUT_PROGRESS = 5
PAUSE_S = 0.4  # after the first try; twice as long after each more
LEAST_PROGRESS = 64 << 10  # bytes that a request has to bring, or all that is missing
PARALLEL = 4
FILES_AT_ONCE = 5000  # in one request


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What came from one replica, and what did not."""

    replica: str
    files: list[dict[str, Any]]  # path (below files/<replica>), size, sha256
    skipped: list[str]  # links and devices, which do not travel
    refused: list[str]  # names that no file here may have, and files that could not be read there


def collect(
    agents: list[Holder], folder: Path, progress: Callable[[int], None]
) -> tuple[list[Collected], list[ArtifactError]]:
    """Collects from every agent into folder/<replica>; progress is called with each number of new bytes.

    Returns what came, and an error for each replica whose files did not come whole: the next call goes on
    where this one ended.
    """
    disk = FreeSpace(folder)

    def one(agent: Holder) -> Collected | ArtifactError:
        try:
            return collect_one(agent, folder / agent.replica, progress, disk)
        except ArtifactError as error:
            return error

    results = each(one, agents, PARALLEL)
    with suppress(OSError):  # what did not come whole has left its parts there
        (folder / PARTS).rmdir()
    collected, errors = [], []
    for result in results:
        if isinstance(result, ArtifactError):
            errors.append(result)
            continue
        collected.append(result)
        if result.refused:
            names = ", ".join(shown(name) for name in result.refused[:3])
            errors.append(
                ArtifactError(
                    f"{result.replica}: {len(result.refused)} files stay there, "
                    f"for their names or permissions: {names}",
                    hint=Hint("all others are here; to give these up: ", Command("delete")),
                )
            )
    return collected, errors


def collect_one(
    agent: Holder, folder: Path, progress: Callable[[int], None], disk: FreeSpace | None = None
) -> Collected:
    """Collects one replica's files into folder, which has the replica's name."""
    landing = Landing(folder.parent, agent.replica)
    try:
        landing.make_folder()
        manifest = _collect_whole(agent, landing, disk or FreeSpace(folder.parent), progress)
        for name in manifest.folders:
            landing.make_folder(name)
        landing.remove_parts()
    except OSError as error:
        raise ArtifactError(
            f"{agent.replica}'s files cannot be written to {folder}: {error.strerror}",
            hint=Hint("make that possible or give another --out, then: ", Command("fetch")),
        ) from None
    return Collected(replica=agent.replica, files=manifest.files, skipped=manifest.skipped, refused=manifest.refused)


def _collect_whole(agent: Holder, landing: Landing, disk: FreeSpace, progress: Callable[[int], None]) -> Manifest:
    """Brings all files that are not here yet; gives up after several tries without progress."""
    retrying = Retrying(TRIES_WITHOUT_PROGRESS, PAUSE_S)
    while True:
        try:
            manifest = _manifest(agent, landing)
            missing = [file for file in manifest.files if not landing.holds(file)]
            needed = sum(file["size"] - _part_size(landing, file) for file in missing)
            with disk.taken(needed, agent.replica) as wrote:
                for count in _receive(agent, missing, landing):
                    wrote(count)
                    progress(count)
            return manifest
        except (_NoProgress, AgentUnreachable) as error:
            if retrying.is_over():
                raise ArtifactError(
                    f"{agent.replica}'s files could not be collected whole: {error}",
                    hint=Hint("the job still holds them; to go on where this ended: ", Command("fetch")),
                ) from None
            retrying.pause()


def _manifest(agent: Holder, landing: Landing) -> Manifest:
    key = _folded if landing.folds_case() else str
    longest = LONGEST_PATH - len(f"{landing.top}/{agent.replica}/".encode(errors="surrogateescape"))
    return checked(agent.manifest(), key=key, longest=longest)


def _folded(name: str) -> str:
    """A key for the name: the same for names that differ only in case or in how an accent is written."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


class _NoProgress(Exception):
    """The stream brought nothing new."""


def _receive(agent: Holder, files: list[dict[str, Any]], landing: Landing) -> Iterator[int]:
    """Requests files until all are here; yields each number of bytes.

    What a cut stream leaves is a part, and counts at the next request.
    """
    pending = {file["path"]: file for file in files}
    while pending:
        received, before = 0, len(pending)
        why = ""
        try:
            for count in _receive_stream(agent, pending, landing):
                received += count
                yield count
        except AgentUnreachable as error:
            why = error.message
        if pending and received < LEAST_PROGRESS and before - len(pending) < FILES_AT_ONCE:
            raise _NoProgress(why or f"{len(pending)} files did not come")


def _receive_stream(agent: Holder, pending: dict[str, dict[str, Any]], landing: Landing) -> Iterator[int]:
    """One request for pending files; yields each number of bytes, and removes finished files from pending."""
    offsets = {path: _part_size(landing, file) for path, file in itertools.islice(pending.items(), FILES_AT_ONCE)}
    for part, body in agent.files([(path, offset, pending[path]["size"]) for path, offset in offsets.items()]):
        path = part.path
        if path not in pending or path not in offsets:
            raise _NoProgress(f"{shown(path)} came, which was not asked for")
        size = pending[path]["size"] - offsets[path]
        if part.missing or (part.offset, part.size) != (offsets[path], size):
            raise _NoProgress(f"{path} changed while it was collected")
        yield from _receive_one(pending[path], offsets[path], body.pieces(), landing)
        del pending[path]


def _receive_one(file: dict[str, Any], offset: int, pieces: Iterator[bytes], landing: Landing) -> Iterator[int]:
    """Appends one file's bytes to its part, and puts it in place; yields each number of bytes."""
    part = landing.part(file)
    try:
        digest = landing.sha256(part) if offset else hashlib.sha256()
        with landing.writing(part, behind=offset > 0) as target:
            for data in pieces:
                target.write(data)
                digest.update(data)
                yield len(data)
        if digest.hexdigest() != file["sha256"]:
            landing.remove(part)
            raise _NoProgress(f"{file['path']} came with another SHA-256 than announced")
        landing.move(part, landing.place(file))
    except OSError as error:
        landing.remove(part)  # it would take the room that the run's record needs
        raise _unwritable(file, landing, error) from None


def _unwritable(file: dict[str, Any], landing: Landing, error: OSError) -> ArtifactError:
    free = shutil.disk_usage(landing.top).free
    return ArtifactError(
        f"{landing.replica}'s file {shown(file['path'])} cannot be written: {error.strerror}; "
        f"it takes {human_bytes(file['size'])}, and {human_bytes(free)} are free at {landing.top}",
        hint=Hint("make room, then: ", Command("fetch")),
    )


def _part_size(landing: Landing, file: dict[str, Any]) -> int:
    size = landing.size(landing.part(file)) or 0
    return size if size <= file["size"] else 0
