"""A run's record as one HTML page: what ran where, how it learned, what failed, what came back. Reads only files."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfspawner.base.templating import html_environment
from tfspawner.base.words import age, human_bytes
from tfspawner.errors import Command, Hint, NotFoundError
from tfspawner.plan.words import words_of
from tfspawner.record.folder import RunFolder
from tfspawner.record.learning import Curve, learned, read_log
from tfspawner.record.reading import Note, log_file, log_files, read_events, read_spec, read_sweep
from tfspawner.record.reading import read_report as read_report_of
from tfspawner.record.slowest import (
    Took,
    pace,
    seconds_words,
    slowest_in_training,
    slowest_to_start,
    starts,
    trained,
    used,
)
from tfspawner.record.writing import write_whole

from .charts import charts, usage_charts
from .timeline import length_s, timeline


def no_note(text: str) -> None:
    """A Note that does nothing, for callers to whom damaged parts of a record do not matter."""


def write_page(folder: Path, note: Note = no_note) -> Path:
    """Writes report.html into a run's folder.

    Raises NotFoundError if no ended run is recorded there, ConfigurationError for a damaged record.
    """
    return write_html(RunFolder(folder).page, page(folder, note))


def write_html(path: Path, text: str) -> Path:
    """Writes a page, whole or not at all."""
    write_whole(path, text)
    return path


def page(folder: Path, note: Note = no_note) -> str:
    """The HTML page of the run recorded in folder. It needs no network and no other file, except for links to logs."""
    report, spec = read_report(folder), read_spec(folder)
    events = read_events(folder, note)
    rows = timeline(events)
    logs = {replica: read_log(path) for replica, path in log_files(folder).items()}
    paces = {replica: epoch for replica, log in logs.items() if (epoch := pace(log.took))}
    slowest = [
        sentence for sentence in (slowest_to_start(events), slowest_in_training(paces, trained(events))) if sentence
    ]
    files = [(replica, file) for replica, listed in report.get("files", {}).items() for file in listed]
    return (
        html_environment()
        .get_template("report.html")
        .render(
            report=report,
            cause=report.get("cause") or {},
            command=command_of(spec),
            spec=spec,
            began=time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(events[0]["time"])) if events else "",
            took=age(report["seconds"]),
            rows=rows,
            length=age(length_s(events)),
            charts=charts({replica: log.curves for replica, log in logs.items()}),
            slowest=slowest,
            measured=measured(events, paces),
            usage=usage_charts(events),
            files=[(replica, f["path"], human_bytes(f["size"]), f["sha256"]) for replica, f in files],
            total=human_bytes(sum(f["size"] for _, f in files)),
            restarts=[
                {**restart, "at": age(restart["time"] - events[0]["time"]) if events and "time" in restart else ""}
                for restart in report.get("restarts", [])
            ],
            logs=logs,
            states=sorted({bar.state for _, bars in rows for bar in bars}),
        )
    )


def measured(events: list[dict[str, Any]], paces: Mapping[str, Took]) -> dict[str, dict[str, str]]:
    """{column: {replica: words}} of the replicas' measurements, without empty columns."""
    began, uses = starts(events), used(events)
    first = min((start.at for start in began.values()), default=0.0)
    columns = {
        "came": {replica: f"+{start.at - first:.1f} s" for replica, start in began.items()},
        "per epoch": {replica: seconds_words(epoch.seconds) for replica, epoch in paces.items()},
        "processors": {replica: f"{cpu:.2g}" for replica, (cpu, _) in uses.items()},
        "most memory": {replica: human_bytes(memory) for replica, (_, memory) in uses.items()},
    }
    return {name: column for name, column in columns.items() if column}


def runs_of(folder: Path) -> list[Path]:
    """The run recorded in a folder; if a sweep is recorded there, its runs that have ended."""
    swept = read_sweep(folder)
    if swept is None:
        return [folder]
    runs = [folder.parent / point["job"] for point in swept["points"]]
    return [run for run in runs if RunFolder(run).report.exists()]


def compared(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """For each run its job, result, seconds, replicas, arguments and the last metrics of its first replica."""
    return [compared_run(folder, curves_of(folder)) for folder in folders]


def compared_run(folder: Path, curves: Mapping[str, Curve]) -> dict[str, Any]:
    """What `tf-spawner compare` shows of a run, with the last value of each curve."""
    report, spec = read_report(folder), read_spec(folder)
    return {
        "run": str(folder),
        "result": report["result"],
        "seconds": report["seconds"],
        "replicas": len(report["replicas"]),
        "on": spec.get("on"),
        "args": spec.get("args", []),
        "restarts": len(report.get("restarts", [])),
        "epochs": max((max(curve) for curve in curves.values()), default=None),
        "metrics": {name: curve[max(curve)] for name, curve in curves.items()},
    }


def curves_of(run: Path) -> dict[str, Curve]:
    """The curves of the run's first replica."""
    report = read_report_of(run)
    log = log_file(run, report["replicas"][0]["replica"]) if report and report["replicas"] else None
    return learned(log) if log else {}


def read_report(folder: Path) -> dict[str, Any]:
    """report.json of a run's folder. Raises NotFoundError if there is none, ConfigurationError if it is damaged."""
    report = read_report_of(folder)
    if report is None:
        raise NotFoundError(
            f"there is no record of an ended run in {folder}",
            hint=Hint("bring it here: ", Command("fetch", folder.name)),
        )
    return report


def command_of(spec: Mapping[str, Any]) -> str:
    """The command that launches the same job again, without the values of --env."""
    return shlex.join(["tf-spawner", "run", *words_of(spec)]) if spec else ""
