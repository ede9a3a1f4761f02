"""list, status, top, logs, attach, wait and tensorboard."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfspawner.base.terminal import console, echo, print_json
from tfspawner.errors import Command, ConfigurationError, Hint, Interrupted, JobFailed, NotFoundError

from .flags import DURATION, output_option, target_options
from .hints import PlacedCommand, placed
from .printing import print_table, state_json, state_words, summary_json
from .target import JOB, OUT, ask_backends, backends_of, complete_job, find_job, summaries_of, tell_left_out

if TYPE_CHECKING:
    from tfspawner.jobs.job import Job


@click.command("list", cls=PlacedCommand)
@target_options
@click.option("-t", "--tag", help="Only jobs with this tag.")
@click.option("-v", "--verbose", is_flag=True, help="Name what looks like a job's and is not, and why.")
@output_option
def list_jobs(tag: str | None, verbose: bool, output: str, **target: Any) -> None:
    """List the jobs on this machine and in the namespace.

    Labels alone make no job: a part of one is known by its owner.

    \b
    tf-spawner list -t nightly
    """
    known, left_out = summaries_of(**target, verbose=verbose)
    summaries = [s for s in known if tag in (None, s.tag)]
    tell_left_out(left_out, verbose)
    if output == "json":
        print_json([summary_json(s) for s in summaries])
        return
    if not summaries:
        echo("no jobs", err=True)
        return
    from tfspawner.views.table import jobs_list

    echo(jobs_list(summaries).plain)


@click.command(cls=PlacedCommand)
@JOB
@target_options
@output_option
def status(job: str, output: str, **target: Any) -> None:
    """Show a job's replicas: state, node, and what Keras tells.

    \b
    tf-spawner status digits-7xk2p -o json
    """
    state = find_job(job, target).status()
    if output == "json":
        print_json(state_json(state))
        return
    print_table(state)


@click.command(cls=PlacedCommand)
@click.argument("job", required=False, shell_complete=complete_job)
@target_options
@output_option
def top(job: str | None, output: str, **target: Any) -> None:
    """Watch running jobs, or the replicas of one, without output.

    Ctrl-C leaves them running. Off a terminal, and as JSON, it looks once.

    \b
    tf-spawner top digits-7xk2p
    """
    if job:
        _watch_job(find_job(job, target), output)
    else:
        _watch_jobs(target, output)


def _watch_job(job: Job, output: str) -> None:
    if output == "json":
        print_json(state_json(job.status()))
        return
    from tfspawner.views.choice import is_terminal

    if not is_terminal(sys.stdout):
        print_table(job.status())
        return
    from tfspawner.views.live import LiveView

    view = LiveView(console(), sys.stdout, logs=False, stays=True)
    try:
        state = job.wait(view, logs=False)
    except KeyboardInterrupt:
        return
    finally:
        view.finish()
    echo(f"{job.name}: {state_words(state)}", err=True)


def _watch_jobs(target: dict[str, Any], output: str) -> None:
    """Prints the running jobs; on a terminal it refreshes them over the same connections."""
    from tfspawner.jobs.job import running
    from tfspawner.views.choice import is_terminal

    look = partial(ask_backends, backends_of(**target), running, required=any(target.values()))
    if output == "text" and is_terminal(sys.stdout):
        from tfspawner.views.live import watch_jobs

        with suppress(KeyboardInterrupt):
            watch_jobs(console(), look)
        return
    jobs, warning = look()
    if warning:
        echo(f"warning: {warning}", err=True)
    if output == "json":
        print_json([summary_json(job) | job.brief for job in jobs])
    elif jobs:
        from tfspawner.views.table import jobs_table

        echo(jobs_table(jobs).plain)
    else:
        echo("no running jobs", err=True)


@click.command(cls=PlacedCommand)
@JOB
@target_options
@click.option("-f", "--follow", is_flag=True, help="Go on until the job ends.")
@click.option("--replica", metavar="ROLE-INDEX", help="Only this replica's, as they are.")
@output_option
def logs(job: str, follow: bool, replica: str | None, output: str, **target: Any) -> None:
    """Print the replicas' output so far, or as it comes.

    \b
    tf-spawner logs -f digits-7xk2p --replica worker-1
    """
    attached = find_job(job, target)
    if replica and replica not in attached.replicas:
        shown = ", ".join(attached.replicas[:10]) + (", …" if len(attached.replicas) > 10 else "")
        raise ConfigurationError(f"job {job} has no replica {replica!r}", hint=f"it has: {shown}")
    if follow:
        from tfspawner.follow.outcome import raise_for
        from tfspawner.views.plain import FollowView

        try:
            state = attached.wait(FollowView(sys.stdout, sys.stderr, replica=replica, as_json=output == "json"))
        except KeyboardInterrupt:
            raise Interrupted("interrupted; the job goes on", hint=Hint(Command("logs", "-f", job))) from None
        try:
            raise_for(state, None)
        except JobFailed as error:
            error.lines = []  # they were just shown
            raise
        return
    if output == "json":
        texts = {name: data.decode(errors="replace") for name, data in attached.logs(replica).items()}
        print_json(texts)
        has_logs = bool(texts)
    else:
        has_logs = _print_logs(attached, replica)
    if not has_logs:
        raise NotFoundError(
            f"the pods of job {job} are gone, and their logs with them",
            hint=f"if it was followed or fetched: runs/{job}/logs",
        )


def _print_logs(job: Job, replica: str | None) -> bool:
    """Prints the log of one replica or of each in turn; returns whether there was any output."""
    from tfspawner.views.plain import FollowView

    view, has_logs = FollowView(sys.stdout, sys.stderr, replica=replica), False
    for name in [replica] if replica else job.replicas:
        for piece in job.log(name):
            view.log(name, piece)
            has_logs = True
    view.finish()
    return has_logs


@click.command(cls=PlacedCommand)
@JOB
@target_options
@click.option("--logs/--no-logs", default=True, help="Show the replicas' output above the table.")
def attach(job: str, logs: bool, **target: Any) -> None:
    """Watch a running job from anywhere; Ctrl-C leaves it running.

    \b
    tf-spawner attach digits-7xk2p
    """
    from tfspawner.follow.outcome import raise_for
    from tfspawner.views.choice import make_view

    view = make_view(logs=logs)
    try:
        state = find_job(job, target).wait(view)
    except KeyboardInterrupt:
        next_steps = Hint(Command("attach", job), ", or ", Command("delete", job))
        raise Interrupted(f"job {job} goes on", hint=next_steps) from None
    finally:
        view.finish()
    raise_for(state, None)
    echo(placed(Hint(f"{job}: {state_words(state)}; bring it home: ", Command("fetch", job))), err=True)


@click.command(cls=PlacedCommand)
@JOB
@target_options
@click.option("--timeout", "timeout_s", type=DURATION, help="Wait no longer, and exit with 124.")
@output_option
def wait(job: str, timeout_s: float | None, output: str, **target: Any) -> None:
    """Wait for a job to end.

    Exits with 0 if it succeeded, and with 125 if it failed.

    \b
    tf-spawner wait digits-7xk2p --timeout 2h && tf-spawner fetch digits-7xk2p
    """
    from tfspawner.follow.outcome import raise_for, raise_for_artifacts

    state = find_job(job, target).wait(timeout_s=timeout_s)
    if output == "json":
        print_json(state_json(state))
    raise_for(state, None)
    raise_for_artifacts(state, Hint("the job still holds them: ", Command("fetch", job)))
    if output == "text":
        echo(f"{job}: {state_words(state)}")


@click.command(cls=PlacedCommand)
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...", shell_complete=complete_job)
@target_options
@OUT
@click.option("--port", type=click.IntRange(1024, 65535), help="TensorBoard's.  [default: 6006, or the next free one]")
@click.option("--every", "every_s", type=DURATION, default=3.0, help="How often new events come.  [default: 3s]")
def tensorboard(jobs: tuple[str, ...], out: Path, port: int | None, every_s: float, **target: Any) -> None:
    """Show jobs in TensorBoard here, while they train and after.

    Event files come over as they grow. Where a job is gone, JOB is one of runs/ or a run's folder. Ctrl-C ends
    TensorBoard; the jobs go on.

    \b
    tf-spawner tensorboard digits-7xk2p
    """
    from tfspawner.jobs.tensorboard import serve

    def note(text: str) -> None:
        echo(text, err=True)

    def tell(url: str) -> None:
        echo(f"TensorBoard: {url}")

    for number in (signal.SIGHUP, signal.SIGTERM):  # a terminal that is closed leaves no files, either
        signal.signal(number, signal.default_int_handler)
    try:
        serve(jobs, lambda job: find_job(job, target), out, note, tell, port=port, every_s=max(every_s, 0.2))
    except KeyboardInterrupt:
        echo("\nTensorBoard has ended", err=True)
