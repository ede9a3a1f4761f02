"""Brings a job's logs, files and report into its record."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict
from typing import Any

from tfspawner.backends.base import Backend
from tfspawner.base.names import shown
from tfspawner.base.states import Result
from tfspawner.errors import ArtifactError, Command, Hint
from tfspawner.record.causes import explained
from tfspawner.record.folder import REPORT_FILE
from tfspawner.record.writing import Record
from tfspawner.replica.protocol import STARTING

from .agents import busy, holders_of, reachable_agents, still_running
from .collect import Collected, collect
from .earlier import came_earlier
from .logs import complete_logs
from .outcome import Outcome
from .state import JobState, View, shortened

# How long scripts may take to end that nobody tells to: their agents stop them after 29 s without the coordinator.
SCRIPTS_END_S = 45.0


def bring_home(
    backend: Backend,
    state: JobState,
    record: Record,
    view: View,
    given_up: threading.Event | None = None,
    ends_by: float | None = None,
) -> tuple[Outcome, ArtifactError | None]:
    """Brings the rest of the logs and all files, and writes the report. Also returns why some of it could not come.

    What was lost with a replica of a job that failed cannot come, and only a warning says so; but a replica counts as
    lost only if the backend says that its process or pod has ended. When the job has ended, its scripts have until
    ends_by (monotonic) to end, so that what they write last comes, too. given_up ends the collecting.
    """
    errors: list[ArtifactError] = []
    agents = reachable_agents(backend, state)
    holders = holders_of(backend, state, agents)
    until = time.monotonic() + SCRIPTS_END_S if ends_by is None else ends_by
    writing, gone = busy(backend, holders, state, view, until, given_up)
    if gone:
        agents = {replica: agent for replica, agent in agents.items() if replica not in gone}
        holders = holders_of(backend, state, agents)
    without_log: list[str] = []
    broken: dict[str, str] = {}
    try:
        without_log, broken = complete_logs(backend, state, agents, record, view)
    except ArtifactError as error:
        errors.append(error)
    collected, unfinished = collect(list(holders.values()), record.files, _counting(view, given_up))
    errors += unfinished
    _warn_of_losses(state, view, collected, without_log)
    silent = [replica for replica in state.replicas if replica not in holders]
    earlier, were_whole = came_earlier(record, silent)
    errors += _without_log(backend, state, broken, view)
    errors += _without_answer(backend, state, [replica for replica in silent if replica not in were_whole], view)
    errors += dict.fromkeys(writing.values())  # replicas that do the same share one error
    whole = were_whole | {
        c.replica for c in collected if state.result and not c.refused and c.replica not in {*writing, *broken}
    }
    outcome = _outcome(state, record, collected, earlier, frozenset(whole))
    try:
        record.event("collected", files=sum(len(replica.files) for replica in outcome.collected))
        _write_report(outcome, state, record, view, errors[0] if errors else None)
    except ArtifactError as error:
        errors.append(error)
    for other in errors[1:]:
        view.note(f"warning: {other.message}")
    return outcome, errors[0] if errors else None


def _warn_of_losses(state: JobState, view: View, collected: list[Collected], without_log: list[str]) -> None:
    """Warns about output and files that were not kept or cannot be brought."""
    for replica in collected:
        if replica.skipped:
            names = ", ".join(map(shown, replica.skipped[:5]))
            view.note(f"warning: {replica.replica}: links and devices do not travel: {names}")
    for line in state.replicas.values():
        if line.unkept:
            size, why = line.unkept["bytes"], line.unkept["why"]
            view.note(f"warning: {size:,} bytes of {line.replica}'s output could not be kept there: {why}")
    if without_log and state.result == Result.SUCCEEDED:
        view.note(f"warning: no log of {', '.join(without_log[:5])} could be had")


def _without_log(backend: Backend, state: JobState, broken: dict[str, str], view: View) -> list[ArtifactError]:
    """An error for each incomplete log whose agent still has the rest; a warning if the rest is lost."""
    alive = still_running(backend, state.job, list(broken)) if broken else set()
    errors = []
    for replica, why in broken.items():
        if state.result == Result.SUCCEEDED or replica in alive:
            errors.append(ArtifactError(f"{replica}'s log could not be fetched whole: {why}"))
        else:
            view.note(f"warning: {replica}'s log is not whole: {why}")
    return errors


def _without_answer(backend: Backend, state: JobState, silent: list[str], view: View) -> list[ArtifactError]:
    """An error for silent agents whose files may still be there; a warning if they are lost."""
    if state.cause and state.cause.never_whole:
        return []  # no script has begun anywhere
    if not state.result and state.phase in STARTING and "running" not in state.times:
        return []  # none has begun yet
    alive = still_running(backend, state.job, silent) if silent else set()
    if state.result == Result.SUCCEEDED:
        waiting, lost = silent, []
    else:
        waiting, lost = [r for r in silent if r in alive], [r for r in silent if r not in alive]
    if lost and "running" in state.times:
        view.note(f"warning: {_files_of(lost)} are gone: no agent answers there")
    why, hint = "no agent answers there", None
    if alive:
        why = "its process or pod runs, and its agent does not answer"
        hint = Hint("once it answers: ", Command("fetch"))
    return [ArtifactError(f"{_files_of(waiting)} could not be collected: {why}", hint=hint)] if waiting else []


def _counting(view: View, given_up: threading.Event | None) -> Any:
    def received(size_bytes: int) -> None:
        if given_up and given_up.is_set():
            raise KeyboardInterrupt
        view.received(size_bytes)

    return received


def _files_of(replicas: list[str]) -> str:
    return f"the files of {shortened(replicas)}" if replicas else ""


def _outcome(
    state: JobState, record: Record, collected: list[Collected], earlier: list[Collected], whole: frozenset[str]
) -> Outcome:
    began = state.times.get("began") or state.times.get("forming")
    return Outcome(
        job=state.job,
        result=state.result or state.phase,
        folder=record.folder,
        cause=state.cause,
        collected=[*collected, *earlier],
        earlier=frozenset(replica.replica for replica in earlier),
        whole=whole,
        seconds=state.times.get("ended", time.time()) - began if began else 0.0,
        artifacts=next((line.stored["uri"] for line in state.replicas.values() if line.stored), None),
    )


def _write_report(outcome: Outcome, state: JobState, record: Record, view: View, missing: ArtifactError | None) -> None:
    """Writes report.json and the page. Raises ArtifactError if the report fails; the page can be made later."""
    record.write_json(
        REPORT_FILE,
        {
            "job": outcome.job,
            "result": outcome.result,
            "cause": state.cause and explained(state.cause).as_json(),
            "seconds": round(outcome.seconds, 3),
            "restarts": state.restarts,
            "times": state.times,
            "replicas": [asdict(line) for line in state.replicas.values()],
            "files": {replica.replica: replica.files for replica in outcome.collected},
            "artifacts": outcome.artifacts,
            "missing": missing and missing.message,
            "whole": sorted(outcome.whole),
        },
    )
    from tfspawner.pages.run import write_page  # Jinja, which a local job needs for nothing else

    try:
        write_page(record.folder)
    except OSError as error:
        view.note(
            f"warning: the run's page cannot be written: {error.strerror}; later: tf-spawner report {outcome.job}"
        )
