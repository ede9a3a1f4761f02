"""Selects events of Delphes' ROOT files and writes their features as Parquet, a file for each.

    python ingest.py sample/*.root --output selected
    python ingest.py s3://bucket/lepFilter_rawData --output selected --engine spark --master 'local[4]'

The class is told by the file's name or its folder's: qcd, ttbar, wlnu or wjets. A second call goes on where the first
ended: files that are there already, of the same source and made in the same way, are not made again.
"""

from __future__ import annotations

import argparse
import json
import posixpath
import time
from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import engines
from console import errors_told
from events import EVENTS_AT_ONCE, MUONS, TREE, read_events
from physics import CLASSES, CORRECTIONS, select
from places import fetched, found, is_local, written
from selected import Writer, facts_of

from tfspawner.data.files import File
from tfspawner.data.filesystems import filesystem_of
from tfspawner.errors import ConfigurationError, DataError

NAMES = {"qcd": 0, "ttbar": 1, "wlnu": 2, "wjets": 2}
STAGES = ("read", "with_lepton", "selected")
FORMAT = 1  # of what the features are: files of another one are made again


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingestion:
    """How events become features."""

    tree: str = TREE
    muons: str = MUONS
    correct: tuple[str, ...] = ()
    padded: bool = False


@dataclass(frozen=True, slots=True)
class Task:
    """One file's ingestion."""

    source: File
    label: int
    target: str


def label_of(uri: str) -> int | None:
    """The class that the file's name tells, or else the nearest of its folders."""
    for name in reversed(uri.lower().split("/")):
        labels = {label for word, label in NAMES.items() if word in name}
        if labels:
            return labels.pop() if len(labels) == 1 else None
    return None


def tasks_of(sources: list[str], output: str, label: int | None) -> list[Task]:
    """What is to be done. Raises ConfigurationError where a class is not told, or two files would become one."""
    tasks: dict[str, Task] = {}
    for file in found(sources, ".root"):
        of = label_of(file.uri) if label is None else label
        if of is None:
            raise ConfigurationError(
                f"{file.uri}: its name tells no class", hint="--label 0 (QCD), 1 (tt̄) or 2 (W+jets)"
            )
        stem = posixpath.splitext(posixpath.basename(file.uri))[0]
        name = stem if label_of(stem) == of else f"{CLASSES[of]}-{stem}"
        target = posixpath.join(output, f"{name}.parquet")
        if target in tasks:
            raise ConfigurationError(f"{tasks[target].source.uri} and {file.uri} would both become {target}")
        tasks[target] = Task(file, of, target)
    return list(tasks.values())


def ingest(how: Ingestion, overwrite: bool, task: Task) -> dict[str, Any]:
    """Writes one file's selected events; returns what was counted. Raises DataError for a file that is not as it should be."""
    began = time.monotonic()
    origin = json.dumps({"format": FORMAT, "source": asdict(task.source), "label": task.label, **asdict(how)})
    there = [] if overwrite else filesystem_of(task.target).list(task.target)
    if there:
        facts = facts_of(there[0])
        if facts.get("origin") != origin:
            raise DataError(
                f"{task.target} is there already, made of something else or in another way", hint="--overwrite"
            )
        return {**json.loads(facts["counts"]), "label": task.label, "target": task.target, "seconds": 0.0}
    counts = Counter(dict.fromkeys(STAGES, 0))
    with fetched(task.source) as path, written(task.target) as target:
        writer = Writer(target, task.label, padded=how.padded)
        for events in read_events(path, tree=how.tree, muons=how.muons, at_once=EVENTS_AT_ONCE):
            selected = select(events, frozenset(how.correct))
            counts.update(selected.stages)
            writer.write(selected)
        writer.close({"origin": origin, "counts": json.dumps(counts)})
    return {**counts, "label": task.label, "target": task.target, "seconds": time.monotonic() - began}


def report(done: list[dict[str, Any]]) -> str:
    """A table of what was counted of each class, and how fast."""
    lines = [f"{'class':8}{'files':>8}{'events':>12}{'lepton > 23':>14}{'selected':>12}{'share':>9}{'events/s':>10}"]
    for label, name in enumerate(CLASSES):
        of = [one for one in done if one["label"] == label]
        read, lepton, selected = (sum(one[stage] for one in of) for stage in STAGES)
        seconds = sum(one["seconds"] for one in of)
        share, rate = selected / max(1, read), f"{read / seconds:10.0f}" if seconds else f"{'-':>10}"
        lines.append(f"{name:8}{len(of):8}{read:12}{lepton:14}{selected:12}{share:9.4f}{rate}")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("sources", nargs="+", help="ROOT files, patterns or folders: paths, s3://… or root://…")
    words.add_argument("--output", required=True, help="the folder for the Parquet files")
    words.add_argument("--label", type=int, choices=range(3), help="the class of all files, where names do not tell it")
    words.add_argument("--tree", default=TREE, help="the tree's name (%(default)s)")
    words.add_argument("--muons", default=MUONS, help="the muons' branch (%(default)s); other cards have Muon")
    words.add_argument("--correct", nargs="+", default=[], choices=[*CORRECTIONS, "all"], help=corrections_help())
    words.add_argument("--padded", action="store_true", help="801 rows an event, as published, and larger files")
    words.add_argument("--overwrite", action="store_true", help="make files that are there already again")
    engines.add_options(words)
    return words


def corrections_help() -> str:
    said = "; ".join(f"{name}: {text}" for name, text in CORRECTIONS.items())
    return f"what to put right, unlike the published data: {said}"


def main() -> None:
    options = parser().parse_args()
    correct = tuple(CORRECTIONS) if "all" in options.correct else tuple(sorted(set(options.correct)))
    how = Ingestion(tree=options.tree, muons=options.muons, correct=correct, padded=options.padded)
    if is_local(options.output):
        Path(options.output).mkdir(parents=True, exist_ok=True)
    tasks = tasks_of(options.sources, options.output, options.label)
    with engines.engine_of(options) as engine:
        done = engine.map(partial(ingest, how, options.overwrite), tasks)
    print(report(done))
    if not any(one["selected"] for one in done):
        raise DataError(
            f"none of {sum(one['read'] for one in done)} events was selected",
            hint=f"is there a lepton above 23 GeV? {sum(one['with_lepton'] for one in done)} events have one",
        )


if __name__ == "__main__":
    with errors_told():
        main()
