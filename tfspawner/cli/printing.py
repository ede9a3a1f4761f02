"""Prints outcomes, states and errors."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from tfspawner.base.terminal import console, echo, print_json, show
from tfspawner.errors import ArtifactError, JobFailed, SpawnerError
from tfspawner.record.folder import RunFolder

if TYPE_CHECKING:
    from tfspawner.backends.base import JobSummary
    from tfspawner.follow.outcome import Outcome
    from tfspawner.follow.state import JobState, View


def fail(error: SpawnerError) -> int:
    """Prints the error, the failed replica's last lines, where its whole log is, and the next step."""
    if isinstance(error, JobFailed) and error.lines:
        echo(f"\n{error.about}", err=True)
        for line in error.lines:
            echo(f"  {line}", err=True)
        echo(err=True)
    if error.outcome:
        echo(f"logs:  {RunFolder(error.outcome.folder).logs}", err=True)
        if any(replica.files for replica in error.outcome.collected):
            print_files(error.outcome)
        echo(f"page:  {RunFolder(error.outcome.folder).page}", err=True)
    echo("error: ", fg="red", bold=True, nl=False, err=True)
    echo(error.message, err=True)
    if error.hint:
        echo("hint: ", fg="yellow", nl=False, err=True)
        echo(error.hint, err=True)
    if error.missing:
        _tell_missing(error.missing)
    return error.exit_code


def _tell_missing(missing: ArtifactError) -> None:
    """Says, in addition to a failure, that some files did not come back (exit code 5 if it were the only error)."""
    echo("error: ", fg="red", bold=True, nl=False, err=True)
    echo(f"besides, exit code {missing.exit_code}: not all files are here: {missing.message}", err=True)
    echo("hint: ", fg="yellow", nl=False, err=True)
    echo(missing.hint or "", err=True)


def print_table(state: JobState) -> None:
    """Prints a job's table of replicas on stdout, as wide as the terminal is."""
    from tfspawner.views.table import replica_table

    width = console().width if sys.stdout.isatty() else None
    show(replica_table(state, width), soft_wrap=True)


def note(text: str) -> None:
    """Prints a line on stderr."""
    echo(text, err=True)


def notes() -> View:
    """A view that shows only notes."""
    from tfspawner.follow.state import Silent

    class Notes(Silent):
        def note(self, text: str) -> None:
            echo(text, err=True)

    return Notes()


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """An outcome as --output json prints it."""
    files = {replica.replica: [file["path"] for file in replica.files] for replica in outcome.collected}
    return {
        "job": outcome.job,
        "result": outcome.result,
        "folder": str(outcome.folder),
        "files": files,
        "seconds": round(outcome.seconds, 3),
        "artifacts": outcome.artifacts,
    }


def print_outcome(outcome: Outcome, output: str) -> None:
    """Prints how a job ended: the result on stdout, what led to it on stderr."""
    if output == "json":
        print_json(outcome_json(outcome))
        return
    from tfspawner.base.words import age
    from tfspawner.record.causes import explained

    cause = outcome.cause and explained(outcome.cause)
    why = ""
    if outcome.result != "succeeded" and cause and cause.message:
        why = f": {cause.replica or ''} {cause.message}"
    took = age(outcome.seconds) if outcome.seconds else ""
    if outcome.result == "running":
        headline = f"{outcome.job} still runs{took and f' ({took})'}; files so far:"
    elif outcome.result == "interrupted":
        headline = f"{outcome.job}: interrupted{took and f' after {took}'}"
    else:
        headline = f"{outcome.job}: {outcome.result}{took and f' in {took}'}{why}"
    run = RunFolder(outcome.folder)
    echo(f"\n{headline}", err=True)
    echo(f"logs:  {run.logs}", err=True)
    print_files(outcome)
    if outcome.artifacts:
        echo(f"       {outcome.artifacts}", err=True)
    echo(f"page:  {run.page}", err=True)


def print_files(outcome: Outcome) -> None:
    """Prints which files came back; only their number and folder where there are many."""
    from tfspawner.base.words import human_bytes

    folder = RunFolder(outcome.folder).files
    files = [(folder / r.replica / f["path"], f["size"]) for r in outcome.collected for f in r.files]
    total = human_bytes(sum(size for _, size in files))
    if not files:
        echo("files: none; what scripts write to $TFSPAWNER_OUTPUT comes back", err=True)
    elif len(files) > 6:
        echo(f"files: {folder} ({len(files)} files, {total})", err=True)
    else:
        echo("files: " + "\n       ".join(f"{path}  {human_bytes(size)}" for path, size in files), err=True)


def state_words(state: JobState) -> str:
    """A job's state in a few words, with the cause of a failure."""
    if not state.result:
        return state.phase
    if state.result == "succeeded":
        return f"succeeded; {state.without_pods}" if state.without_pods else state.result
    why = state.cause.text if state.cause else ""
    return f"{state.result}: {why}" if why else state.result


def state_json(state: JobState) -> dict[str, Any]:
    """A job's state as --output json prints it."""
    from dataclasses import asdict

    replicas = [asdict(line) for line in state.replicas.values()]
    cause = state.cause and state.cause.as_json()
    return asdict(state) | {"cause": cause, "replicas": replicas, "gone": sorted(state.gone)}


def summary_json(summary: JobSummary) -> dict[str, Any]:
    """A line of `tf-spawner list` as --output json prints it."""
    return {key: getattr(summary, key) for key in ("job", "on", "namespace", "tag", "state", "roles", "created")}
