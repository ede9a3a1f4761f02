"""A run's record as one HTML page: what ran where, how it learned, what failed, what came back. Reads files alone."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from tfspawner.agent import ANSI, parse_progress
from tfspawner.base.templating import html_environment
from tfspawner.base.words import age, human_bytes
from tfspawner.errors import ConfigurationError, NotFoundError
from tfspawner.plan.words import words_of
from tfspawner.record.reading import Note, log_file, log_files, read_events, read_spec, read_sweep
from tfspawner.record.reading import read_report as read_report_of
from tfspawner.record.slowest import (
    Took,
    pace,
    seconds_words,
    slowest_in_training,
    slowest_to_start,
    starts,
    took,
    trained,
    used,
)
from tfspawner.record.writing import write_whole

LARGEST, CLOSEST = 1e300, 1e-300  # what is larger has no place in a chart, nor what is closer together one of its own
LOG_BYTES = 64 << 20  # of a longer log, its last bytes are read
LONGEST_DRAWN = 16384  # characters of a line of Keras's
MOST_METRICS, MOST_EPOCHS = 100, 100_000  # that are kept of a log
MOST_ROWS, MOST_BARS = 48, 2000  # replicas in the timeline, and bars of each
MOST_CURVES = 8  # that have a colour in a chart
MOST_FAINT = 64  # replicas behind these
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

Curve = dict[float, float]  # epoch, or seconds -> value


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a chart: its name, SVG path with a gap where a value is no number, and last value."""

    label: str
    path: str
    last: str
    colour: int
    dashed: bool
    faint: bool  # it stands behind the others, and in no key


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """One point of a chart: its SVG place, and what it is."""

    x: float
    y: float
    told: str
    is_best: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Curves over epochs or seconds, or dots over a flag's values; ticks are (SVG place, text)."""

    title: str
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    dots: list[Dot] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A stretch of time in one state, in per cent of the run's."""

    state: str
    left: float
    width: float
    told: str


def no_note(text: str) -> None:
    """For whoever does not want to hear what of a record is left out."""


def write_page(folder: Path, note: Note = no_note) -> Path:
    """Writes report.html into a run's folder. Raises NotFoundError where no run is recorded there, ConfigurationError for a damaged record."""
    return write_html(folder / "report.html", page(folder, note))


def write_html(path: Path, text: str) -> Path:
    """Writes a page, whole or not at all."""
    write_whole(path, text)
    return path


def page(folder: Path, note: Note = no_note) -> str:
    """The page of the run recorded in folder; it needs no network and no other file but for its links to logs."""
    report, spec = read_report(folder), read_spec(folder)
    events = read_events(folder, note)
    rows = timeline(events)
    logs = {replica: read_log(path) for replica, path in log_files(folder).items()}
    paces = {replica: found for replica, log in logs.items() if (found := pace(log.took))}
    slowest = [told for told in (slowest_to_start(events), slowest_in_training(paces, trained(events))) if told]
    files = [(replica, file) for replica, found in report.get("files", {}).items() for file in found]
    return html_environment().get_template("report.html").render(
        report=report, cause=report.get("cause") or {}, command=command_of(spec), spec=spec,
        began=time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(events[0]["time"])) if events else "",
        took=age(report["seconds"]), rows=rows, length=age(length_s(events)),
        charts=charts({replica: log.curves for replica, log in logs.items()}), slowest=slowest,
        measured=measured(events, paces), usage=usage_charts(events), files=[(replica, f["path"], human_bytes(f["size"]), f["sha256"]) for replica, f in files],
        total=human_bytes(sum(f["size"] for _, f in files)), restarts=[{**restart, "at": age(restart["time"] - events[0]["time"]) if events and "time" in restart else ""} for restart in report.get("restarts", [])],
        logs=logs, states=sorted({bar.state for _, bars in rows for bar in bars}),
    )  # fmt: skip


