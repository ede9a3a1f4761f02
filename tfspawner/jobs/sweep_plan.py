"""Plans a sweep: its points, checked, and what a former launcher has already done of them."""

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

STORED = ("job", "values", "id", "result", "error", "seconds", "metrics")  # a point's fields in sweep.json


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A checked sweep: the plan that every point is copied from, and what a former launcher has already done."""

    name: str
    id: str
    folder: Path
    points: list[Point]  # the grid's points, and after them former ones that are not in the grid any more
    specs: list[JobSpec]  # of the grid's points
    plan: Plan
    record: dict[str, Any]  # sweep.json without the points
    is_other: bool  # it differs from the sweep that was begun under this name, which has no finished point


def prepare(sweep: Sweep) -> Planned:
    """Checks and plans a sweep before anything is created. Raises ConfigurationError, ClusterError."""
    spec = sweep.spec
    name = new_name(spec)
    folder = spec.out / name
    former = read_sweep(folder) or {}
    if former and former["sweep"] != name:
        raise ConfigurationError(
            f"{named(folder)} holds the record of sweep {former['sweep']}, "
            "and a copy would take over that sweep's jobs",
            hint="give another --name",
        )
    points, count = points_of(sweep, name, former.get("points", []))
    specs = [sweep.job(name, point.job, point.values) for point in points[:count]]
    job_name(max(specs, key=lambda point_spec: len(point_spec.name or "")))  # raises if a name is too long
    _, plan = prepare_job(_widest(specs, name), at_once=min(sweep.parallel, count))
    _refuse_secrets(sweep, plan)
    recorded_spec = {
        **json.loads(json.dumps(described(plan), default=str)),
        "args": list(map(plan.known.mask, spec.args)),
        "tag": spec.tag,
    }
    record: dict[str, Any] = {
        "sweep": name,
        "id": former.get("id") or secrets.token_hex(8),
        "grid": sweep.grid,
        "parallel": sweep.parallel,
        "spec": recorded_spec,
        "files": {plan.known.mask(file): digest for file, digest in _files(sweep).items()},
    }
    changed = differences(former, record) if former else []
    if changed and any(is_done(spec.out, point) for point in points):
        rest = f", and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise ConfigurationError(
            f"sweep {name} was begun with other settings, and its results would be mixed: "
            f"{'; '.join(changed[:3])}{rest}",
            hint="give another --name; a file that is not code belongs in .tfspawnerignore",
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


def points_of(sweep: Sweep, name: str, former: Sequence[Mapping[str, Any]]) -> tuple[list[Point], int]:
    """(the grid's points and after them other launched ones, how many are the grid's).

    A point is recognised by its values and keeps its job; if the grid has changed, new points get the next numbers.
    """
    known = {_key(entry["values"]): entry for entry in former if entry.get("id")}
    last = max((int(entry["job"].rpartition("-")[2]) for entry in known.values()), default=0)
    points = []
    for values in sweep.points:
        entry = known.pop(_key(values), None)
        if entry:
            points.append(_restored(entry))
            continue
        last += 1
        points.append(Point(job=f"{name}-{last}", values=values))
    return [*points, *map(_restored, known.values())], len(points)


def _refuse_secrets(sweep: Sweep, plan: Plan) -> None:
    """Raises ConfigurationError for a secret in the grid: records and the sweep's page show the grid."""
    for flag, values in sweep.grid.items():
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


def _restored(entry: Mapping[str, Any]) -> Point:
    return Point(**{name: entry[name] for name in STORED})


def report_of(out: Path, point: Point) -> dict[str, Any]:
    """The report of the job that was last launched for the point; empty if there is none."""
    if not point.id or read_id(out / point.job) != point.id:
        return {}
    return read_report(out / point.job) or {}


def is_done(out: Path, point: Point) -> bool:
    """Whether the point has succeeded and all its files are here."""
    report = report_of(out, point)
    return report.get("result") == "succeeded" and not report.get("missing")


def _widest(specs: list[JobSpec], name: str) -> JobSpec:
    """A spec, under the sweep's name, that needs all that any point needs: s3:// in arguments needs more files."""
    return replace(next((spec for spec in specs if any("s3://" in arg for arg in spec.args)), specs[0]), name=name)


def _files(sweep: Sweep) -> dict[str, str]:
    """{name: SHA-256} of each file that is sent, without job.yaml, because its grid may change."""
    spec = sweep.spec
    by_file = digests(spec.folder, out=spec.out, env_files=spec.env_files)
    if sweep.file and sweep.file.resolve().is_relative_to(spec.folder):
        by_file.pop(str(sweep.file.resolve().relative_to(spec.folder)), None)
    if spec.command_file:
        by_file["--command"] = sha256(spec.command_file.read_bytes()).hexdigest()
    return by_file
