"""A sweep's record as one HTML page: its points, how they learned, and what each flag does. Reads only files."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfspawner.base.templating import html_environment
from tfspawner.base.terminal import harmless
from tfspawner.base.words import age
from tfspawner.errors import NotFoundError
from tfspawner.plan.grid import Values, best, main_metrics, numbers, ranked, shown
from tfspawner.plan.words import sweep_words
from tfspawner.record.folder import RunFolder
from tfspawner.record.learning import Curve
from tfspawner.record.reading import read_sweep

from .charts import LEFT, MOST_CURVES, WIDTH, Chart, Dot, draw, has_place, heights
from .run import curves_of, write_html

MOST_FAINT = 200  # faint curves behind those in colour
MOST_CHARTS = 6  # charts of curves
MOST_METRICS = 2  # metrics that are shown over a flag's values
LOG_SPREAD = 100  # the axis is logarithmic if values differ by this factor
LABEL_WIDTH, LABEL_LETTERS = 56, 14  # a tick's text: its width in SVG units; longer texts are cut


def write_page(folder: Path) -> Path:
    """Writes sweep.html into a sweep's folder."""
    return write_html(RunFolder(folder).sweep_page, page(folder))


def page(folder: Path) -> str:
    """The HTML page of the sweep recorded in folder. It needs no network and no other file, except for its links."""
    record = read_sweep(folder)
    if record is None:
        raise NotFoundError(
            f"there is no record of a sweep in {folder}", hint="give the folder that has its sweep.json"
        )
    rows = ranked(
        [row for row in record["points"] if in_grid(row["values"], record["grid"]) or row["result"] == "succeeded"]
    )
    curves = {row["job"]: curves_of(folder.parent / row["job"]) for row in rows if row["metrics"]}
    bests = best(rows)
    metrics = main_metrics(rows)
    return (
        html_environment()
        .get_template("sweep.html")
        .render(
            name=record["sweep"],
            rows=rows,
            bests=bests,
            spec=record["spec"],
            parallel=record["parallel"],
            flags=list(dict.fromkeys(flag for row in rows for flag in row["values"])),
            metrics=list(dict.fromkeys([*metrics, *(name for row in rows for name in row["metrics"])])),
            done=sum(row["result"] == "succeeded" for row in rows),
            failed=sum(bool(row["error"]) for row in rows),
            pages={row["job"] for row in rows if RunFolder(folder.parent / row["job"]).page.exists()},
            curves=curve_charts(rows, curves, metrics),
            over={
                flag: charts
                for flag in record["grid"]
                if (charts := flag_charts(flag, rows, bests, metrics[:MOST_METRICS]))
            },
            command=shlex.join(["tf-spawner", "run", *sweep_words(record)]),
            drawn=MOST_CURVES + MOST_FAINT,
            age=age,
            shown=shown,
            total=age(sum(row["seconds"] for row in rows)),
        )
    )


def in_grid(values: Values, grid: Mapping[str, Sequence[str]]) -> bool:
    """Whether a point's values are all of this grid."""
    return values.keys() == grid.keys() and all(value in grid[flag] for flag, value in values.items())


def curve_charts(
    rows: Sequence[Mapping[str, Any]], curves: Mapping[str, Mapping[str, Curve]], metrics: Sequence[str]
) -> list[Chart]:
    """A chart for each metric, with a curve for each point; the best ones are in colour."""
    charts = []
    for metric in metrics[:MOST_CHARTS]:
        of = {
            f"{row['job']}, {shown(row['values'])}": curves[row["job"]][metric]
            for row in rows
            if curves.get(row["job"], {}).get(metric)
        }
        charts.append(draw(metric, dict(list(of.items())[: MOST_CURVES + MOST_FAINT]), whole=True))
    return [chart for chart in charts if chart]


def flag_charts(
    flag: str, rows: Sequence[Mapping[str, Any]], bests: Mapping[str, str], metrics: Sequence[str]
) -> list[Chart]:
    """A chart for each metric: its last value at each point, over the flag's value there."""
    charts = []
    for metric in metrics:
        known = [row for row in rows if flag in row["values"] and has_place(row["metrics"].get(metric, math.nan))]
        values = list(dict.fromkeys(row["values"][flag] for row in known))
        if len(values) < 2:
            continue
        x, x_ticks, how = axis(values)
        reached = [row["metrics"][metric] for row in known]
        margin = (max(reached) - min(reached)) / 12
        y, y_ticks = heights([min(reached) - margin, max(reached) + margin])
        dots = [
            Dot(
                x=x(row["values"][flag]),
                y=y(row["metrics"][metric]),
                is_best=bests.get(metric) == row["job"],
                tooltip=f"{row['job']}, {shown(row['values'])}: {row['metrics'][metric]:.4g}",
            )
            for row in known
        ]
        dots.sort(key=lambda dot: dot.is_best)  # the best lies on top
        charts.append(Chart(title=f"{metric} over {flag}{how}", lines=[], x_ticks=x_ticks, y_ticks=y_ticks, dots=dots))
    return charts


def axis(values: Sequence[str]) -> tuple[Callable[[str], float], list[tuple[float, str]], str]:
    """(function from a flag's value to its place on the axis, the ticks, words to add to the chart's title)."""
    places, how = numbers(values), ""
    if places is None:
        order = {value: float(number) for number, value in enumerate(values)}
        places = [order[value] for value in values]
    elif min(places) > 0 and max(places) / min(places) >= LOG_SPREAD:
        places, how = [math.log10(place) for place in places], " (logarithmic)"
    first, span = min(places), (max(places) - min(places)) or 1.0
    inner = WIDTH - LEFT - 80
    at = {value: LEFT + 36 + (place - first) / span * inner for value, place in zip(values, places, strict=True)}
    labels: list[tuple[float, str]] = []
    for value, place in sorted(at.items(), key=lambda item: item[1]):
        if not labels or place - labels[-1][0] >= LABEL_WIDTH:
            text = harmless(value)
            labels.append((place, text if len(text) <= LABEL_LETTERS else f"{text[:LABEL_LETTERS]}…"))
    return at.__getitem__, labels, how
