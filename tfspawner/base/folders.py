"""Opens folders and files where others may have been before us; refuses those that are not ours alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tfspawner.errors import ConfigurationError, DataError

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def own_folder(path: Path, what: str) -> int:
    """Opens the folder, creating it if needed, and returns its descriptor: nobody can swap that for another folder.

    Raises ConfigurationError if it is a link, or if somebody else owns it or may write to it; and OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    if path.is_symlink():
        raise ConfigurationError(f"{what}: {path} is a link", hint="remove it, or name another folder")
    descriptor = os.open(path, FOLDER)
    status = os.fstat(descriptor)
    if status.st_uid != os.geteuid():
        os.close(descriptor)
        raise ConfigurationError(
            f"{what}: {path} belongs to user {status.st_uid}, who could put other data there",
            hint="name a folder of your own",
        )
    if status.st_mode & WRITABLE_BY_OTHERS:
        os.close(descriptor)
        raise ConfigurationError(
            f"{what}: others may write to {path}", hint=f"look at what is there, then chmod go-w {path}"
        )
    return descriptor


def own_file(path: str) -> int:
    """Opens our file for appending, creating it if needed. Raises DataError for links and for files of others."""
    try:
        descriptor = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o666
        )
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}", hint="remove it, if it is a link that you do not know") from None
    status = os.fstat(descriptor)
    if status.st_uid != os.geteuid() or not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        raise DataError(f"{path} is no file of yours alone: user {status.st_uid} has put it there", hint="remove it")
    return descriptor
