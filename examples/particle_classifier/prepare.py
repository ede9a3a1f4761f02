"""Makes the training and the test set of selected events: undersampled, split, scaled, sorted, shuffled.

    python prepare.py selected --output prepared
    python prepare.py s3://bucket/selected --output s3://bucket/prepared --engine spark --master 'local[4]'

Writes hlf/, inclusive/ and small/ with the folders train/ and test/ of TFRecord files: the published layout, and the
inclusive one again in tf-spawner's small encoding. All have the same events in the same order. What falls into which
set, and in which order, hangs on the event and the seed alone: not on files, processes or the engine.
"""

from __future__ import annotations

import argparse
import json
import os
import posixpath
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import engines
import numpy as np
import pyarrow as pa
from console import errors_told
from ingest import STAGES
from physics import CLASSES, HIGH_LEVEL, ROWS, WIDTH
from places import empty, found, is_local, written
from scaling import TRAIN_SHARE, Ranges, below, chance, part_of
from selected import facts_of, read_selected
from shards import FORMS, write_shards

from tfspawner.data.files import File
from tfspawner.data.filesystems import local_path
from tfspawner.errors import ConfigurationError, DataError

PART_EVENTS = 2048
SCHEMA = pa.schema([
    ("part", pa.int32()), ("order", pa.int64()), ("label", pa.int64()), ("features", pa.binary()), ("particles", pa.binary()),
])  # fmt: skip


@dataclass(frozen=True, slots=True)
class Survey:
    """What one file, or all, hold: events by class, and their features' ranges."""

    counts: np.ndarray
    ranges: Ranges
    stages: np.ndarray  # (classes, STAGES), of ingest.py; 0 where the files do not tell


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is decided before any event is written."""

    seed: int
    shares: tuple[float, ...]  # of each class, kept
    train_parts: int
    class_parts: int  # of each class's test events

    def kept(self, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Whether undersampling keeps each event."""
        return below(chance(features, self.seed, "undersample"), np.array(self.shares)[labels])

    def in_train(self, features: np.ndarray) -> np.ndarray:
        return below(chance(features, self.seed, "split"), TRAIN_SHARE)

    def parts(self, train: np.ndarray, labels: np.ndarray, order: np.ndarray) -> np.ndarray:
        """The part of each event: training parts mix the classes, those of test have one each, in the labels' order."""
        of_class = self.train_parts + labels * self.class_parts + part_of(order, self.class_parts)
        return np.where(train, part_of(order, self.train_parts), of_class)

    def name(self, part: int) -> tuple[str, int]:
        """("train" or "test", the number of the file)."""
        return ("train", part) if part < self.train_parts else ("test", part - self.train_parts)


def survey(file: File) -> Survey:
    counts, ranges = np.zeros(len(CLASSES), np.int64), Ranges.none()
    for batch in read_selected(file, particles=False, at_once=1 << 14):
        counts += np.bincount(batch.labels, minlength=len(CLASSES))
        ranges = ranges.widened(batch.features.min(axis=0), batch.features.max(axis=0))
    told = json.loads(facts_of(file).get("counts", "{}"))
    stages = np.outer(counts > 0, [told.get(stage, 0) for stage in STAGES])
    if not counts.any() and told:  # nothing was selected: the class is known by the file's own account
        stages[json.loads(facts_of(file)["origin"])["label"]] = [told[stage] for stage in STAGES]
    return Survey(counts, ranges, stages)


def training_ranges(plan: Plan, file: File) -> Ranges:
    """The ranges of the events that will be trained on."""
    ranges = Ranges.none()
    for batch in read_selected(file, particles=False, at_once=1 << 14):
        of = batch.features[plan.kept(batch.features, batch.labels) & plan.in_train(batch.features)]
        if len(of):
            ranges = ranges.widened(of.min(axis=0), of.max(axis=0))
    return ranges


def total(surveys: Sequence[Survey]) -> Survey:
    ranges = Ranges.none()
    for one in surveys:
        ranges = ranges.widened(one.ranges.low, one.ranges.high)
    return Survey(sum(s.counts for s in surveys), ranges, sum(s.stages for s in surveys))


