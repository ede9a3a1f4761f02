"""Brings the replicas' files back: each checked by SHA-256, resumed when cut, put in place whole.

What an agent says is not trusted: a name that could lead out of the folder is refused.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from .client import AgentClient
from .errors import AgentUnreachable, ArtifactError

TRIES_WITHOUT_PROGRESS = 5
PARALLEL = 4
PARTS = ".parts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What came from one replica, and what did not."""

    replica: str
    files: list[dict[str, Any]]  # path (below files/<replica>), size, sha256
    skipped: list[str]  # links and devices, which do not travel
    refused: list[str]  # names that no file here may have, and files that could not be read there


def collect(
    agents: list[AgentClient], folder: Path, progress: Callable[[int], None]
) -> tuple[list[Collected], list[ArtifactError]]:
    """Collects from every agent into folder/<replica>; progress is told each number of new bytes.

    Returns what came, and an error for each replica whose files did not come whole: the next call goes on
    where this one ended.
    """
    with ThreadPoolExecutor(PARALLEL) as pool:
        futures = [pool.submit(collect_one, agent, folder / agent.replica, progress) for agent in agents]
    with suppress(OSError):  # what did not come whole has left its parts there
        (folder / PARTS).rmdir()
    collected, errors = [], []
    for future in futures:
        error = future.exception()
        if isinstance(error, ArtifactError):
            errors.append(error)
            continue
        found = future.result()
        collected.append(found)
        if found.refused:
            shown = ", ".join(repr(name) for name in found.refused[:5])
            errors.append(
                ArtifactError(
                    f"{found.replica}: {len(found.refused)} files stay there, for their names or permissions: {shown}",
                    hint="all others are here; to give these up: tf-spawner delete",
                )
            )
    return collected, errors


def collect_one(agent: AgentClient, folder: Path, progress: Callable[[int], None]) -> Collected:
    """Collects one replica's files into folder."""
    parts = folder.parent / PARTS / agent.replica
    tries = 0
    while True:
        try:
            manifest = agent.manifest()
            files, refused = checked_files(manifest, folder, agent.replica)
            missing = [file for file in files if not _is_there(folder, file)]
            if missing:
                _ensure_room(folder, sum(file["size"] for file in missing), agent.replica)
                _receive(agent, missing, folder, parts, progress)
            break
        except (_NoProgress, AgentUnreachable) as error:
            tries += 1
            if tries == TRIES_WITHOUT_PROGRESS:
                raise ArtifactError(
                    f"{agent.replica}'s files could not be collected whole: {error}",
                    hint="the job still holds them: tf-spawner fetch goes on where this ended",
                ) from None
            time.sleep(0.2 * 2**tries)
    for name in manifest["folders"]:
        if is_safe(name):
            with suppress(FileExistsError, NotADirectoryError):  # a file has that name
                _below(folder, name).mkdir(parents=True, exist_ok=True)
    shutil.rmtree(parts, ignore_errors=True)
    refused += [str(name) for name in manifest["unreadable"]]
    return Collected(
        replica=agent.replica, files=files, refused=refused, skipped=[str(name) for name in manifest["skipped"]]
    )


