"""A sweep while it runs: a table of its points on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

from tfspawner.base.terminal import console, say, table, text_of
from tfspawner.base.words import age, left
from tfspawner.follow.sweep import ENDED, Point
from tfspawner.plan.grid import main_metrics

from .choice import is_terminal
from .plain import PROGRESS_EVERY_S
from .words import STYLES, describe_progress, progress_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

STARTED = ("running", *ENDED)  # the states that are worth a line
TABLE_ROWS = 20  # points that are shown while it runs
REDRAW_S = 1.0


class PlainSweepView:
    """One line per change of a point, and now and then the progress of the running ones."""

    def __init__(self, err: TextIO) -> None:
        self.err = err
        self.points: Sequence[Point] = ()
        self.states: dict[str, str] = {}
        self.said_at = time.monotonic()
        self.lock = threading.RLock()

    def begin(self, name: str, points: Sequence[Point], parallel: int) -> None:
        self.points = points
        done = sum(point.result == "succeeded" for point in points)
        counted = f"{len(points)} point{'s' * (len(points) > 1)}" + (f", {done} of them done before" if done else "")
        self.note(f"sweep {name}: {counted}" + (f", {parallel} at a time" if parallel > 1 else ""))

    def show(self, point: Point) -> None:
        with self.lock:
            if point.result in STARTED and self.states.get(point.job) != point.result:
                self.states[point.job] = point.result
                self.note(f"{point.title}: {_point_words(point)}")
            elif time.monotonic() - self.said_at > PROGRESS_EVERY_S:
                running = [p for p in self.points if p.replica and p.replica.progress]
                if running:
                    self.note("; ".join(f"{p.job}: {progress_line(p.replica.progress)}" for p in running if p.replica))

    def note(self, text: str) -> None:
        with self.lock:
            self.said_at = time.monotonic()
            say(self.err, text + "\n")

    def finish(self) -> None:
        pass


class LiveSweepView(PlainSweepView):
    """The points' table, redrawn; notes scroll above it."""

    def __init__(self, console: Console) -> None:
        from .pane import LivePane

        super().__init__(sys.stderr)
        self.live = LivePane(console, self.table)
        self.ended = threading.Event()
        threading.Thread(target=self.redraw, daemon=True).start()

    def show(self, point: Point) -> None:
        pass  # the table reads the points

    def note(self, text: str) -> None:
        self.live.note(text)

    def finish(self) -> None:
        self.ended.set()
        self.live.finish()

    def redraw(self) -> None:
        """Keeps the times current, even while no point reports anything."""
        while not self.ended.wait(REDRAW_S):
            self.live.draw()

    def table(self) -> Table | Text:
        """What the pane shows; nothing until the points are known."""
        return live_table(self.points) if self.points else text_of()


def make_sweep_view() -> PlainSweepView:
    """A live view if stderr is a terminal, else a plain one."""
    if not is_terminal(sys.stderr):
        return PlainSweepView(sys.stderr)
    return LiveSweepView(console(err=True))


def live_table(points: Sequence[Point]) -> Table:
    """A row for each point; if there are many, the running ones first, and only the number of the rest."""
    flags = list(points[0].values)
    shown = points
    if len(points) > TABLE_ROWS:
        shown = sorted(points, key=lambda p: (p.result in ENDED, p.result == "waiting", -p.since))[:TABLE_ROWS]
    rows = [_row(point, flags) for point in shown]
    if len(points) > len(shown):
        counts = Counter(point.result for point in points if point not in shown)
        summary = ", ".join(f"{count} {word}" for word, count in counts.items())
        rows.append(["…", f"and {len(points) - len(shown)} more: {summary}"])
    return table(["point", *flags, "state", "time", "epoch", "left", "metrics"], rows)


def _row(point: Point, flags: Sequence[str]) -> list[str | Text]:
    replica = point.replica
    epoch, _, metrics = describe_progress(replica.progress) if replica else ("", "", "")
    took = point.seconds if point.result in ENDED else time.time() - point.since if point.since else 0.0
    return [
        point.job,
        *(point.values[flag] for flag in flags),
        text_of((point.result, STYLES.get(point.result, ""))),
        age(took) if took else "",
        epoch,
        left(replica.progress) if replica else "",
        point.error or metrics or _metrics(point.metrics),
    ]


def _point_words(point: Point) -> str:
    if point.result not in ENDED:
        return point.result
    took = f" in {age(point.seconds)}" if point.seconds and point.result != "interrupted" else ""
    metrics = f", {_metrics(point.metrics)}" if point.metrics else ""
    return f"{point.result}{took}: {point.error}" if point.error else f"{point.result}{took}{metrics}"


def _metrics(metrics: Mapping[str, float]) -> str:
    return " ".join(f"{name} {metrics[name]:.4g}" for name in main_metrics([{"metrics": metrics}])[:3])
