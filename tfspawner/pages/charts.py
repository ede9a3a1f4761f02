"""Charts of a run: curves in SVG's units."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tfspawner.record.learning import Curve

LARGEST, CLOSEST = 1e300, 1e-300  # larger values are not drawn; values closer together than this share one place
MOST_CURVES = 8  # curves in colour
MOST_FAINT = 64  # faint curves behind these
WIDTH, HEIGHT, LEFT, BOTTOM = 640, 220, 52, 24  # of a chart, in SVG units
GANG = "all"


COLOURED = {
    "pending",
    "running",
    "succeeded",
    "failed",
    "stopped",
    "ended",
    "stopping",
}  # others are on the way to running


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a chart: its name, its SVG path with gaps where a value is not a number, and its last value."""

    label: str
    path: str
    last: str
    colour: int
    dashed: bool
    faint: bool  # behind the others, and not in the key


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """One point of a chart: its place in SVG units, and what it stands for."""

    x: float
    y: float
    tooltip: str
    is_best: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Curves over epochs or seconds, or dots over a flag's values; ticks are (SVG place, text)."""

    title: str
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    dots: list[Dot] = field(default_factory=list)


def charts(metrics: Mapping[str, Mapping[str, Curve]], *, merged: bool = True) -> list[Chart]:
    """A chart for each metric, with its val_ dashed; merged: one line if all replicas have the same values."""
    names = {name.removeprefix("val_"): None for curves in metrics.values() for name in curves}
    return [drawn for drawn in (chart(name, metrics, merged) for name in names) if drawn]


def chart(name: str, metrics: Mapping[str, Mapping[str, Curve]], merged: bool) -> Chart | None:
    """The chart of one metric and its val_; None if there are fewer than two epochs."""
    curves: dict[str, Curve] = {}
    for kind in (name, f"val_{name}"):
        of = {replica: by_name[kind] for replica, by_name in metrics.items() if kind in by_name}
        if merged and len(of) > 1 and len({repr(sorted(curve.items())) for curve in of.values()}) == 1:
            of = {f"all {len(of)} replicas": next(iter(of.values()))}
        curves |= {f"{kind}, {replica}": curve for replica, curve in list(of.items())[: MOST_CURVES + MOST_FAINT]}
    return draw(name, curves, whole=True)


def usage_charts(events: list[dict[str, Any]]) -> list[Chart]:
    """The processors, memory and GPUs that the first replicas used, over the run's seconds."""
    curves: dict[str, dict[str, Curve]] = {"processors": {}, "memory": {}, "GPU use, %": {}, "GPU memory": {}}
    for event in events:
        if event["event"] != "usage":
            continue
        at, replica = event["time"] - events[0]["time"], event["replica"]
        gpus = event.get("gpus")
        for title, value in (
            ("processors", event["cpu"]),
            ("memory", event["memory"]),
            ("GPU use, %", sum(gpus) / len(gpus) if gpus else None),
            ("GPU memory", event.get("gpu_memory")),
        ):
            if value is not None and (replica in curves[title] or len(curves[title]) < MOST_CURVES + MOST_FAINT):
                curves[title].setdefault(replica, {})[at] = value
    ordered = {title: {name: of[name] for name in sorted(of, key=in_order)} for title, of in curves.items()}
    drawn = [draw(*in_units(title, of), from_zero=True) for title, of in ordered.items()]
    return list(filter(None, drawn))


def in_order(replica: str) -> tuple[str, int]:
    """A key that sorts replicas by role, then by index as a number."""
    role, _, index = replica.rpartition("-")
    return role, int(index) if index.isascii() and index.isdigit() and len(index) < 10 else 0


def in_units(title: str, curves: Mapping[str, Curve]) -> tuple[str, Mapping[str, Curve]]:
    """The title with its unit, and the curves in that unit: bytes become MiB or GiB."""
    if "memory" not in title:
        return title, curves
    most = max((value for curve in curves.values() for value in curve.values()), default=0)
    unit, size = ("GiB", 1 << 30) if most >= 1 << 30 else ("MiB", 1 << 20)
    scaled = {name: {at: value / size for at, value in curve.items()} for name, curve in curves.items()}
    return f"{title}, {unit}", scaled


def draw(title: str, curves: Mapping[str, Curve], *, whole: bool = False, from_zero: bool = False) -> Chart | None:
    """The chart of named curves; None if none has two points.

    A curve and its val_ have the same colour. After the first MOST_CURVES, curves are faint and drawn behind.
    """
    values = {label: [value for value in curve.values() if has_place(value)] for label, curve in curves.items()}
    if max(map(len, values.values()), default=0) < 2:
        return None
    places = [place for curve in curves.values() for place in curve]
    first, last = min(places), max(places)
    y, y_ticks = heights([value for numbers in values.values() for value in numbers] + [0.0] * from_zero)
    colours: dict[str, int] = {}
    for label in curves:
        colours.setdefault(label.removeprefix("val_"), len(colours))

    def x(place: float) -> float:
        return LEFT + (place - first) / (last - first) * (WIDTH - LEFT - 8)

    def line(label: str, curve: Curve) -> Line:
        colour = colours[label.removeprefix("val_")]
        path = " ".join(
            "M" + " ".join(f"{x(place):.1f},{y(value):.1f}" for place, value in part) + "h0"
            for part in stretches(curve)
        )
        return Line(
            label=label,
            path=path,
            last=last_of(curve),
            colour=colour,
            dashed=label.startswith("val_"),
            faint=colour >= MOST_CURVES,
        )

    return Chart(
        title=title,
        lines=[line(label, curve) for label, curve in curves.items()],
        y_ticks=y_ticks,
        x_ticks=[(x(place), f"{place:g}") for place in ticks(first, last, whole=whole)],
    )


def has_place(value: float) -> bool:
    """Whether a chart can show the value: a number that is not too large to calculate with."""
    return abs(value) <= LARGEST


def stretches(curve: Curve) -> list[list[tuple[float, float]]]:
    """The points in order, split where a value is not a number."""
    parts: list[list[tuple[float, float]]] = [[]]
    for point in sorted(curve.items()):
        if has_place(point[1]):
            parts[-1].append(point)
        elif parts[-1]:
            parts.append([])
    return [part for part in parts if part]


def last_of(curve: Curve) -> str:
    """The last value in words; if it is not a number, since when."""
    value = curve[max(curve)]
    if math.isfinite(value):
        return f"{value:.4g}"
    before = max((place for place in curve if math.isfinite(curve[place])), default=-math.inf)
    return f"{value:g} from {min(place for place in curve if place > before):g} on"


def heights(values: list[float]) -> tuple[Callable[[float], float], list[tuple[float, str]]]:
    """(function from a value to its height in a chart of all values, the ticks)."""
    places = ticks(min(values), max(values))
    low, high = min(*values, places[0]), max(*values, places[-1])

    def y(value: float) -> float:
        return (HEIGHT - BOTTOM) - (value - low) / ((high - low) or 1.0) * (HEIGHT - BOTTOM - 8)

    return y, [(y(value), f"{value:.6g}") for value in places]


def ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Three to seven round values from low to high."""
    if high - low < CLOSEST:
        return [low]
    step = 10 ** math.floor(math.log10((high - low) / 3))
    step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 6)
    if whole:
        step = max(1, math.ceil(step))
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)] or [low]
