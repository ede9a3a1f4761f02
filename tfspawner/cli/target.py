"""What a command works on: the job, the backends, the runs' folder; and their shell completion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfspawner.base.terminal import echo, one_line
from tfspawner.errors import Command, ConfigurationError, Hint, NotFoundError, SpawnerError
from tfspawner.record.folder import SPEC_FILE, RunFolder

from .flags import PATH

if TYPE_CHECKING:
    from tfspawner.backends.base import Backend, JobSummary
    from tfspawner.jobs.job import Job
    from tfspawner.plan.grid import Sweep
    from tfspawner.plan.spec import JobSpec


COMPLETE_WITHIN_S = 2.0


def complete_job(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Shell completion for job names: those that come within COMPLETE_WITHIN_S; errors are not shown."""
    import logging
    import threading

    from tfspawner.backends.choice import backend_for

    logging.disable()
    names: list[str] = []

    def ask(on: str | None, **place: Any) -> None:
        for where in ("local", "kubernetes") if on is None else (on,):
            with suppress(SpawnerError):
                names.extend(s.job for s in backend_for(where, **(place if where == "kubernetes" else {})).jobs())

    asking = threading.Thread(target=ask, kwargs=target_of(ctx.params), daemon=True)
    asking.start()
    asking.join(COMPLETE_WITHIN_S)
    return [name for name in names if name.startswith(incomplete)]


def complete_run(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Shell completion for recorded runs."""
    out = Path(ctx.params.get("out") or "runs")
    try:
        names = sorted(path.parent.name for path in out.glob(f"*/{SPEC_FILE}"))
    except OSError:
        return []
    return [name for name in names if name.startswith(incomplete) and name.isprintable()]


JOB = click.argument("job", shell_complete=complete_job)
OUT = click.option("--out", type=PATH, default=Path("runs"), show_default=True, help="Where runs are recorded.")


def request_of(ctx: click.Context, options: dict[str, Any], recorded: dict[str, Any] | None = None) -> JobSpec | Sweep:
    """The JobSpec or Sweep that a command line asks for; prints the notes about it. Raises ConfigurationError."""
    from .options import make_spec

    args = (*options.pop("args"), *ctx.meta.get("script_args", ()))
    request, notes = make_spec(options, args, recorded)
    for note in notes:
        echo(note, err=True)
    return request


def base_of(request: JobSpec | Sweep) -> JobSpec:
    """The job's spec, or the one that all jobs of a sweep share."""
    from tfspawner.plan.grid import Sweep

    return request.spec if isinstance(request, Sweep) else request


def target_of(params: Mapping[str, Any]) -> dict[str, Any]:
    """The options that say where to look for jobs, as attach takes them."""
    return {key: params.get(key) for key in ("on", "namespace", "context", "kubeconfig")}


def find_job(job: str, target: dict[str, Any]) -> Job:
    """The job with that name. Raises NotFoundError, with a hint if a sweep has that name."""
    from tfspawner.base.userfile import named, wrong_path
    from tfspawner.jobs.job import attach

    if reason := wrong_path(job):
        raise NotFoundError(f"there is no job {named(job)}: {reason}", hint=Hint(Command("list")))
    try:
        return attach(job, **target)
    except NotFoundError as error:
        says_no_more = error.hint == Hint(Command("list"))
        if says_no_more and RunFolder(Path("runs", job)).sweep.exists():
            all_jobs = Command("delete", "-t", job)
            error.hint = Hint(
                f"{job} is a sweep, whose jobs are {job}-1 and so on: ", Command("list"), "; all: ", all_jobs
            )
        elif says_no_more and Path("runs", job).is_dir():
            error.hint = f"an earlier run's record: {Path('runs', job)}"
        raise


def summaries_of(on: str | None, *, verbose: bool = False, **target: Any) -> tuple[list[JobSummary], list[str]]:
    """The jobs, and the objects left out. Without --on, an unreachable cluster is only a warning."""
    from tfspawner.jobs.job import summaries

    left_out: list[str] = []

    def look(backend: Backend) -> list[JobSummary]:
        jobs = summaries(backend)
        left_out.extend(backend.left_out(thorough=verbose))
        return jobs

    jobs, warning = ask_backends(backends_of(on, **target), look, bool(on or any(target.values())))
    if warning:
        echo(f"warning: {warning}", err=True)
    return jobs, left_out


def tell_left_out(left_out: list[str], verbose: bool) -> None:
    """Prints the objects that belong to no job: each with the reason, or only their number."""
    if verbose:
        for reason in left_out:
            echo(f"left out: {one_line(reason)}", err=True)
    elif left_out:
        echo(f"{len(left_out)} object{'s' * (len(left_out) > 1)} left out: {Command('list', '-v')}", err=True)


def backends_of(on: str | None, **target: Any) -> list[Backend]:
    """The backends to search: the one that --on names, or both."""
    from tfspawner.backends.choice import backend_for

    return [backend_for(name, **target) for name in ("local", "kubernetes") if on in (None, name)]


def ask_backends(
    backends: list[Backend], what: Callable[[Backend], list[JobSummary]], required: bool
) -> tuple[list[JobSummary], str]:
    """All backends' jobs, and a warning. An unreachable cluster is an error only if `required`."""
    summaries: list[JobSummary] = []
    unseen = ""
    for backend in backends:
        try:
            summaries += what(backend)
        except SpawnerError as error:
            if required or backend.name == "local":
                raise
            if not isinstance(error, ConfigurationError):  # without a kubeconfig there is no cluster to ask
                unseen = f"the cluster's jobs are not shown: {error.message}"
    return summaries, "; ".join(filter(None, [unseen, *(summary.warning for summary in summaries)]))
