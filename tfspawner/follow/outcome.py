"""How a job ended: its outcome, and the errors that it raises."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tfspawner.base.cause import Cause
from tfspawner.base.states import Result
from tfspawner.errors import ArtifactError, ClusterError, JobFailed, SpawnerError, TimedOut
from tfspawner.record.causes import explained
from tfspawner.record.folder import RunFolder
from tfspawner.record.writing import Record

from .collect import Collected
from .state import JobState

LAST_LINES = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a job ended and what came back."""

    job: str
    result: str  # succeeded, failed, timeout, interrupted
    folder: Path
    cause: Cause | None
    collected: list[Collected] = field(default_factory=list)
    seconds: float = 0.0
    artifacts: str | None = None  # the URI of the folder that --artifacts filled
    earlier: frozenset[str] = frozenset()  # replicas that do not answer now, and whose files an earlier fetch brought
    whole: frozenset[str] = frozenset()  # those whose files are here as they were when the replica had ended

    def file(self, name: str) -> Path:
        """The path of a collected file, from the first replica that has it. Raises ArtifactError."""
        for replica in self.collected:
            if any(file["path"] == name for file in replica.files):
                return RunFolder(self.folder).files / replica.replica / name
        raise ArtifactError(
            f"no replica of job {self.job} left a file {name!r}", hint=f"see {RunFolder(self.folder).files}"
        )


def raise_for(state: JobState, record: Record | None) -> None:
    """Raises JobFailed or TimedOut for a job that ended so."""
    if state.result == Result.SUCCEEDED:
        return
    cause = explained(state.cause or Cause())
    replica, message = cause.replica, cause.message or "failed"
    kept = record.last_lines(replica, LAST_LINES) if record and replica and not state.replicas[replica].unkept else []
    lines = cause.stands or kept or cause.tail
    text = f"{replica} {message}" if replica else message
    error: SpawnerError
    if state.result == Result.TIMEOUT:
        longer = "raise --start-timeout" if "did not start" in message else "raise --timeout"
        error = TimedOut(text, hint=cause.hint or longer)
    elif cause.never_ran:
        error = ClusterError(text, hint=cause.hint)
    else:
        error = JobFailed(text, hint=cause.hint or _restart_hint(cause))
        error.about = f"{replica} stood at, innermost first:" if cause.stands else f"{replica}'s last lines:"
        error.lines = [f"{replica} | {line}" for line in lines[:LAST_LINES]]
    raise error


def _restart_hint(cause: Cause) -> str | None:
    """The next step if the script itself is not at fault and restarts, if any, are used up."""
    again = "--restarts 1 starts all again from the last checkpoint"
    if cause.kind == "stalled":
        return f"where each replica stood is at the end of its log; {again}"
    return again if cause.kind == "lost" else None


def raise_for_artifacts(state: JobState, where: str) -> None:
    """Raises ArtifactError if a replica's files did not reach the bucket that --artifacts names."""
    for line in state.replicas.values():
        failure = line.stored["failure"] if line.stored else "its agent was lost meanwhile" if line.storing else None
        if failure:
            uri = line.stored["uri"] if line.stored else line.storing
            raise ArtifactError(f"{line.replica} could not put all into {uri}: {failure}", hint=where)
