"""fetch, report, compare and delete."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfspawner.base.terminal import echo, print_json, show_table
from tfspawner.errors import Command, ConfigurationError, Hint, NotFoundError

from .flags import PATH, output_option, target_options
from .hints import PlacedCommand
from .printing import note, notes, print_outcome
from .target import JOB, OUT, complete_job, complete_run, find_job, summaries_of

if TYPE_CHECKING:
    from tfspawner.jobs.job import Job


@click.command(cls=PlacedCommand)
@JOB
@target_options
@OUT
@click.option("--keep", is_flag=True, help="Leave the replicas holding their files.")
@output_option
def fetch(job: str, out: Path, keep: bool, output: str, **target: Any) -> None:
    """Bring a job's logs and files to runs/JOB.

    So far as they are there; when a job has ended and all is here, its pods may end.

    \b
    tf-spawner fetch digits-7xk2p
    """
    outcome = find_job(job, target).fetch(out, notes(), release=not keep)
    print_outcome(outcome, output)


@click.command()
@click.argument("run", metavar="RUN", shell_complete=complete_run)
@OUT
def report(run: str, out: Path) -> None:
    """Write a run's page anew: curves, times, failures, files.

    RUN is a job or a sweep of runs/, or its folder. Each run that ends writes its page by itself.

    \b
    tf-spawner report digits-7xk2p
    """
    from tfspawner.pages.run import write_page
    from tfspawner.pages.sweep import write_page as write_sweep_page
    from tfspawner.record.folder import RunFolder, run_folder

    folder = run_folder(run, out)
    try:
        echo(write_sweep_page(folder) if RunFolder(folder).sweep.exists() else write_page(folder, note))
    except OSError as error:
        raise ConfigurationError(f"the page in {folder} cannot be written: {error.strerror}") from None


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", shell_complete=complete_run)
@OUT
@click.option("--page", type=PATH, metavar="FILE.html", help="Write a page with their curves and differences, too.")
@output_option
def compare(runs: tuple[str, ...], out: Path, page: Path | None, output: str) -> None:
    """Show runs side by side: result, time, arguments, metrics.

    RUN is a job or a sweep of runs/, or its folder; of a sweep all points are shown.

    \b
    tf-spawner compare digits-7xk2p digits-9fw3c
    """
    from tfspawner.pages.run import compared, runs_of
    from tfspawner.record.folder import run_folder

    if page:
        from tfspawner.pages.comparison import refuse_foreign

        refuse_foreign(page)
    folders = [folder for run in runs for folder in runs_of(run_folder(run, out))]
    if not folders:
        shown = ", ".join(str(run_folder(run, out)) for run in runs)
        raise NotFoundError(f"no job of {shown} has ended yet", hint=Hint(Command("list")))
    rows = compared(folders)
    if output == "json":
        print_json(rows)
    else:
        from tfspawner.views.results import comparison_table

        show_table(comparison_table(rows))
    if page:
        from tfspawner.pages.comparison import write_page

        try:
            write_page(page, folders, note)
        except OSError as error:
            raise ConfigurationError(
                f"{page} cannot be written: {error.strerror}", hint="name another --page"
            ) from None
        echo(f"page:  {page}", err=True)


@click.command(cls=PlacedCommand)
@click.argument("jobs", nargs=-1, shell_complete=complete_job)
@target_options
@click.option("--all", "all_jobs", is_flag=True, help="All jobs that list shows.")
@click.option("-t", "--tag", help="All jobs with this tag.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@output_option
def delete(jobs: tuple[str, ...], all_jobs: bool, tag: str | None, yes: bool, output: str, **target: Any) -> None:
    """End jobs and remove all of them.

    Returns when everything is gone.

    \b
    tf-spawner delete -t nightly
    """
    if bool(jobs) + all_jobs + bool(tag) != 1:
        raise ConfigurationError("name the jobs to delete, or give --all, or --tag", hint=Hint(Command("list")))
    if jobs:
        chosen = [find_job(job, target) for job in jobs]
        if not yes and sys.stdin.isatty():  # a script is not asked
            _confirm_deleting([f"{job.name} ({job.backend.name}, {why})" for job in chosen if (why := _at_risk(job))])
    else:
        from tfspawner.jobs.job import attach

        summaries = [s for s in summaries_of(**target)[0] if all_jobs or s.tag == tag]
        if summaries and not yes:
            _confirm_deleting([f"{s.job} ({s.on}, {s.state})" for s in summaries])
        chosen = [attach(s.job, **{**target, "on": s.on}) for s in summaries]
    for job in chosen:
        unfetched = "; its files were not fetched and are lost" if job.is_unfetched() else ""
        job.delete(note=note)
        if output == "text":
            echo(f"{job.name} is deleted{unfetched}")
    if output == "json":
        print_json({"deleted": [job.name for job in chosen]})
    elif not chosen:
        echo("no jobs", err=True)


def _at_risk(job: Job) -> str:
    """Why deleting a job needs a yes: it still runs, or not all of its files have been fetched."""
    from tfspawner.jobs.job import RUNNING, summaries

    state = next((s.state for s in summaries(job.backend) if s.job == job.name), "")
    if state in RUNNING or state.endswith("to be fetched"):
        return state
    return f"{state}, to be fetched" if job.is_unfetched() else ""


def _confirm_deleting(lines: list[str]) -> None:
    """Shows the jobs, and ends the command if they are not to be deleted."""
    if not lines:
        return
    echo("\n".join(lines), err=True)
    try:
        agreed = click.confirm(f"delete {f'these {len(lines)} jobs' if len(lines) > 1 else 'this job'}?", err=True)
    except click.Abort:
        if sys.stdin.isatty():
            raise
        echo("", err=True)
        raise ConfigurationError("nobody answered, and nothing is deleted", hint="to delete unasked: -y") from None
    if not agreed:
        echo("nothing deleted", err=True)
        raise click.exceptions.Exit(1)
