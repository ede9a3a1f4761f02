"""What a person sees of a sweep: a table of its points on a terminal, a line for each change elsewhere; a table at the end."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from tfspawner.base.terminal import add_row, console, plain_table, say, show, text_of
from tfspawner.base.words import age, left
from tfspawner.follow.sweep import ENDED, Point
from tfspawner.plan.grid import main_metrics

from .plain import PROGRESS_EVERY_S, STYLES, describe_progress

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from tfspawner.follow.sweep import SweepOutcome

STARTED = ("running", *ENDED)  # the states that are worth a line
TABLE_ROWS = 20  # points that are shown while it runs
MOST_METRICS = 6  # in the table at the end


class PlainSweepView:
    """One line per change of a point, and now and then how far those are that run."""

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
                self.note(f"{point.title}: {_told(point)}")
            elif time.monotonic() - self.said_at > PROGRESS_EVERY_S:
                running = [p for p in self.points if p.replica and p.replica.progress]
                if running:
                    self.note("; ".join(f"{p.job}: {_progress(p)}" for p in running))

    def note(self, text: str) -> None:
        with self.lock:
            self.said_at = time.monotonic()
            say(self.err, text + "\n")

    def finish(self) -> None:
        pass


class LiveSweepView(PlainSweepView):
    """The points' table, redrawn; notes scroll above it."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        super().__init__(sys.stderr)
        self.console = console
        self.live = Live(get_renderable=self._render, console=console, refresh_per_second=1, transient=True)
        self.live.start()

    def show(self, point: Point) -> None:
        pass  # the table reads the points

    def note(self, text: str) -> None:
        show(text_of((text, "yellow")), on=self.console)

    def finish(self) -> None:
        self.live.stop()

    def _render(self) -> RenderableType:
        return live_table(self.points) if self.points else ""


def make_sweep_view() -> PlainSweepView:
    """A live view where stderr is a terminal, else a plain one."""
    if not sys.stderr.isatty():
        return PlainSweepView(sys.stderr)
    return LiveSweepView(console(err=True))


def live_table(points: Sequence[Point]) -> Table:
    """A row for each point; of many, first those that run, and then the rest in numbers."""
    flags = list(points[0].values)
    table = plain_table("point", *flags, "state", "time", "epoch", "left", "metrics")
    shown = points
    if len(points) > TABLE_ROWS:
        shown = sorted(points, key=lambda p: (p.result in ENDED, p.result == "waiting", -p.since))[:TABLE_ROWS]
    for point in shown:
        replica = point.replica
        epoch, _, metrics = describe_progress(replica.progress) if replica else ("", "", "")
        took = point.seconds if point.result in ENDED else time.time() - point.since if point.since else 0.0
        add_row(table, [
            point.job, *(point.values[flag] for flag in flags), text_of((point.result, STYLES.get(point.result, ""))),
            age(took) if took else "", epoch, left(replica.progress) if replica else "",
            point.error or metrics or _metrics(point.metrics),
        ])  # fmt: skip
    if len(points) > len(shown):
        counts = Counter(point.result for point in points if point not in shown)
        summary = ", ".join(f"{count} {word}" for word, count in counts.items())
        add_row(table, ["…", f"and {len(points) - len(shown)} more: {summary}"])
    return table


def result_table(outcome: SweepOutcome) -> Table:
    """The points, the best first; the best last value of each metric has a star."""
    rows = outcome.points
    flags = list(dict.fromkeys(flag for row in rows for flag in row["values"]))
    metrics = dict.fromkeys([*main_metrics(rows), *(name for row in rows for name in row["metrics"])])
    errors = ["what failed"] if any(row["error"] for row in rows) else []
    table = plain_table("point", *flags, "result", "time", *list(metrics)[:MOST_METRICS], *errors)
    for row in rows:
        cells = [metric_text(row, metric, outcome.best) for metric in list(metrics)[:MOST_METRICS]]
        add_row(table, [
            row["job"], *(row["values"].get(flag, "") for flag in flags),
            text_of((row["result"], STYLES.get(row["result"], ""))), age(row["seconds"]) if row["seconds"] else "",
            *cells, *([row["error"]] if errors else []),
        ])  # fmt: skip
    return table


def metric_text(row: Mapping[str, Any], metric: str, best: Mapping[str, str]) -> str:
    """A metric's last value, with a star where it is the best of all points."""
    if metric not in row["metrics"]:
        return ""
    star = "*" if best.get(metric) == row["job"] else ""
    return f"{row['metrics'][metric]:.4g}{star}"


def _told(point: Point) -> str:
    if point.result not in ENDED:
        return point.result
    took = f" in {age(point.seconds)}" if point.seconds and point.result != "interrupted" else ""
    metrics = f", {_metrics(point.metrics)}" if point.metrics else ""
    return f"{point.result}{took}: {point.error}" if point.error else f"{point.result}{took}{metrics}"


def _metrics(metrics: Mapping[str, float]) -> str:
    return " ".join(f"{name} {metrics[name]:.4g}" for name in main_metrics([{"metrics": metrics}])[:3])


def _progress(point: Point) -> str:
    assert point.replica
    epoch, step, metrics = describe_progress(point.replica.progress)
    return f"epoch {epoch or '?'}, step {step or '?'} {metrics}".rstrip()
