"""The run's record: one folder with the job's spec, manifests, logs, files, history and report."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import ArtifactError, ConfigurationError

ID_FILE, LOCK_FILE, BASES_FILE = ".job-id", ".lock", ".bases"


class Record:
    """runs/<job>: spec.json, manifests.yaml, logs/<replica>.log, files/<replica>/…, events.jsonl, report.json.

    It is one job's: what a former job of the same name left there is set aside. Only one process at a time
    writes into it; a second one raises ConfigurationError.
    """

    def __init__(self, folder: Path, job_id: str) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self.files = folder / "files"
        self.aside: Path | None = None
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
        self._bases_lock = threading.Lock()
        self._ends: dict[str, int] = {}  # offset behind the last byte that each log has
        self._bases = read_json(
            self.logs / BASES_FILE
        )  # {replica: [offset of its last pod's first byte, where in the file]}

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
        self.aside = self.folder.rename(self.folder.with_name(f"{self.folder.name}.{number}"))
        self._lock.close()
        (self.aside / LOCK_FILE).unlink()
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
            if self.aside:
                self.aside.rename(self.folder)

    def log_path(self, replica: str) -> Path:
        return self.logs / f"{replica}.log"

    def log_end(self, replica: str) -> int:
        """The offset behind the log's last byte, as its agent counts."""
        if replica not in self._ends:
            base, place = self._bases.get(replica, (0, 0))
            self._ends[replica] = base + self._log_bytes(replica) - place
        return self._ends[replica]

    def _log_bytes(self, replica: str) -> int:
        path = self.log_path(replica)
        return path.stat().st_size if path.exists() else 0

    def append_log(self, replica: str, offset: int, data: bytes) -> bytes:
        """Adds what the log does not have yet of data, which begins at offset; returns just that.

        Another pod that took the replica's place counts from an offset of its own on: a multiple of 2^32.
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
        """Puts a log in place that was had from elsewhere, if it holds more than there is."""
        if len(data) > self._log_bytes(replica):
            with _writing(self.log_path(replica)):
                self.log_path(replica).write_bytes(data)
            self._ends.pop(replica, None)

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
        part = path.with_name(f".{path.name}.part")
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


def read_json(path: Path) -> dict[str, Any]:
    """A file of a record; empty where there is none, or no JSON."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found


def _id_of(folder: Path) -> str | None:
    path = folder / ID_FILE
    return path.read_text() if path.exists() else None


def id_in(folder: Path) -> str:
    """The id of the job whose record that is; empty where there is none."""
    try:
        return _id_of(folder) or ""
    except (OSError, ValueError):
        return ""


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ArtifactError(
            f"{path} cannot be written: {error.strerror}", hint="make room, then: tf-spawner fetch"
        ) from None
