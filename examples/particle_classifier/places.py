"""Files here or elsewhere (s3://, root://): found, fetched as local paths, and put there whole or not at all."""

from __future__ import annotations

import os
import posixpath
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tfspawner.data.copying import copy_all, plan
from tfspawner.data.files import File, has_pattern
from tfspawner.data.filesystems import LocalFiles, filesystem_of, local_path
from tfspawner.errors import ConfigurationError, DataError


def is_local(uri: str) -> bool:
    return isinstance(filesystem_of(uri), LocalFiles)


def found(sources: Sequence[str], suffix: str) -> list[File]:
    """The files that the sources name: files, patterns, or folders' files with that suffix, or those one level deeper."""
    files: set[File] = set()
    for source in sources:
        here = [file for file in filesystem_of(source).list(source) if _wanted(file, source, suffix)]
        if not here and not has_pattern(source):
            here = filesystem_of(source).list(f"{source.rstrip('/')}/*/*{suffix}")
        if not here:
            raise DataError(f"{source}: there is no {suffix} file", hint="name files, a pattern or a folder")
        files.update(here)
    return sorted(files)


def _wanted(file: File, source: str, suffix: str) -> bool:
    return file.uri.endswith(suffix) or file.uri == source


@contextmanager
def fetched(file: File) -> Iterator[Path]:
    """The file as a path of this machine: copied, compared and removed again where it lies elsewhere."""
    if is_local(file.uri):
        yield Path(local_path(file.uri))
        return
    with tempfile.TemporaryDirectory(prefix="particles-") as folder:
        path = Path(folder, posixpath.basename(file.uri))
        for _ in copy_all(plan([file], str(path), into=False), lambda _: None, overwrite=False):
            pass
        yield path


@contextmanager
def written(uri: str) -> Iterator[Path]:
    """A path to write to; what stands there afterwards gets the file's name, unless there was an error."""
    folder = Path(local_path(posixpath.dirname(uri)) or ".") if is_local(uri) else Path(tempfile.gettempdir())
    path = folder / f".{posixpath.basename(uri)}.{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield path
        filesystem_of(uri).put(str(path), uri)
    except OSError as error:
        raise DataError(f"{uri} cannot be written: {error.strerror or error}") from None
    finally:
        with suppress(OSError):
            os.unlink(path)


def empty(uri: str) -> None:
    """Raises ConfigurationError for a folder that holds something, or a file of that name."""
    if is_local(uri):
        path = Path(local_path(uri))
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ConfigurationError(f"{uri} is not empty", hint="name another folder, or --overwrite")
        return
    files = filesystem_of(uri)
    if files.list(uri) or files.list(f"{uri.rstrip('/')}/*/*/*"):
        raise ConfigurationError(f"{uri} is not empty", hint="name another folder")