def measured(events: list[dict[str, Any]], paces: Mapping[str, Took]) -> dict[str, dict[str, str]]:
    """{column: {replica: words}} of what was measured of the replicas; a column that has nothing is left out."""
    began, uses = starts(events), used(events)
    first = min((start.at for start in began.values()), default=0.0)
    columns = {
        "came": {replica: f"+{start.at - first:.1f} s" for replica, start in began.items()},
        "per epoch": {replica: seconds_words(told.seconds) for replica, told in paces.items()},
        "processors": {replica: f"{cpu:.2g}" for replica, (cpu, _) in uses.items()},
        "most memory": {replica: human_bytes(memory) for replica, (_, memory) in uses.items()},
    }
    return {name: column for name, column in columns.items() if column}


def runs_of(folder: Path) -> list[Path]:
    """The run recorded in a folder, or the runs of the sweep recorded there that have ended."""
    swept = read_sweep(folder)
    if swept is None:
        return [folder]
    runs = [folder.parent / point["job"] for point in swept["points"]]
    return [run for run in runs if (run / "report.json").exists()]


def compared(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """For each run its job, result, seconds, replicas, arguments and last metrics, as the first replica printed them."""
    return [compared_run(folder, curves_of(folder)) for folder in folders]


def compared_run(folder: Path, curves: Mapping[str, Curve]) -> dict[str, Any]:
    report, spec = read_report(folder), read_spec(folder)
    return {
        "run": str(folder), "result": report["result"], "seconds": report["seconds"], "replicas": len(report["replicas"]),
        "on": spec.get("on"), "args": spec.get("args", []), "restarts": len(report.get("restarts", [])),
        "epochs": max((max(curve) for curve in curves.values()), default=None),
        "metrics": {name: curve[max(curve)] for name, curve in curves.items()},
    }  # fmt: skip


def curves_of(run: Path) -> dict[str, Curve]:
    """What the first replica of a run learned."""
    report = read_report_of(run)
    log = log_file(run, report["replicas"][0]["replica"]) if report and report["replicas"] else None
    return learned(log) if log else {}


def run_folder(named: str, out: Path) -> Path:
    """The folder of a run that is named by its path or its job. Raises ConfigurationError for neither."""
    found = next((path for path in (Path(named), out / named) if path.is_dir()), None)
    if found is None:
        raise ConfigurationError(
            f"there is no run {named!r}, neither here nor in {out}", hint="give its folder, or --out"
        )
    return found


def read_report(folder: Path) -> dict[str, Any]:
    """report.json of a run's folder. Raises NotFoundError where there is none, ConfigurationError where it is damaged."""
    report = read_report_of(folder)
    if report is None:
        raise NotFoundError(
            f"there is no record of an ended run in {folder}", hint=f"bring it here: tf-spawner fetch {folder.name}"
        )
    return report


def command_of(spec: Mapping[str, Any]) -> str:
    """The command that launches the same again, without the values of --env."""
    return shlex.join(["tf-spawner", "run", *words_of(spec)]) if spec else ""


# ---- what Keras printed -------------------------------------------------------------------------


class Learning:
    """{metric: {epoch: value}} as Keras prints them at the end of each epoch; of an epoch run twice, the later ones."""

    def __init__(self) -> None:
        self.curves: dict[str, Curve] = {}
        self.took: dict[int, Took] = {}  # by epoch
        self.epoch, self.step = 0, 0

    def read(self, line: str) -> None:
        """Takes in a line, with all that was drawn over in it."""
        if "/" not in line:
            return
        for drawn in ANSI.sub("", line).split("\r"):
            told = parse_progress(drawn) if len(drawn) <= LONGEST_DRAWN else None
            if told:
                self._take(told, drawn)

    def _take(self, told: dict[str, Any], drawn: str) -> None:
        if "epoch" in told:
            self.epoch, self.step = told["epoch"], 0
        elif self.epoch and told["step"] >= self.step:
            self.step = told["step"]
            if told["steps"] in (self.step, None):
                for name, value in told["metrics"].items():
                    if name in self.curves or len(self.curves) < MOST_METRICS:
                        _put(self.curves.setdefault(name, {}), self.epoch, value)
                found = took(drawn, self.step)
                if found:
                    _put(self.took, self.epoch, found)
        else:
            self.epoch = 0  # it counts from the start again: that is an evaluation


def _put(by_epoch: dict[Any, Any], epoch: int, value: Any) -> None:
    if epoch in by_epoch or len(by_epoch) < MOST_EPOCHS:
        by_epoch[epoch] = value


def learned(log: Path) -> dict[str, Curve]:
    """The curves of a log."""
    return read_log(log).curves


def read_log(log: Path) -> Learning:
    """What Keras printed into a log."""
    found = Learning()
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_BYTES))
        for line in file:
            if b"/" in line:
                found.read(line.decode(errors="replace"))
    return found


