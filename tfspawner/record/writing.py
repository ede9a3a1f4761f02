"""Writes a run's record: one folder with the job's spec, manifests, logs, files, events and report."""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import os
import shutil
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tfspawner.base.names import ID_FILE
from tfspawner.base.shapes import opened
from tfspawner.base.userfile import named
from tfspawner.errors import ArtifactError, Command, ConfigurationError, Hint

from .folder import BASES_FILE, EVENTS_FILE, LOCK_FILE, RunFolder
from .reading import Note, read_bases, read_id, run_with_logs

OWN_FILES = (LOCK_FILE, f".{ID_FILE}.part")  # all that a launcher leaves that was killed right at its start


class Record:
    """runs/<job>: spec.json, manifests.yaml, logs/<replica>.log, files/<replica>/…, events.jsonl, report.json.

    It belongs to one job: the record of a former job of the same name is renamed. Only one process at a time
    writes into it. Raises ConfigurationError if another process is writing, if the folder is not empty and not
    a record, or if it is a sweep's and this is a job.
    """

    def __init__(self, folder: Path, job_id: str, *, is_sweep: bool = False) -> None:
        self.folder = folder
        self.run = RunFolder(folder)
        self.logs, self.files = self.run.logs, self.run.files
        self.aside: Path | None = None
        try:
            self._lock = self._open_lock(folder)
            self._is_new = not self.run.id.exists()
            if any(path.name not in OWN_FILES for path in folder.iterdir()):
                self._refuse_foreign(is_sweep)
                if read_id(folder) != job_id:
                    self._set_aside()
            write_whole(self.run.id, job_id)
            run_with_logs(folder).logs.mkdir(exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"the run's folder {folder} cannot be made: {error.strerror}", hint="give another --out"
            ) from None
        self._open: dict[Path, Any] = {}
        self._bases_lock = threading.Lock()
        self._ends: dict[str, int] = {}  # for each log: the offset behind its last byte
        self._bases = read_bases(folder)

    @staticmethod
    def _open_lock(folder: Path) -> Any:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _open_own(RunFolder(folder).lock, os.O_WRONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise ConfigurationError(
                f"another tf-spawner is writing into {folder}", hint="wait for it, or give another --out"
            ) from None
        return lock

    def _refuse_foreign(self, is_sweep: bool) -> None:
        """Refuses a folder that is the user's, or a sweep's record while this is a job, and leaves it as it was."""
        of_sweep = self.run.sweep.exists()
        if (self._is_new and not of_sweep) or (of_sweep and not is_sweep):
            self._lock.close()
            self.run.lock.unlink(missing_ok=True)
            what = "the record of a sweep" if of_sweep else "no record of tf-spawner's, and not empty"
            raise ConfigurationError(
                f"the folder {named(self.folder)} is {what}", hint="give another --out, or another --name to run"
            )

    def tell_aside(self, note: Note) -> None:
        """Tells the user where the record of a former job of this name is now, if there was one."""
        if self.aside:
            note(f"the former {self.folder} is now {self.aside}")

    def _set_aside(self) -> None:
        """Renames the record of a former job of this name to <job>.1, <job>.2, …"""
        number = next(n for n in itertools.count(1) if not self.folder.with_name(f"{self.folder.name}.{n}").exists())
        self.aside = self.folder.rename(self.folder.with_name(f"{self.folder.name}.{number}"))
        self._lock.close()
        (self.aside / LOCK_FILE).unlink()
        self._lock = self._open_lock(self.folder)
        self._is_new = True

    def close(self) -> None:
        """Closes the logs and gives up the lock on the folder."""
        for file in self._open.values():
            file.close()
        self._lock.close()
        self.run.lock.unlink(missing_ok=True)

    def discard(self) -> None:
        """Undoes the creation of this record, because nothing was launched."""
        self.close()
        if self._is_new:
            shutil.rmtree(self.folder)
            if self.aside:
                self.aside.rename(self.folder)

    def log_path(self, replica: str) -> Path:
        """The path of a replica's log."""
        return self.run.log(replica)

    def log_end(self, replica: str) -> int:
        """The offset behind the log's last byte, in the agent's count."""
        if replica not in self._ends:
            base, place = self._bases.get(replica, (0, 0))
            self._ends[replica] = base + max(0, self._log_bytes(replica) - place)
        return self._ends[replica]

    def _log_bytes(self, replica: str) -> int:
        path = self.log_path(replica)
        return path.stat().st_size if path.exists() else 0

    def append_log(self, replica: str, offset: int, data: bytes) -> bytes:
        """Appends the part of data that the log does not have yet, and returns it; data begins at offset.

        A pod that replaces the replica's former one starts at an offset of its own: a multiple of 2^32.
        """
        end = self.log_end(replica)
        if offset >> 32 > end >> 32:
            self._begin_log(replica, offset)
            end = offset
        if offset > end:
            raise ArtifactError(f"{replica}'s log: bytes {end} to {offset} are missing")
        fresh = data[end - offset :]
        self._append(self.log_path(replica), fresh)
        self._ends[replica] = end + len(fresh)
        return fresh

    def _begin_log(self, replica: str, offset: int) -> None:
        with self._bases_lock:
            self._bases[replica] = [offset, self._log_bytes(replica)]
            self.write_json(f"logs/{BASES_FILE}", self._bases)

    def replace_log(self, replica: str, data: bytes) -> None:
        """Replaces the log by data, which came another way, if that is longer."""
        if len(data) > self._log_bytes(replica):
            path = self.log_path(replica)
            with _writing(path), _open_own(path, os.O_WRONLY | os.O_TRUNC) as file:
                _write(file, data)
            self._ends.pop(replica, None)

    def last_lines(self, replica: str, count: int) -> list[str]:
        """The last lines of a log, without those of a progress bar that is not finished."""
        from tfspawner.replica.keras_output import is_progress_bar

        file = opened(self.log_path(replica))
        if file is None:
            return []
        with file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 65536))
            lines = file.read().decode(errors="replace").replace("\r", "\n").split("\n")
        return [line for line in lines if line.strip() and not is_progress_bar(line)][-count:]

    def event(self, what: str, **facts: Any) -> None:
        """Adds a line to events.jsonl, with the time."""
        line = {"time": round(time.time(), 3), "event": what, **{k: v for k, v in facts.items() if v not in (None, "")}}
        self._append(self.run.events, json.dumps(line).encode() + b"\n")

    def write(self, name: str, text: str) -> None:
        """Writes a file of the record, whole or not at all."""
        path = self.folder / name
        with _writing(path):
            write_whole(path, text)

    def _append(self, path: Path, data: bytes) -> None:
        with _writing(path):
            if path not in self._open:
                self._open[path] = _appending(path)
            _write(self._open[path], data)

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Writes a file of the record as JSON, whole or not at all."""
        self.write(name, json.dumps(value, indent=1, default=str) + "\n")


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file of a record, whole or not at all; it replaces a link of the same name."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666), "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode(errors="replace"))
    os.replace(part, path)


def _open_own(path: Path, how: int) -> Any:
    """Opens a file of the record, creating it if needed. Raises OSError for a link, a pipe or a device."""
    descriptor = os.open(path, how | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a plain file")
    return open(descriptor, "wb", buffering=0)


def _write(file: Any, data: bytes) -> None:
    """Writes all of data. One write() may take only a part, as on a disk that is almost full; the next then raises."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _appending(path: Path) -> Any:
    """Opens a file for appending, but not a link. Ends the half event that a killed launcher may have left there."""
    file = _open_own(path, os.O_RDWR | os.O_APPEND)
    size = os.fstat(file.fileno()).st_size
    if path.name == EVENTS_FILE and size and os.pread(file.fileno(), 1, size - 1) != b"\n":
        file.write(b"\n")
    return file


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ArtifactError(
            f"{path} cannot be written: {error.strerror}", hint=Hint("make room, then: ", Command("fetch"))
        ) from None
