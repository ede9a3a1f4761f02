"""The run's record: one folder with the job's spec, manifests, logs, files, history and report."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import ArtifactError, ConfigurationError

ID_FILE, LOCK_FILE = ".job-id", ".lock"


class Record:
    """runs/<job>: spec.json, manifests.yaml, logs/<replica>.log, files/<replica>/…, events.jsonl, report.json.

    It is one job's: what a former job of the same name left there is set aside. Only one process at a time
    writes into it; a second one raises ConfigurationError.
    """

    def __init__(self, folder: Path, job_id: str) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self.files = folder / "files"
        self._aside: Path | None = None
        try:
            self._lock = self._open_lock(folder)
            self._is_new = not (folder / ID_FILE).exists()
            if any(path.name != LOCK_FILE for path in folder.iterdir()) and _id_of(folder) != job_id:
                self._set_aside()
            (folder / ID_FILE).write_text(job_id)
            self.logs.mkdir(exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"the run's folder {folder} cannot be made: {error.strerror}", hint="give another --out"
            ) from None
        self._open: dict[Path, Any] = {}
        self._sizes: dict[str, int] = {}

    @staticmethod
    def _open_lock(folder: Path) -> Any:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / LOCK_FILE, "w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise ConfigurationError(
                f"another tf-spawner is writing into {folder}", hint="wait for it, or give another --out"
            ) from None
        return lock

    def _set_aside(self) -> None:
        """Moves the record of a former job of this name to <job>.1, .2, …"""
        number = next(n for n in itertools.count(1) if not self.folder.with_name(f"{self.folder.name}.{n}").exists())
        self._aside = self.folder.rename(self.folder.with_name(f"{self.folder.name}.{number}"))
        self._lock.close()
        (self._aside / LOCK_FILE).unlink()
        self._lock = self._open_lock(self.folder)
        self._is_new = True

    def close(self) -> None:
        for file in self._open.values():
            file.close()
        self._lock.close()
        (self.folder / LOCK_FILE).unlink(missing_ok=True)

    def discard(self) -> None:
        """Undoes the making of this record: nothing was launched."""
        self.close()
        if self._is_new:
            shutil.rmtree(self.folder)
            if self._aside:
                self._aside.rename(self.folder)

    def log_path(self, replica: str) -> Path:
        return self.logs / f"{replica}.log"

    def log_size(self, replica: str) -> int:
        if replica not in self._sizes:
            path = self.log_path(replica)
            self._sizes[replica] = path.stat().st_size if path.exists() else 0
        return self._sizes[replica]

    def append_log(self, replica: str, offset: int, data: bytes) -> bytes:
        """Adds what the log does not have yet of data, which begins at offset; returns just that."""
        size = self.log_size(replica)
        if offset > size:
            raise ArtifactError(f"{replica}'s log: bytes {size} to {offset} are missing")
        fresh = data[size - offset :]
        self._append(self.log_path(replica), fresh)
        self._sizes[replica] = size + len(fresh)
        return fresh

    def replace_log(self, replica: str, data: bytes) -> None:
        """Puts a log in place that was had from elsewhere, if it holds more than there is."""
        if len(data) > self.log_size(replica):
            with _writing(self.log_path(replica)):
                self.log_path(replica).write_bytes(data)
            self._sizes[replica] = len(data)

    def last_lines(self, replica: str, count: int) -> list[str]:
        """The last lines of a log that are not a progress bar on its way."""
        from .agent import is_progress_bar

        path = self.log_path(replica)
        if not path.exists():
            return []
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 65536))
            lines = file.read().decode(errors="replace").replace("\r", "\n").split("\n")
        return [line for line in lines if line.strip() and not is_progress_bar(line)][-count:]

    def event(self, what: str, **facts: Any) -> None:
        """Adds a line to events.jsonl, with the time."""
        line = {"time": round(time.time(), 3), "event": what, **{k: v for k, v in facts.items() if v not in (None, "")}}
        self._append(self.folder / "events.jsonl", json.dumps(line).encode() + b"\n")

    def write(self, name: str, text: str) -> None:
        """Writes a file of the record, whole or not at all."""
        path = self.folder / name
        part = path.with_name(f".{name}.part")
        with _writing(path):
            part.write_text(text)
            os.replace(part, path)

    def _append(self, path: Path, data: bytes) -> None:
        with _writing(path):
            if path not in self._open:
                self._open[path] = open(path, "ab", buffering=0)
            self._open[path].write(data)

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        self.write(name, json.dumps(value, indent=1, default=str) + "\n")


def _id_of(folder: Path) -> str | None:
    path = folder / ID_FILE
    return path.read_text() if path.exists() else None


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ArtifactError(
            f"{path} cannot be written: {error.strerror}", hint="make room, then: tf-spawner fetch"
        ) from None
