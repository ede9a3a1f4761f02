"""What an earlier fetch brought, and whether it is still here."""

from __future__ import annotations

from contextlib import suppress

from tfspawner.base.cause import Cause
from tfspawner.base.shapes import DamagedFile
from tfspawner.base.states import Result
from tfspawner.errors import ArtifactError
from tfspawner.record.reading import read_events, read_report
from tfspawner.record.writing import Record

from .collect import Collected
from .landing import Landing
from .outcome import Outcome


def came_earlier(record: Record, silent: list[str]) -> tuple[list[Collected], set[str]]:
    """The files of silent replicas that the last report lists and that are still here; and which replicas had ended."""
    try:
        report = (read_report(record.folder) if silent else None) or {}
    except DamagedFile:
        return [], set()
    files_here, whole = [], set()
    for replica, files in report.get("files", {}).items():
        landing = Landing(record.files, replica)
        with suppress(OSError, ArtifactError):
            here = [file for file in files if landing.holds(file)] if replica in silent else []
            if here:
                files_here.append(Collected(replica=replica, files=here, skipped=[], refused=[]))
            if replica in silent and len(here) == len(files) and replica in report.get("whole", []):
                whole.add(replica)
    return files_here, whole


def came_before(record: Record) -> Outcome | None:
    """The outcome of a job whose launcher was killed while it removed the job, after all had come; else None."""
    try:
        events = [event["event"] for event in read_events(record.folder)]
    except DamagedFile:
        return None
    return all_here(record) if "removing" in events and "deleted" not in events else None


def all_here(record: Record) -> Outcome | None:
    """The outcome that an earlier fetch recorded, if the job had ended and all its files are still here; else None."""
    try:
        report = read_report(record.folder)
        if report is None or report.get("missing") or report.get("result") not in tuple(Result):
            return None
        files = report.get("files", {}).items()
        collected = [Collected(replica=r, files=of, skipped=[], refused=[]) for r, of in files]
        for replica in collected:
            landing = Landing(record.files, replica.replica)
            if not all(landing.holds(file) for file in replica.files):
                return None
        cause = Cause.of(report["cause"]) if report.get("cause") is not None else None
        return Outcome(
            job=report["job"],
            result=report["result"],
            folder=record.folder,
            cause=cause,
            collected=collected,
            seconds=report["seconds"],
            artifacts=report.get("artifacts"),
        )
    except (OSError, ArtifactError, DamagedFile):
        return None
