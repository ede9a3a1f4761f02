"""Keeps the script's output."""

from __future__ import annotations

import os
import re
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from .keras_output import LONGEST_PROGRESS, Pace, is_progress_bar, parse_progress
from .notes import no_room, say
from .protocol import AGENT_MARK, CHUNK, LOG_ANSWER


class Log:
    """The script's whole output in a file, with the last of it and what Keras tells in memory.

    Its bytes are counted from base on: where another pod may take a replica's place, each has a base of its own.
    """

    def __init__(self, path: Path, base: int = 0) -> None:
        self.path, self.base = path, base
        self.file = open(path, "w+b", buffering=0)  # read by itself too: the script may put anything in its place
        self.size = base
        self.ended = False
        self.changed = threading.Condition()
        self.tail = b""
        self.rest = b""
        self.progress: dict[str, Any] = {}
        self.unread = ""  # why progress could not be read, last
        self.pace = Pace()
        self.last_output = time.monotonic()
        self.unkept = 0  # bytes of output that did not fit the disk
        self.untold = 0  # those of them that the log does not mention yet
        self.why_unkept = ""

    def write(self, data: bytes) -> None:
        """Adds output. What does not fit the disk is counted, and a line says so once there is space again."""
        self.tail = (self.tail + data)[-16384:]
        try:
            self.notice(data)
        except Exception as error:  # the output counts, and goes on
            if repr(error) != self.unread:
                say(f"progress is not read: {error!r}")
            self.rest, self.unread = b"", repr(error)
        with self.changed:
            kept = self.put(data) if self.tell_of_gap() else 0
            self.untold += len(data) - kept
            self.unkept += len(data) - kept
            self.last_output = time.monotonic()
            self.changed.notify_all()

    def put(self, data: bytes, *, whole: bool = False) -> int:
        """Adds what fits the disk; if `whole`, all or nothing. Returns how many bytes. Called under the lock."""
        kept, at = 0, self.size - self.base
        try:
            while kept < len(data):
                kept += self.file.write(data[kept:])
        except OSError as error:
            self.why_unkept = no_room(error, self.path.parent)
            if whole:
                self.file.truncate(at)
                self.file.seek(at)
                kept = 0
        self.size += kept
        return kept

    def tell_of_gap(self) -> bool:
        """Writes a line about output that was lost; returns whether the log then has no gap. Called under the lock."""
        if not self.untold:
            return True
        text = f"\n{AGENT_MARK.decode()} {self.untold:,} bytes of output could not be kept here: {self.why_unkept}\n"
        if self.put(text.encode(), whole=True):
            self.untold = 0
        return not self.untold

    def notice(self, data: bytes) -> None:
        """Reads Keras's progress from the script's output."""
        lines = re.split(rb"[\r\n]", self.rest + data)
        self.rest = lines.pop()[-LONGEST_PROGRESS - 1 :]  # of a line that is too long, enough that it stays too long
        for line in lines:
            if b"/" in line and len(line) <= LONGEST_PROGRESS:
                reported = parse_progress(line.decode(errors="replace"))
                if reported and "epoch" in reported:
                    self.begin_epoch(reported)
                elif reported:
                    rate = self.pace.step(time.monotonic(), reported["step"], reported["steps"])
                    self.progress = dict(self.progress, **reported, **({"rate": round(rate, 4)} if rate else {}))

    def begin_epoch(self, reported: dict[str, Any]) -> None:
        """Takes in the epoch's number, and how long the one before took, in seconds."""
        now, before = time.time(), self.progress
        progress = dict(before, **reported, epoch_since=now)
        if reported["epoch"] == before.get("epoch", 0) + 1 and "epoch_since" in before:
            progress["epoch_s"] = now - before["epoch_since"]
        progress.pop("step", None)
        self.progress = progress
        self.pace.begin(time.monotonic())

    def begin_again(self, text: str) -> None:
        """Prepares for another script, which writes here from now on."""
        self.write(f"{AGENT_MARK.decode()} {text}\n".encode())
        self.progress, self.pace = {}, Pace()

    def end(self) -> None:
        """Marks the log's end: nothing more comes."""
        with self.changed:
            self.tell_of_gap()
            self.ended = True
            self.changed.notify_all()

    def wait_for(self, offset: int, seconds: float, alive: Any) -> bool:
        """Waits until there is output behind offset; returns whether the output had ended."""
        deadline = time.monotonic() + seconds
        with self.changed:
            while self.size <= offset and not self.ended and time.monotonic() < deadline and alive():
                self.changed.wait(min(1.0, max(0.0, deadline - time.monotonic())))
            return self.ended

    def read(self, offset: int, most: int = LOG_ANSWER) -> bytes:
        return os.pread(self.file.fileno(), min(most, max(0, self.size - offset)), offset - self.base)

    def place(self) -> str:
        """A file with the whole log: its own, or a copy if the script replaced it. Raises OSError."""
        with suppress(FileNotFoundError):
            if os.path.samestat(os.lstat(self.path), os.fstat(self.file.fileno())):
                return str(self.path)
        with tempfile.NamedTemporaryFile(dir=self.path.parent, delete=False) as copy:
            while True:
                data = os.pread(self.file.fileno(), CHUNK, copy.tell())
                if not data:
                    return copy.name
                copy.write(data)

    def last_lines(self, count: int = 20) -> list[str]:
        """The last lines that are neither empty nor a progress bar."""
        lines = re.split(r"[\r\n]+", self.tail.decode(errors="replace"))
        return [line for line in lines if line.strip() and not is_progress_bar(line)][-count:]
