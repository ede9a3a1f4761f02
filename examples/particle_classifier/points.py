"""The points of a parameter search on disk: a line of JSON for each that is finished, so that a search can go on."""

from __future__ import annotations

import csv
import io
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from console import write
from fits import Sample, Score

from tfspawner.errors import ConfigurationError

PARAMETERS = ("batch", "epochs", "nh1", "nh2", "nh3")
LINES = "points.jsonl"
SETTINGS = "settings.json"

Line = dict[str, Any]
Point = tuple[int, ...]  # the values of PARAMETERS


def settings_of(sample: Sample) -> dict[str, Any]:
    """What two searches must have in common for their points to be compared."""
    crc = zlib.crc32(np.ascontiguousarray(sample.labels), zlib.crc32(np.ascontiguousarray(sample.features)))
    return {"events": len(sample.labels), "folds": len(sample.held), "seed": sample.seed, "data_crc32": f"{crc:08x}"}


def line_of(score: Score) -> Line:
    point = dict(zip(PARAMETERS, (score.batch, score.epochs, *score.hidden), strict=True))
    accuracy = {"accuracy": float(np.mean(score.accuracies)), "spread": float(np.std(score.accuracies))}
    rest = {"loss": float(np.mean(score.losses)), "seconds": score.seconds, "folds": score.accuracies}
    return {**point, **accuracy, **rest}


def point_of(line: Line) -> Point:
    return tuple(line[name] for name in PARAMETERS)


class Record:
    """A search's folder: its settings, and its finished points."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        """Raises ConfigurationError where the folder holds points of other settings."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.path, self.settings = folder, folder / LINES, settings
        same_settings(folder, settings)
        write(folder / SETTINGS, json.dumps(settings) + "\n")
        self.lines = list(read_lines(self.path))
        if self.path.exists():
            write(self.path, "".join(json.dumps(line) + "\n" for line in self.lines))  # without a torn last line
        self.done = {point_of(line): line for line in self.lines}

    def add(self, line: Line) -> None:
        """Appends the line in one write: another reader sees all of it or none."""
        if point_of(line) in self.done:
            return
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, (json.dumps(line) + "\n").encode())
        finally:
            os.close(file)
        self.lines.append(line)
        self.done[point_of(line)] = line

    def ranked(self) -> list[Line]:
        """The best accuracy first; of equal ones the smaller loss."""
        return sorted(self.lines, key=lambda line: (-line["accuracy"], line["loss"]))


def same_settings(folder: Path, settings: dict[str, Any]) -> None:
    path = folder / SETTINGS
    there = json.loads(path.read_text()) if path.exists() else settings
    differing = [f"{key} {there.get(key)}, not {value}" for key, value in settings.items() if there.get(key) != value]
    if differing:
        raise ConfigurationError(
            f"{folder} holds points of another search: {', '.join(differing)}", hint="give another folder with --output"
        )


def read_lines(path: Path) -> Iterator[Line]:
    """The whole lines of a file of points; none where it is not there."""
    if path.exists():
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                yield json.loads(line)


def merged(runs: Iterable[Path], record: Record) -> int:
    """Adds the points that workers left below these folders; how many files of them there were.

    Raises ConfigurationError where a folder has none, or those of other settings.
    """
    files = 0
    for run in runs:
        found = sorted(run.rglob(LINES))
        if not found:
            raise ConfigurationError(
                f"--merge {run}: there is no {LINES}", hint="give the folder runs/JOB of the search"
            )
        for path in found:
            same_settings(path.parent, record.settings)
            for line in read_lines(path):
                record.add(line)
        files += len(found)
    return files


def as_csv(lines: list[Line]) -> str:
    columns = (*PARAMETERS, "accuracy", "spread", "loss", "seconds")
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()