def charts(metrics: Mapping[str, Mapping[str, Curve]], *, merged: bool = True) -> list[Chart]:
    """A chart for each metric, val_ dashed beside it; merged: one line where all replicas tell the same."""
    names = {name.removeprefix("val_"): None for curves in metrics.values() for name in curves}
    return [found for found in (chart(name, metrics, merged) for name in names) if found]


def chart(name: str, metrics: Mapping[str, Mapping[str, Curve]], merged: bool) -> Chart | None:
    """The chart of one metric and of its val_, or None where there are not two epochs of it."""
    curves: dict[str, Curve] = {}
    for kind in (name, f"val_{name}"):
        of = {replica: found[kind] for replica, found in metrics.items() if kind in found}
        if merged and len(of) > 1 and len({repr(sorted(curve.items())) for curve in of.values()}) == 1:
            of = {f"all {len(of)} replicas": next(iter(of.values()))}
        curves |= {f"{kind}, {replica}": curve for replica, curve in list(of.items())[: MOST_CURVES + MOST_FAINT]}
    return draw(name, curves, whole=True)


def usage_charts(events: list[dict[str, Any]]) -> list[Chart]:
    """Processors, memory and GPUs of the first replicas over the run's seconds."""
    curves: dict[str, dict[str, Curve]] = {"processors": {}, "memory": {}, "GPU use, %": {}, "GPU memory": {}}
    for event in events:
        if event["event"] != "usage":
            continue
        at, replica = event["time"] - events[0]["time"], event["replica"]
        gpus = event.get("gpus")
        for title, value in (
            ("processors", event["cpu"]), ("memory", event["memory"]),
            ("GPU use, %", sum(gpus) / len(gpus) if gpus else None), ("GPU memory", event.get("gpu_memory")),
        ):  # fmt: skip
            if value is not None and (replica in curves[title] or len(curves[title]) < MOST_CURVES + MOST_FAINT):
                curves[title].setdefault(replica, {})[at] = value
    ordered = {title: {name: of[name] for name in sorted(of, key=in_order)} for title, of in curves.items()}
    drawn = [draw(*in_units(title, of), from_zero=True) for title, of in ordered.items()]
    return [found for found in drawn if found]


def in_order(replica: str) -> tuple[str, int]:
    """By role, then by index as a number."""
    role, _, index = replica.rpartition("-")
    return role, int(index) if index.isascii() and index.isdigit() and len(index) < 10 else 0


def in_units(title: str, curves: Mapping[str, Curve]) -> tuple[str, Mapping[str, Curve]]:
    """The title with its unit, and the curves in it: what is bytes becomes MiB or GiB."""
    if "memory" not in title:
        return title, curves
    most = max((value for curve in curves.values() for value in curve.values()), default=0)
    unit, size = ("GiB", 1 << 30) if most >= 1 << 30 else ("MiB", 1 << 20)
    scaled = {name: {at: value / size for at, value in curve.items()} for name, curve in curves.items()}
    return f"{title}, {unit}", scaled


