"""Tables of results: a sweep's points, and runs side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tfspawner.base.terminal import table, text_of
from tfspawner.base.words import age
from tfspawner.plan.grid import main_metrics

from .words import STYLES

if TYPE_CHECKING:
    from rich.table import Table

    from tfspawner.follow.sweep import SweepOutcome

MOST_METRICS = 6


def result_table(outcome: SweepOutcome) -> Table:
    """The points, the best first; the best last value of each metric has a star."""
    rows = outcome.points
    flags = list(dict.fromkeys(flag for row in rows for flag in row["values"]))
    metrics = dict.fromkeys([*main_metrics(rows), *(name for row in rows for name in row["metrics"])])
    errors = ["what failed"] if any(row["error"] for row in rows) else []
    shown = list(metrics)[:MOST_METRICS]
    cells = [
        [
            row["job"],
            *(row["values"].get(flag, "") for flag in flags),
            text_of((row["result"], STYLES.get(row["result"], ""))),
            age(row["seconds"]) if row["seconds"] else "",
            *(metric_text(row, metric, outcome.best) for metric in shown),
            *([row["error"]] if errors else []),
        ]
        for row in rows
    ]
    return table(["point", *flags, "result", "time", *shown, *errors], cells)


def metric_text(row: Mapping[str, Any], metric: str, best: Mapping[str, str] | None = None) -> str:
    """A metric's last value, with a star where it is the best of all points."""
    if metric not in row["metrics"]:
        return ""
    star = "*" if best and best.get(metric) == row["job"] else ""
    return f"{row['metrics'][metric]:.4g}{star}"


def comparison_table(rows: list[dict[str, Any]]) -> Table:
    """Runs side by side, a row each; a metric that no run has is left out."""
    metrics = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    cells = [
        [
            row["run"],
            row["result"],
            age(row["seconds"]),
            str(row["replicas"]),
            str(row["epochs"] or ""),
            *(metric_text(row, name) for name in metrics),
            " ".join(row["args"]),
        ]
        for row in rows
    ]
    return table(["run", "result", "time", "replicas", "epochs", *metrics, "arguments"], cells)
