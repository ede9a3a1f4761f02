"""Removes a local job's folder, whatever modes its script gave what is in it, and says what stays."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import ClusterError

LAST = ("job.json", "meta.json")  # by which a job is found again, if the removing is cut short


def remove_folder(folder: Path) -> None:
    """Removes all of it, through no link; folders that cannot be listed or written are first made so.

    Raises ClusterError with the first thing that stays, and why. What tells of the job goes last.
    """
    with suppress(FileNotFoundError):
        _open_up(folder)
        for path in sorted(folder.iterdir(), key=lambda path: (path.name in LAST, path.name)):
            _remove(path)
        _try(folder.rmdir, folder)


def _remove(path: Path) -> None:
    if not stat.S_ISDIR(path.lstat().st_mode):
        _try(path.unlink, path)
        return
    _open_up(path)
    for inner in _try(lambda: list(path.iterdir()), path):
        _remove(inner)
    _try(path.rmdir, path)


def _open_up(folder: Path) -> None:
    with suppress(OSError):
        if folder.lstat().st_mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(folder, stat.S_IRWXU)


def _try(work: Callable[[], Any], path: Path) -> Any:
    try:
        return work()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ClusterError(
            f"{path} cannot be removed: {error.strerror}; all else of the job has ended",
            hint="remove the cause, then delete again; or remove that folder by hand",
        ) from None