def draw(title: str, curves: Mapping[str, Curve], *, whole: bool = False, from_zero: bool = False) -> Chart | None:
    """The chart of named curves, or None where none has two points.

    A curve and its val_ have one colour. Those behind the first MOST_CURVES stand faint behind these.
    """
    values = {label: [value for value in curve.values() if has_place(value)] for label, curve in curves.items()}
    if max(map(len, values.values()), default=0) < 2:
        return None
    places = [place for curve in curves.values() for place in curve]
    first, last = min(places), max(places)
    y, y_ticks = heights([value for found in values.values() for value in found] + [0.0] * from_zero)
    colours: dict[str, int] = {}
    for label in curves:
        colours.setdefault(label.removeprefix("val_"), len(colours))

    def x(place: float) -> float:
        return LEFT + (place - first) / (last - first) * (WIDTH - LEFT - 8)

    def line(label: str, curve: Curve) -> Line:
        colour = colours[label.removeprefix("val_")]
        path = " ".join("M" + " ".join(f"{x(place):.1f},{y(value):.1f}" for place, value in part) + "h0"
                        for part in stretches(curve))  # fmt: skip
        return Line(label=label, path=path, last=last_of(curve), colour=colour, dashed=label.startswith("val_"),
                    faint=colour >= MOST_CURVES)  # fmt: skip

    return Chart(
        title=title, lines=[line(label, curve) for label, curve in curves.items()], y_ticks=y_ticks,
        x_ticks=[(x(place), f"{place:g}") for place in ticks(first, last, whole=whole)],
    )  # fmt: skip


def has_place(value: float) -> bool:
    """Whether a chart can show it: a number that is not too large to reckon with."""
    return abs(value) <= LARGEST


def stretches(curve: Curve) -> list[list[tuple[float, float]]]:
    """The points in order, parted where a value is no number."""
    parts: list[list[tuple[float, float]]] = [[]]
    for point in sorted(curve.items()):
        if has_place(point[1]):
            parts[-1].append(point)
        elif parts[-1]:
            parts.append([])
    return [part for part in parts if part]


def last_of(curve: Curve) -> str:
    """The last value; of one that is no number any more, since when."""
    value = curve[max(curve)]
    if math.isfinite(value):
        return f"{value:.4g}"
    before = max((place for place in curve if math.isfinite(curve[place])), default=-math.inf)
    return f"{value:g} from {min(place for place in curve if place > before):g} on"


def heights(values: list[float]) -> tuple[Callable[[float], float], list[tuple[float, str]]]:
    """From a value to its height in a chart that shows them all; and the ticks there."""
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


# ---- when what happened -------------------------------------------------------------------------


def length_s(events: list[dict[str, Any]]) -> float:
    return events[-1]["time"] - events[0]["time"] if events else 0.0


def timeline(events: list[dict[str, Any]]) -> list[tuple[str, list[Bar]]]:
    """(replica, its bars), first the gang's phases."""
    if not length_s(events):
        return []
    rows: dict[str, list[tuple[float, str]]] = {GANG: []}
    told = set()
    for event in events:
        if event["event"] == "phase":
            rows[GANG].append((event["time"], event["phase"]))
        elif event["event"] == "replica":
            told.add(event["replica"])
            rows.setdefault(event["replica"], []).append((event["time"], event["state"]))
        elif event["event"] == "pod" and event["replica"] not in told:  # its agent tells better what it does
            state = "starting" if event["state"] == "running" else event["state"]
            rows.setdefault(event["replica"], []).append((event["time"], state))
    shown = list(rows.items())[: MOST_ROWS + 1]
    began, ended = events[0]["time"], events[-1]["time"]
    return [(name, list(bars(changes[:MOST_BARS], began, ended))) for name, changes in shown if changes]


def bars(changes: Iterable[tuple[float, str]], began: float, ended: float) -> Iterator[Bar]:
    """The stretches between the changes of a state, the last one to the end."""
    whole = ended - began
    for (since, state), (until, _) in pairwise([*changes, (ended, "")]):
        yield Bar(
            state=state if state in COLOURED else "",
            left=100 * (since - began) / whole, width=100 * (until - since) / whole,
            told=f"{state}: {age(until - since)}, from {since - began:.1f} s",
        )  # fmt: skip
