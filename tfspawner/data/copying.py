"""Copies files between any two places, several at once; each copy is read back and compared."""

from __future__ import annotations

import fcntl
import os
import posixpath
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import google_crc32c

from tfspawner.base.folders import own_file
from tfspawner.base.names import is_safe, shown
from tfspawner.errors import ConfigurationError, DataError

from .files import File, has_pattern
from .filesystems import LocalFiles, filesystem_of, local_path
from .reading import CHUNK_BYTES, read_chunks
from .sharding import Part

FILES_AT_ONCE = 4
WINDOW_BYTES = 4 * CHUNK_BYTES  # of each file in memory


@dataclass(frozen=True, slots=True)
class Copy:
    """One file to copy, and the URI to copy it to."""

    source: File
    target: str


def plan(files: Sequence[File], destination: str, *, into: bool) -> list[Copy]:
    """The copies to make: into a folder under the files' own names, or of one file to the destination's name."""
    if has_pattern(destination):
        raise ConfigurationError(f"{destination}: a pattern names no destination", hint="name a folder or a file")
    if len(files) == 1 and not into:
        return [Copy(files[0], destination)]
    copies = [Copy(file, posixpath.join(destination, _own_name(file.uri))) for file in files]
    targets: dict[str, str] = {}
    for copy in copies:
        first = targets.setdefault(copy.target, copy.source.uri)
        if first != copy.source.uri:
            raise ConfigurationError(f"{first} and {copy.source.uri} would both become {copy.target}")
    return copies


def _own_name(uri: str) -> str:
    """A file's name from its listing. Raises DataError for one that would lead out of the folder."""
    name = posixpath.basename(uri)
    if not is_safe(name):
        raise DataError(f"{shown(uri)} cannot be copied into a folder: its name is {shown(name)}", hint="name its copy")
    return name


def is_folder(destination: str) -> bool:
    """Whether it is a folder: its name ends with a slash, or it is a folder of this machine."""
    local = isinstance(filesystem_of(destination), LocalFiles)
    return destination.endswith("/") or (local and os.path.isdir(local_path(destination)))


def copy_all(
    copies: Sequence[Copy], progress: Callable[[int], None], *, overwrite: bool
) -> Iterator[tuple[Copy, bool]]:
    """Makes the copies; yields each one after it was compared, and whether it was there before.

    A file that is there already must be equal, or else overwrite must be given: so a second call goes on where the
    first was broken off. Raises DataError.
    """
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        futures = [(copy, pool.submit(_copy, copy, progress, overwrite)) for copy in copies]
        try:
            for copy, future in futures:
                yield copy, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _copy(copy: Copy, progress: Callable[[int], None], overwrite: bool) -> bool:
    source, target = copy.source, copy.target
    filesystem = filesystem_of(target)
    there = next((file for file in filesystem.list(target) if file.uri == _listed(target)), None)
    if there and there.size == source.size and _crc(there) == _crc(source, progress):
        return True
    if there and not overwrite:
        raise DataError(f"{target} is there already, and is another file", hint="--overwrite replaces it")
    name = ""
    try:
        with _stage(target) as stage:
            name = stage.name
            sent = _crc(source, progress, stage.write)
            stage.flush()
            filesystem.put(name, target)
    except OSError as error:
        raise DataError(f"{target}: {error.filename or name or 'its temporary file'}: {error.strerror}") from None
    arrived = _crc(File(target, source.size))
    if arrived != sent:
        raise DataError(f"{target} is not what was sent", hint="copy it again with --overwrite")
    return False


def _listed(uri: str) -> str:
    """A URI as listings write it: local paths without file://."""
    return local_path(uri) if isinstance(filesystem_of(uri), LocalFiles) else uri


@contextmanager
def _stage(target: str) -> Iterator[Any]:
    """The unfinished copy's path: next to a local target, so that the next try replaces what a killed one left."""
    if not isinstance(filesystem_of(target), LocalFiles):
        with tempfile.NamedTemporaryFile() as file:
            yield file
        return
    folder, name = os.path.split(local_path(target))
    os.makedirs(folder or ".", exist_ok=True)
    path = os.path.join(folder, f".{name}.part")
    with open(path, "ab", opener=lambda name, _: own_file(name)) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{target} is being copied by another process") from None
        try:
            file.truncate(0)
            yield file
        finally:
            with suppress(FileNotFoundError):
                os.unlink(path)


def _crc(
    file: File, progress: Callable[[int], None] = lambda _: None, write: Callable[[bytes], object] | None = None
) -> int:
    """The CRC-32C of a file, which is copied at the same time."""
    checksum = 0
    for _, _, data in read_chunks([Part(file, 0, file.size)], window_bytes=WINDOW_BYTES, chunk_bytes=CHUNK_BYTES):
        checksum = google_crc32c.extend(checksum, data)
        if write:
            write(data)
        progress(len(data))
    return checksum