def plan_for(counts: np.ndarray, seed: int, part_events: int) -> Plan:
    """Every class as often as the rarest. Raises DataError where a class has no events."""
    for name, count in zip(CLASSES, counts, strict=True):
        if not count:
            raise DataError(f"there are no events of the class {name}", hint="python ingest.py adds files of it")
    least = int(counts.min())
    train = -(-int(len(CLASSES) * least * TRAIN_SHARE) // part_events)
    test = -(-int(least * (1 - TRAIN_SHARE)) // part_events)
    shares = tuple(least / int(count) for count in counts)
    return Plan(seed=seed, shares=shares, train_parts=max(1, train), class_parts=max(1, test))


def kept_rows(plan: Plan, file: File) -> Iterator[pa.RecordBatch]:
    """The file's events that are kept, each with its part and its place there."""
    for batch in read_selected(file):
        keep = plan.kept(batch.features, batch.labels)
        if not keep.any():
            continue
        features, labels = batch.features[keep], batch.labels[keep]
        order = chance(features, plan.seed, "shuffle")
        rows = np.split(batch.particles, np.cumsum(batch.counts)[:-1])
        yield pa.RecordBatch.from_arrays([
            pa.array(plan.parts(plan.in_train(features), labels, order), pa.int32()),
            pa.array(order), pa.array(labels),
            pa.array([row.tobytes() for row in features], pa.binary()),
            pa.array([rows[event].tobytes() for event in np.flatnonzero(keep)], pa.binary()),
        ], schema=SCHEMA)  # fmt: skip


def write_part(
    plan: Plan, ranges: Ranges, forms: Sequence[str], parquet: bool, output: str, part: int, rows: pa.Table
) -> tuple[str, list[int]]:
    """Writes one part's files; returns its set, and how many events of each class it has."""
    split, number = plan.name(part)
    labels = rows["label"].to_numpy()
    features = ranges.scaled(np.frombuffer(b"".join(rows["features"].to_pylist())).reshape(-1, len(HIGH_LEVEL)))
    write_shards(output, split, number, forms, parquet, features, labels, rows["particles"])
    return split, np.bincount(labels, minlength=len(CLASSES)).tolist()


def prepare(options: argparse.Namespace, engine: engines.Engine, output: str) -> dict[str, Any]:
    """Does it all; returns what prepared.json tells."""
    began = time.monotonic()
    files = found(options.sources, ".parquet")
    surveyed = total(engine.map(survey, files))
    plan = plan_for(surveyed.counts, options.seed, options.part_events)
    ranges = surveyed.ranges
    if options.fit == "train":
        ranges = Ranges.none()
        for one in engine.map(partial(training_ranges, plan), files):
            ranges = ranges.widened(one.low, one.high)
    look = time.monotonic()
    write = partial(write_part, plan, ranges, options.forms, options.parquet, output)
    parts = 3 * plan.class_parts + plan.train_parts
    done = engine.regroup(partial(kept_rows, plan), files, write, SCHEMA, parts)
    split = {name: np.sum([n for of, n in done if of == name], axis=0, dtype=int) for name in ("train", "test")}
    for name, counts in split.items():
        if not np.all(counts):
            raise DataError(f"the {name} set would lack a class: the rarest has {surveyed.counts.min()} events in all")
    told = dict(zip(STAGES, surveyed.stages.T, strict=True)) | {"selected": surveyed.counts}
    told |= {"undersampled": split["train"] + split["test"], **split}
    return {
        "counts": {stage: dict(zip(CLASSES, map(int, counts), strict=True)) for stage, counts in told.items()},
        "ranges": {n: [float(a), float(b)] for n, a, b in zip(HIGH_LEVEL, ranges.low, ranges.high, strict=True)},
        "ranges_of": options.fit, "seed": options.seed, "train_share": TRAIN_SHARE, "forms": options.forms,
        "parquet": options.parquet, "part_events": options.part_events, "shape": [ROWS, WIDTH], "classes": CLASSES,
        "seconds": {"survey": look - began, "write": time.monotonic() - look},
        "versions": {"python": sys.version.split()[0], "numpy": np.__version__, "pyarrow": pa.__version__},
    }  # fmt: skip


def parser() -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("sources", nargs="+", help="Parquet of ingest.py or CERN's: files, patterns or folders")
    words.add_argument("--output", required=True, help="the folder for the sets")
    words.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS), help="what to write (all)")
    words.add_argument("--parquet", action="store_true", help="write hlf and inclusive as Parquet, too, as published")
    words.add_argument(
        "--fit", choices=("all", "train"), default="all",
        help="features are scaled by the ranges of all selected events, as published, or of those to be trained on",
    )  # fmt: skip
    words.add_argument("--seed", type=int, default=42)
    words.add_argument("--part-events", type=int, default=PART_EVENTS, help="events of a file, about (%(default)s)")
    words.add_argument("--overwrite", action="store_true", help="replace the folder, if it is there")
    engines.add_options(words)
    return words


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Into a folder of another name, which gets its own when all is there; elsewhere prepared.json comes last."""
    output = options.output.rstrip("/")
    local = is_local(output)
    if options.part_events < 1:
        raise ConfigurationError(f"--part-events {options.part_events}: a file takes at least 1 event")
    if not (local and options.overwrite):
        empty(output)
    stage = f"{local_path(output)}.preparing" if local else output
    if local:
        shutil.rmtree(stage, ignore_errors=True)
    try:
        with engines.engine_of(options) as engine:
            told = prepare(options, engine, stage)
        with written(posixpath.join(stage, "prepared.json")) as path:
            path.write_text(json.dumps(told, indent=1) + "\n")
        if local:
            shutil.rmtree(local_path(output), ignore_errors=True)
            os.replace(stage, local_path(output))
    finally:
        if local:
            shutil.rmtree(stage, ignore_errors=True)
    return told


def report(told: dict[str, Any]) -> str:
    lines = [f"{'':14}" + "".join(f"{name:>12}" for name in CLASSES)]
    for stage, counts in told["counts"].items():
        lines.append(f"{stage:14}" + "".join(f"{counts[name]:12}" for name in CLASSES))
    return "\n".join([*lines, "seconds: " + ", ".join(f"{name} {s:.1f}" for name, s in told["seconds"].items())])


if __name__ == "__main__":
    with errors_told():
        print(report(run(parser().parse_args())))
