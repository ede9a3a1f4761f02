"""The live view: the replicas' table at the terminal's lower end, while their lines scroll away above it."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from rich.cells import cell_len
from rich.console import Console

from tfspawner.backends.base import JobSummary
from tfspawner.base.terminal import harmless, silence, text_of
from tfspawner.base.words import human_bytes
from tfspawner.errors import ClusterError
from tfspawner.follow.state import JobState

from .plain import PlainView
from .table import jobs_table, replica_table

if TYPE_CHECKING:
    from rich.text import Text

COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_red", "bright_cyan", "bright_green")
TABLE_EVERY_S = 1.0
TEXT_EVERY_S = 0.25  # what scrolls above comes so soon
LOOK_EVERY_S = 2.0  # for the jobs
LINK_BYTES_S = 8192  # the pane takes no more of a slow link


class Pane:
    """Lines that are redrawn in place.

    Rewrites only the lines that changed, and no sooner than what it wrote last has passed a slow link.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.drawn: list[str] = []
        self.cells: list[int] = []  # how wide each of them is
        self.drawn_at = -math.inf
        self.busy_s = 0.0  # so long the last drawing takes on a slow link

    def is_due(self, has_text: bool) -> bool:
        """Whether enough time has passed since the last drawing; text that waits is drawn sooner."""
        pause_s = TEXT_EVERY_S if has_text else TABLE_EVERY_S
        return time.monotonic() - self.drawn_at >= max(pause_s, self.busy_s)

    def draw(self, pane: Text, text: str = "") -> None:
        """Makes the pane show these lines, and puts text, which ends with a line's end, above it."""
        lines = self.ansi(pane).split("\n")[:-1] if pane else []
        if text or len(lines) != len(self.drawn) or self.rows() != len(self.drawn):
            written = "".join(f"{line}\n" for line in lines)
            self.console.file.write(self.erasing() + text + written)
        else:
            written = self.changes(lines)
            self.console.file.write(written)
        self.console.file.flush()
        self.drawn, self.cells = lines, [cell_len(line.rstrip()) for line in pane.plain.split("\n")][: len(lines)]
        self.drawn_at, self.busy_s = time.monotonic(), len(written) / LINK_BYTES_S

    def ansi(self, text: Text) -> str:
        """The text as this terminal is to be sent it."""
        with self.console.capture() as captured:
            self.console.print(text, soft_wrap=True)
        return captured.get()

    def rows(self) -> int:
        """How many rows the lines take: in a window that was made narrower since, some take two."""
        return sum(max(1, math.ceil(cells / self.console.width)) for cells in self.cells)

    def erasing(self) -> str:
        """What a terminal is sent to remove the lines drawn last."""
        return f"\x1b[{self.rows()}A\r\x1b[J" if self.drawn else ""

    def changes(self, lines: list[str]) -> str:
        """What turns the drawn lines into these, which are as many; the cursor stays below them."""
        parts = []
        for number, (line, before) in enumerate(zip(lines, self.drawn, strict=True)):
            if line != before:
                up = len(lines) - number
                parts.append(f"\x1b[{up}A\r{line}\x1b[K\r\x1b[{up}B")
        return "".join(parts)


class LiveView(PlainView):
    """The replicas' table, redrawn; log lines scroll above it, each with its replica's name in a colour."""

    def __init__(self, console: Console, out: TextIO, *, logs: bool = True, stays: bool = False) -> None:
        super().__init__(out, sys.stderr, logs=logs)
        self.console, self.pane, self.stays = console, Pane(console), stays
        self.colours: dict[str, str] = {}  # replica -> its name as the terminal is sent it
        self.above: list[str] = []  # what is still to be shown above the table
        self.state: JobState | None = None
        self.lock = threading.Lock()  # files are collected by several threads

    def show(self, state: JobState) -> None:
        self.state = state
        self.draw()

    def write(self, replica: str, lines: list[str]) -> None:
        """Puts lines of a replica's log above the table."""
        if not self.out.isatty():
            super().write(replica, lines)
            return
        if replica not in self.colours:
            colour = COLOURS[len(self.colours) % len(COLOURS)]
            self.colours[replica] = self.styled(f"{replica} │ ", colour)
        self.above += [f"{self.colours[replica]}{harmless(line)}\n" for line in lines]
        self.draw()

    def note(self, text: str) -> None:
        self.above.append(self.styled(text, "yellow") + "\n")
        self.draw(now=True)

    def received(self, size_bytes: int) -> None:
        super().received(size_bytes)
        self.draw()

    def finish(self) -> None:
        """Takes the table away, or lets it stay."""
        super().finish()
        if not self.stays or self.above:
            self.draw(now=True, last=True)

    def styled(self, text: str, style: str) -> str:
        """The text in this style, with the escape sequences that the terminal takes."""
        return self.pane.ansi(text_of(text, style=style)).rstrip("\n")

    def draw(self, *, now: bool = False, last: bool = False) -> None:
        """Redraws if it is due, or now; a last drawing removes a table that is not to stay."""
        with self.lock:
            if now or self.pane.is_due(bool(self.above)):
                text, self.above = "".join(self.above), []
                try:
                    self.pane.draw(self.table() if self.stays or not last else text_of(), text)
                except OSError:
                    silence(self.console.file)  # the job goes on without being seen

    def table(self) -> Text:
        """As high as the window; where log lines scroll above it, two thirds of that."""
        if not self.state:
            return text_of()
        width, height = self.console.size
        table = replica_table(self.state, width, height - 2 if not self.logs else max(5, height * 2 // 3))
        return (
            text_of("\n").join([table, text_of(f"{human_bytes(self.collected)} collected")])
            if self.collected
            else table
        )


def watch_jobs(console: Console, look: Callable[[], tuple[list[JobSummary], str]]) -> None:
    """Shows the jobs that look() finds, again and again; what goes wrong after the first time is told below them."""
    pane = Pane(console)
    jobs, warning = look()
    while True:
        width, height = console.size
        table = jobs_table(jobs, width, height - 2) if jobs else text_of("no running jobs")
        pane.draw(text_of("\n").join([table, text_of((warning, "yellow"))]) if warning else table)
        time.sleep(max(LOOK_EVERY_S, pane.busy_s))
        try:
            jobs, warning = look()
        except ClusterError as error:
            warning = error.message