def checked_files(manifest: dict[str, Any], folder: Path, replica: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The manifest's files that can be had, each with a name of its own, a size and a SHA-256; and the refused names."""
    files: list[dict[str, Any]] = []
    refused: list[str] = []
    seen: set[str] = set()
    key = str.casefold if _folds_case(folder) else str
    for entry in manifest["files"]:
        try:
            name, size, digest = entry["path"], entry["size"], entry["sha256"]
        except (KeyError, TypeError):
            raise ArtifactError(f"{replica} describes a file wrongly: {str(entry)[:200]}") from None
        if type(size) is not int or size < 0 or not isinstance(digest, str) or len(digest) != 64:
            raise ArtifactError(f"{replica} describes its file {name!r} wrongly")
        if not is_safe(name) or key(name) in seen:
            refused.append(str(name))
            continue
        seen.add(key(name))
        files.append({"path": name, "size": size, "sha256": digest})
    folders = {key(str(parent)) for file in files for parent in PurePosixPath(file["path"]).parents}
    refused += [file["path"] for file in files if key(file["path"]) in folders]  # a file that is a folder, too
    return [file for file in files if key(file["path"]) not in folders], refused


def is_safe(name: object) -> bool:
    """Whether a file may have this name: a plain relative path, without what a terminal would obey."""
    if not isinstance(name, str) or name.startswith("/") or any(ord(c) < 32 or 127 <= ord(c) < 160 for c in name):
        return False
    try:
        return not any(part in ("", ".", "..") or len(os.fsencode(part)) > 255 for part in name.split("/"))
    except UnicodeEncodeError:
        return False


def _below(folder: Path, name: str) -> Path:
    """The path of that safe name below folder. Raises ArtifactError if a link stands on the way."""
    path = folder
    for part in PurePosixPath(name).parts[:-1]:
        path = path / part
        if path.is_symlink():
            raise ArtifactError(f"{path} is a link, and a file would be written through it", hint="remove the link")
    return folder / name


def _folds_case(folder: Path) -> bool:
    """Whether the file system takes names that differ in case alone for the same, as macOS's does."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(prefix=".case-", dir=folder) as probe:
        return Path(probe.name.replace(".case-", ".CASE-")).exists()


class _NoProgress(Exception):
    """The stream brought nothing new."""


def _is_there(folder: Path, file: dict[str, Any]) -> bool:
    path = folder / file["path"]
    return (
        path.is_file()
        and not path.is_symlink()
        and path.stat().st_size == file["size"]
        and _sha256(path).hexdigest() == file["sha256"]
    )


def _ensure_room(folder: Path, size: int, replica: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if size > free:
        raise ArtifactError(
            f"{replica}'s files take {size:,} bytes, and {free:,} are free at {folder}",
            hint="make room or give another --out, then: tf-spawner fetch",
        )


def _receive(
    agent: AgentClient, files: list[dict[str, Any]], folder: Path, parts: Path, progress: Callable[[int], None]
) -> None:
    """One request for all files; what a cut stream leaves lies in parts, and counts at the next try."""
    parts.mkdir(parents=True, exist_ok=True)
    pending = {file["path"]: file for file in files}
    while pending:
        wanted = [(p, _part_size(_part(parts, file), file["size"]), file["size"]) for p, file in pending.items()]
        received = 0
        try:
            for head, body in agent.files(wanted):
                file = pending.get(str(head.get("path")))
                if file is None or head.get("missing"):
                    raise _NoProgress(f"{head.get('path')} changed while it was collected")
                for count in _receive_one(agent, file, head, body.pieces(), folder, _part(parts, file)):
                    received += count
                    progress(count)
                del pending[file["path"]]
                received += 1
            if pending and not received:
                raise _NoProgress(f"{len(pending)} files did not come")
        except AgentUnreachable as error:
            if not received:
                raise _NoProgress(error.message) from None
        except OSError as error:
            raise ArtifactError(f"{folder}: {error.strerror}", hint="make room, then: tf-spawner fetch") from None


def _part(parts: Path, file: dict[str, Any]) -> Path:
    return parts / hashlib.sha256(os.fsencode(f"{file['path']}/{file['sha256']}")).hexdigest()


def _receive_one(agent: AgentClient, file: dict[str, Any], head: dict[str, Any], pieces: Iterator[bytes], folder: Path,
                 part: Path) -> Iterator[int]:  # fmt: skip
    """Writes one file's bytes behind what part has of it, and puts it in place; yields each number of bytes."""
    offset = head.get("offset")
    if type(offset) is not int or offset + head.get("size", 0) != file["size"]:
        raise _NoProgress(f"{file['path']} changed while it was collected")
    digest = _sha256(part) if offset else hashlib.sha256()
    with open(part, "ab" if offset else "wb") as target:
        for data in pieces:
            target.write(data)
            digest.update(data)
            yield len(data)
    if digest.hexdigest() != file["sha256"]:
        part.unlink()
        raise _NoProgress(f"{file['path']} came with another SHA-256 than announced")
    path = _below(folder, file["path"])
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(part, path)


def _part_size(part: Path, size: int) -> int:
    return part.stat().st_size if part.exists() and part.stat().st_size <= size else 0


def _sha256(path: Path) -> Any:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256")
