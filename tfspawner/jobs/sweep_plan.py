"""What a sweep has to do: its points, checked, and what a former launcher did of them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from tfspawner.base.userfile import named
from tfspawner.errors import ConfigurationError
from tfspawner.follow.sweep import Point
from tfspawner.plan.grid import Sweep, differences
from tfspawner.plan.plan import Plan, job_name
from tfspawner.plan.spec import JobSpec
from tfspawner.record.reading import read_id, read_report, read_sweep

from .packing import digests
from .prepare import new_name
from .prepare import prepare as prepare_job
from .running import described

STORED = ("job", "values", "id", "result", "error", "seconds", "metrics")  # of a point, in sweep.json


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A sweep, checked: the plan that those of all points are made like, and what a former launcher did of it."""

    name: str
    id: str
    folder: Path
    points: list[Point]  # the grid's; behind them, former ones that are no part of it any more
    specs: list[JobSpec]  # of the grid's points
    plan: Plan
    record: dict[str, Any]  # of sweep.json, all but the points
    is_other: bool  # than what was begun, of which nothing is done


def prepare(asked: Sweep) -> Planned:
    """All that can be known and refused before anything is created. Raises ConfigurationError, ClusterError."""
    spec = asked.spec
    name = new_name(spec)
    folder = spec.out / name
    former = read_sweep(folder) or {}
    if former and former["sweep"] != name:
        raise ConfigurationError(
            f"{named(folder)} holds the record of sweep {former['sweep']}, and a copy would take over that sweep's jobs",
            hint="give another --name",
        )
    points, count = points_of(asked, name, former.get("points", []))
    specs = [asked.job(name, point.job, point.values) for point in points[:count]]
    job_name(max(specs, key=lambda one: len(one.name or "")))  # which refuses a name that is too long
    _, plan = prepare_job(_widest(specs, name), at_once=min(asked.parallel, count))
    _refuse_secrets(asked, plan)
    recorded_spec = {
        **json.loads(json.dumps(described(plan), default=str)),
        "args": list(map(plan.known.mask, spec.args)),
        "tag": spec.tag,
    }
    record: dict[str, Any] = {
        "sweep": name,
        "id": former.get("id") or secrets.token_hex(8),
        "grid": asked.grid,
        "parallel": asked.parallel,
        "spec": recorded_spec,
        "files": {plan.known.mask(file): digest for file, digest in _files(asked).items()},
    }
    changed = differences(former, record) if former else []
    if changed and any(is_done(spec.out, point) for point in points):
        more = f", and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise ConfigurationError(
            f"sweep {name} was begun otherwise, and its results would be mixed: {'; '.join(changed[:3])}{more}",
            hint="give another --name; a file that is no code belongs into .tfspawnerignore",
        )
    return Planned(
        name=name,
        id=record["id"],
        folder=folder,
        points=points,
        specs=specs,
        plan=plan,
        record=record,
        is_other=bool(changed),
    )


def points_of(asked: Sweep, name: str, former: Sequence[Mapping[str, Any]]) -> tuple[list[Point], int]:
    """The grid's points, each with the job that it had before, and their count; behind them, what else was launched.

    A point is known by its values: a grid that has changed gives new ones the next numbers.
    """
    known = {_key(found["values"]): found for found in former if found.get("id")}
    last = max((int(found["job"].rpartition("-")[2]) for found in known.values()), default=0)
    points = []
    for values in asked.points:
        found = known.pop(_key(values), None)
        if found:
            points.append(_restored(found))
            continue
        last += 1
        points.append(Point(job=f"{name}-{last}", values=values))
    return [*points, *map(_restored, known.values())], len(points)


def _refuse_secrets(asked: Sweep, plan: Plan) -> None:
    """A grid's values stand in each record and on the sweep's page."""
    for flag, values in asked.grid.items():
        if hit := plan.known.find(flag.encode(errors="surrogateescape")):
            raise ConfigurationError(
                f"--grid: a flag's name holds the value of the variable {hit[0]}, which is taken for a secret",
                hint="a grid's flags stand in records, and on the sweep's page: name the flag otherwise",
            )
        if hit := plan.known.find("\n".join(values).encode(errors="surrogateescape")):
            raise ConfigurationError(
                f"--grid {flag}: a value holds that of the variable {hit[0]}, which is taken for a secret",
                hint=f"leave {hit[0]} out of --env and --env-file: each point is given --{flag}",
            )


def _key(values: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset(values.items())


def _restored(found: Mapping[str, Any]) -> Point:
    return Point(**{name: found[name] for name in STORED})


def report_of(out: Path, point: Point) -> dict[str, Any]:
    """The report of the job that was launched for the point last; empty where there is none."""
    if not point.id or read_id(out / point.job) != point.id:
        return {}
    return read_report(out / point.job) or {}


def is_done(out: Path, point: Point) -> bool:
    """Whether the point has succeeded, and all its files are here."""
    report = report_of(out, point)
    return report.get("result") == "succeeded" and not report.get("missing")


def _widest(specs: list[JobSpec], name: str) -> JobSpec:
    """A job of the sweep's name that needs whatever a point needs: s3:// in the arguments brings more along."""
    return replace(next((one for one in specs if any("s3://" in arg for arg in one.args)), specs[0]), name=name)


def _files(asked: Sweep) -> dict[str, str]:
    """The SHA-256 of each file that travels, without the job.yaml, whose grid may change."""
    spec = asked.spec
    found = digests(spec.folder, out=spec.out, env_files=spec.env_files)
    if asked.file and asked.file.resolve().is_relative_to(spec.folder):
        found.pop(str(asked.file.resolve().relative_to(spec.folder)), None)
    if spec.command_file:
        found["--command"] = sha256(spec.command_file.read_bytes()).hexdigest()
    return found
