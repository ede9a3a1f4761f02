"""The live view: the replicas' table at the terminal's lower end, while their lines scroll away above it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from rich.console import Console

from tfspawner.backends.base import JobSummary
from tfspawner.base.terminal import harmless, text_of
from tfspawner.base.words import human_bytes
from tfspawner.errors import ClusterError
from tfspawner.follow.state import JobState

from .pane import LivePane, Pane
from .plain import PlainView
from .table import jobs_table, replica_table

if TYPE_CHECKING:
    from rich.text import Text

COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_red", "bright_cyan", "bright_green")
LOOK_EVERY_S = 2.0  # for the jobs


class LiveView(PlainView):
    """The replicas' table, redrawn; log lines scroll above it, each with its replica's name in a colour."""

    def __init__(self, console: Console, out: TextIO, *, logs: bool = True, stays: bool = False) -> None:
        super().__init__(out, sys.stderr, logs=logs)
        self.console, self.live = console, LivePane(console, self.table, stays=stays)
        self.colours: dict[str, str] = {}  # replica -> its name as the terminal is sent it
        self.state: JobState | None = None

    def show(self, state: JobState) -> None:
        self.state = state
        self.live.draw()

    def write(self, replica: str, lines: list[str]) -> None:
        """Prints lines of a replica's log above the table."""
        if not self.out.isatty():
            super().write(replica, lines)
            return
        if replica not in self.colours:
            colour = COLOURS[len(self.colours) % len(COLOURS)]
            self.colours[replica] = self.live.styled(f"{replica} │ ", colour)
        self.live.scroll([self.colours[replica] + harmless(line) for line in lines])

    def note(self, text: str) -> None:
        self.live.note(text)

    def received(self, size_bytes: int) -> None:
        super().received(size_bytes)
        self.live.draw()

    def finish(self) -> None:
        """Ends the table: removes it or leaves it on the screen."""
        super().finish()
        self.live.finish()

    def table(self) -> Text:
        """The table, at most as high as the window, or two thirds of that if log lines scroll above it."""
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
    """Shows the jobs that look() returns, and refreshes them; errors after the first time are shown below them."""
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
