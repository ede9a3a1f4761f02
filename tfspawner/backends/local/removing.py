"""Removes a local job's folder, whatever modes its script gave the files in it, and says what could not be removed."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tfspawner.base.names import ID_FILE
from tfspawner.errors import ClusterError

LAST = ("job.json", "meta.json", ID_FILE)  # the files by which the job is found again, if the removal is cut short
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def remove_folder(folder: Path) -> None:
    """Removes the whole folder. Follows no link, not even in place of the folder, and changes modes that forbid it.

    Raises ClusterError with the first path that cannot be removed, and why. The files in LAST go last.
    """
    _Removing(folder).run()


class _Removing:
    """Moves each inner folder to the top before it empties it, so that no path gets too long or too deep."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.word = f".removing-{secrets.token_hex(4)}-"
        self.moved: list[Path] = []  # the former places of the folders that were moved to the top, by their number

    def run(self) -> None:
        with suppress(FileNotFoundError):
            with self._inside(str(self.folder), None, self.folder) as top:
                while names := sorted(set(os.listdir(top)) - set(LAST)):
                    for name in names:
                        with suppress(FileNotFoundError):
                            self._remove(top, name)
                for name in LAST:
                    with suppress(FileNotFoundError), self._telling(self.folder / name):
                        os.unlink(name, dir_fd=top)
            with self._telling(self.folder):
                self.folder.rmdir()

    def _remove(self, top: int, name: str) -> None:
        """Removes an entry of the top folder; if it is a folder, its inner folders move to the top for later."""
        place = self._place(name)
        if self._is_folder(name, top):
            with self._inside(name, top, place) as inner:
                for entry in os.listdir(inner):
                    with suppress(FileNotFoundError), self._telling(place / entry):
                        self._empty(inner, entry, top, place)
        with self._telling(place):
            (os.rmdir if self._is_folder(name, top) else os.unlink)(name, dir_fd=top)

    def _empty(self, inner: int, entry: str, top: int, place: Path) -> None:
        if not self._is_folder(entry, inner):
            os.unlink(entry, dir_fd=inner)
            return
        _open_up(entry, inner)  # a folder that is not writable cannot be moved either
        os.rename(entry, f"{self.word}{len(self.moved)}", src_dir_fd=inner, dst_dir_fd=top)
        self.moved.append(place / entry)

    def _place(self, name: str) -> Path:
        """The former place of an entry of the top folder, for a message."""
        return self.moved[int(name.removeprefix(self.word))] if name.startswith(self.word) else self.folder / name

    @staticmethod
    def _is_folder(name: str, within: int) -> bool:
        try:
            return stat.S_ISDIR(os.stat(name, dir_fd=within, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return False

    @contextmanager
    def _inside(self, name: str, within: int | None, place: Path) -> Iterator[int]:
        """Opens a folder that is not a link, and makes it readable and writable if it is not."""
        with self._telling(place):
            _open_up(name, within)
            folder = os.open(name, _FOLDER, dir_fd=within)
        try:
            yield folder
        finally:
            os.close(folder)

    @contextmanager
    def _telling(self, place: Path) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise ClusterError(
                f"{place} cannot be removed: {error.strerror}; all else of the job has ended",
                hint="remove the cause, then delete again; or remove that folder by hand",
            ) from None


def _open_up(name: str, within: int | None) -> None:
    with suppress(OSError):
        mode = os.stat(name, dir_fd=within, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode) and mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(name, stat.S_IRWXU, dir_fd=within)
