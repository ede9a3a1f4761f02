"""The view for output that cannot be redrawn: a line for each event, and the log lines."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, TextIO

from tfspawner.base.states import Phase
from tfspawner.base.terminal import Flow, raw, say, silence, write
from tfspawner.replica.keras_output import is_progress_bar

from .words import progress_line

if TYPE_CHECKING:
    from tfspawner.follow.state import JobState, ReplicaState

LONGEST_LINE = 65536  # a longer one is cut
PROGRESS_EVERY_S = 30.0  # between two lines of progress, where nothing else is printed and there is no terminal
PASSING = ("pending", "getting the code", "meeting", "ready")  # states that are worth no line
BEGINNING = ("starting", "running")  # nor are these, once the job ends: it would look like a restart


class Lines:
    """Cuts each replica's bytes into lines; of a progress bar that redraws itself, only the last state counts.

    Lines are the script's: terminal.raw() gives their bytes again, terminal.harmless() what a person may see.
    """

    def __init__(self) -> None:
        self.rest: dict[str, bytes] = {}

    def feed(self, replica: str, data: bytes) -> list[str]:
        """The lines completed by data; the rest is kept, up to LONGEST_LINE bytes."""
        *lines, rest = (self.rest.get(replica, b"") + data).split(b"\n")
        *drawn, rest = rest.split(b"\r")
        last = next((part for part in reversed(drawn) if part.strip(b"\x08 ")), None)
        rest = rest if last is None else last + b"\r" + rest  # what was drawn before is drawn over
        while len(rest) > LONGEST_LINE:
            lines.append(rest[:LONGEST_LINE])
            rest = rest[LONGEST_LINE:]
        self.rest[replica] = rest
        return [self._last_drawn(line) for line in lines]

    def flush(self, replica: str) -> list[str]:
        """A replica's last line, which has no line end."""
        rest = self.rest.pop(replica, b"")
        return [self._last_drawn(rest)] if rest else []

    @staticmethod
    def _last_drawn(line: bytes) -> str:
        drawn = [part for part in line.decode(errors="surrogateescape").split("\r") if part.strip("\x08 ")]
        return drawn[-1] if drawn else ""


class PlainView:
    """One line per event: log lines go to stdout with the replica's name, the rest to stderr."""

    needs_stdout = False

    def __init__(self, out: TextIO, err: TextIO, *, logs: bool = True) -> None:
        self.out, self.err, self.logs = out, err, logs
        self.lines = Lines()
        self.states: dict[str, str] = {}
        self.said_at = time.monotonic()
        self.collected = 0  # bytes of files

    def show(self, state: JobState) -> None:
        changed: dict[str, list[ReplicaState]] = {}
        passing = (*PASSING, *BEGINNING) if state.phase in (Phase.STOPPING, Phase.ENDED) else PASSING
        for line in state.replicas.values():
            if self.states.get(line.replica) != line.word and line.word not in passing:
                self.states[line.replica] = line.word
                changed.setdefault(line.word, []).append(line)
        for word, lines in changed.items():
            self.note(_sum_up(word, lines))
        first = next(iter(state.replicas.values()))
        if first.progress and time.monotonic() - self.said_at > PROGRESS_EVERY_S:
            self.note(f"{first.replica}: {progress_line(first.progress)}")

    def log(self, replica: str, data: bytes) -> None:
        if self.logs:
            self.emit(replica, self.lines.feed(replica, data))

    def received(self, size_bytes: int) -> None:
        self.collected += size_bytes

    def finish(self) -> None:
        for replica in list(self.lines.rest):
            self.emit(replica, self.lines.flush(replica))

    def emit(self, replica: str, lines: list[str]) -> None:
        """Writes lines of a replica's log, except those that only draw a progress bar."""
        shown = [line for line in lines if not is_progress_bar(line)]
        if shown:
            self.write(replica, shown)

    def write(self, replica: str, lines: list[str]) -> None:
        """Writes to stdout; if that is closed or full, the output ends, and the job goes on."""
        self.said_at = time.monotonic()
        try:
            write(self.out, "".join(f"{replica} | {line}\n" for line in lines))
        except OSError as error:
            if self.needs_stdout:
                raise
            self.logs = False
            silence(self.out)
            self.note(f"warning: no more output is shown: {error.strerror}")

    def note(self, text: str) -> None:
        self.said_at = time.monotonic()
        say(self.err, text + "\n")


class FollowView(PlainView):
    """For `logs`: only the output. A single replica's is unchanged, but escaped on a terminal."""

    needs_stdout = True

    def __init__(self, out: TextIO, err: TextIO, *, replica: str | None = None, as_json: bool = False) -> None:
        super().__init__(out, err)
        self.replica, self.as_json = replica, as_json
        self.flow = Flow(out)

    def show(self, state: JobState) -> None:
        pass

    def log(self, replica: str, data: bytes) -> None:
        if self.replica not in (None, replica):
            return
        if self.replica and not self.as_json:
            self.flow.feed(data)
        else:
            super().log(replica, data)

    def finish(self) -> None:
        super().finish()
        self.flow.feed(b"", last=True)

    def write(self, replica: str, lines: list[str]) -> None:
        """Writes lines of a replica's log, as JSON if that was asked for."""
        if not self.as_json:
            super().write(replica, lines)
            return
        records = [{"replica": replica, "line": raw(line).decode(errors="replace")} for line in lines]
        write(self.out, "".join(json.dumps(record) + "\n" for record in records))


def _sum_up(word: str, lines: list[ReplicaState]) -> str:
    if len(lines) > 4:
        return f"{len(lines)} replicas: {word}"
    named = []
    for line in lines:
        node = f" on {line.node}" if line.node and word in ("starting", "getting the code") else ""
        named.append(f"{line.replica}{node}")
    message = next((f": {line.storing or line.message}" for line in lines if line.storing or line.message), "")
    return f"{', '.join(named)}: {word}{message}"
