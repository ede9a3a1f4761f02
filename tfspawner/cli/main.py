"""The command line: parses words into a JobSpec, calls one function, prints."""

from __future__ import annotations

import errno
import os
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from tfspawner import __version__
from tfspawner.base.terminal import (
    console,
    echo,
    one_line,
    open_streams,
    print_json,
    show,
    show_error,
    show_table,
    silence,
    take_warnings,
)
from tfspawner.errors import (
    ArtifactError,
    ClusterError,
    ConfigurationError,
    Interrupted,
    JobFailed,
    NotFoundError,
    SpawnerError,
)

from .data import data
from .flags import DURATION, PATH, JobCommand, job_options, output_option, run_options, target_options

if TYPE_CHECKING:
    from tfspawner.backends.base import Backend, JobSummary
    from tfspawner.follow.outcome import Outcome
    from tfspawner.follow.state import JobState, View
    from tfspawner.jobs.job import Job
    from tfspawner.plan.grid import Sweep
    from tfspawner.plan.spec import JobSpec

    from .doctor import Finding


COMPLETE_WITHIN_S = 2.0
PLACE_FLAGS = ("-n", "--namespace", "--context", "--kubeconfig")
_COMMAND = re.compile(
    r"tf-spawner (?:attach|delete|fetch|list|logs|status|tensorboard|top|wait)(?: -f)?(?: [a-z0-9-]+(?![\w.:]))?"
)


UNWRITABLE = (errno.EBADF, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC)  # of stdout, where no file is named


def main(argv: list[str] | None = None) -> NoReturn:
    """The console script."""
    open_streams()
    take_warnings()
    code = call(argv)
    try:
        sys.stdout.flush()
    except OSError as error:
        silence(sys.stdout)
        if not code and not isinstance(error, BrokenPipeError):  # which nobody reads any more
            code = fail(_of_system(error) or SpawnerError(str(error)))
    sys.exit(code)


def call(argv: list[str] | None) -> int:
    """Runs a command line: one place where errors become messages and exit codes."""
    try:
        ended: int | None = cli.main(args=argv, prog_name="tf-spawner", standalone_mode=False)
        code = ended or 0  # a command that ends by click's Exit gives its code
    except SpawnerError as error:
        code = fail(error, place_words(sys.argv[1:] if argv is None else argv))
    except click.ClickException as error:
        show_error(error)
        if isinstance(error, click.NoSuchOption) and error.ctx and error.ctx.info_name == "run":
            echo(
                "hint: options of the training script stand behind --: tf-spawner run train.py -- --epochs 10", err=True
            )
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        echo("interrupted", err=True)
        code = Interrupted.exit_code
    except BrokenPipeError:
        code = 141
    except Exception as error:
        told = _of_system(error)
        if told:
            return fail(told)
        echo(traceback.format_exc(), err=True, nl=False)  # a bug of ours: its message may hold another's words
        code = 1
    return code


def _of_system(error: Exception) -> SpawnerError | None:
    """What is told of an error that any command can meet; None for others."""
    if isinstance(error, FileNotFoundError):
        try:
            os.getcwd()
        except FileNotFoundError:
            return ConfigurationError("the working folder does not exist any more", hint="cd to one that does")
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG and error.filename is not None:
        from tfspawner.base.userfile import named, wrong_path

        name = os.fsdecode(error.filename)
        return ConfigurationError(
            f"{named(name)} is no path: {wrong_path(name) or error.strerror}", hint="give a shorter name"
        )
    if isinstance(error, OSError) and error.filename is None and error.errno in UNWRITABLE:
        return SpawnerError(f"output cannot be written: {error.strerror}")
    return None


def place_words(argv: list[str]) -> str:
    """The words of a command line that say where its job is, for the commands that are told as the next step."""
    words = argv[: argv.index("--")] if "--" in argv else argv
    return "".join(
        f" {word} {shlex.quote(value)}" if word in PLACE_FLAGS else f" {word}"
        for word, value in pairwise([*words, ""])
        if word in PLACE_FLAGS or word.startswith(tuple(f"{flag}=" for flag in PLACE_FLAGS))
    )


def placed(text: str, words: str) -> str:
    """The text with the words behind each command in it that looks for a job."""
    return _COMMAND.sub(lambda found: found[0] + words, text)


def fail(error: SpawnerError, words: str = "") -> int:
    """Prints the error, what the failed replica said last, where all of it is, and the next step."""
    if isinstance(error, JobFailed) and error.lines:
        echo(f"\n{error.about}", err=True)
        for line in error.lines:
            echo(f"  {line}", err=True)
        echo(err=True)
    if error.outcome:
        echo(f"logs:  {error.outcome.folder / 'logs'}", err=True)
        if any(replica.files for replica in error.outcome.collected):
            _print_files(error.outcome)
        echo(f"page:  {error.outcome.folder / 'report.html'}", err=True)
    echo("error: ", fg="red", bold=True, nl=False, err=True)
    echo(error.message, err=True)
    if error.hint:
        echo("hint: ", fg="yellow", nl=False, err=True)
        echo(placed(error.hint, words), err=True)
    if error.missing:
        _tell_missing(error.missing, words)
    return error.exit_code


def _tell_missing(missing: ArtifactError, words: str) -> None:
    """Beside a failure, that not all that the job left is here: what exit code 5 says where there is no failure."""
    echo("error: ", fg="red", bold=True, nl=False, err=True)
    echo(f"besides, exit code {missing.exit_code}: not all files are here: {missing.message}", err=True)
    echo("hint: ", fg="yellow", nl=False, err=True)
    echo(placed(missing.hint or "", words), err=True)


SECTIONS = {
    "Run": ("run", "rerun", "check", "render"),
    "Watch": ("top", "attach", "status", "logs", "tensorboard", "list", "wait"),
    "Bring home": ("fetch", "report", "compare", "delete"),
    "Set up": ("init", "doctor", "data", "rbac", "completion"),
}


class SectionedGroup(click.Group):
    """Lists its commands by what they are for."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        widest = max(map(len, self.commands))
        for title, names in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(
                    [(name.ljust(widest), self.commands[name].get_short_help_str(limit=200)) for name in names]
                )


@click.group(cls=SectionedGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="tf-spawner")
def cli() -> None:
    """Takes a TensorFlow script to N workers, and brings logs and model back.

    \b
    tf-spawner run train.py -w 4                   4 workers on this machine
    tf-spawner run train.py -w 4 --on kubernetes   the same in a cluster
    """


def complete_job(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Shell completion for job names: those that are told in COMPLETE_WITHIN_S, without a word of what is amiss."""
    import logging
    import threading

    from tfspawner.backends.choice import backend_for

    logging.disable()
    told: list[str] = []

    def ask(on: str | None, **place: Any) -> None:
        for where in ("local", "kubernetes") if on is None else (on,):
            with suppress(SpawnerError):
                told.extend(s.job for s in backend_for(where, **(place if where == "kubernetes" else {})).jobs())

    asking = threading.Thread(target=ask, kwargs=_target(ctx.params), daemon=True)
    asking.start()
    asking.join(COMPLETE_WITHIN_S)
    return [name for name in told if name.startswith(incomplete)]


def complete_run(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Shell completion for recorded runs."""
    out = Path(ctx.params.get("out") or "runs")
    try:
        names = sorted(path.parent.name for path in out.glob("*/spec.json"))
    except OSError:
        return []
    return [name for name in names if name.startswith(incomplete) and name.isprintable()]


JOB = click.argument("job", shell_complete=complete_job)
OUT = click.option("--out", type=PATH, default=Path("runs"), show_default=True, help="Where runs are recorded.")


cli.add_command(data)


@cli.command(cls=JobCommand)
@run_options
@click.option("--detach", is_flag=True, default=None, help="Return as soon as the job is launched.")
@output_option
@click.pass_context
def run(ctx: click.Context, /, output: str, **options: Any) -> None:
    """Run SCRIPT on N workers, show logs, bring the model back.

    What the replicas write to $TFSPAWNER_OUTPUT comes back to runs/JOB/files.

    \b
    tf-spawner run train.py -w 4 -- --epochs 10
    """
    _run(_asked(ctx, options), output)


@cli.command(cls=JobCommand)
@click.argument("recorded", metavar="RUN", shell_complete=complete_run)
@job_options
@output_option
@click.pass_context
def rerun(ctx: click.Context, /, recorded: str, output: str, **options: Any) -> None:
    """Run again what RUN's record tells of, with changes by flags.

    RUN is of runs/, or a folder. Give the values of variables again.

    \b
    tf-spawner rerun digits-7xk2p -w 4 -- --epochs 20
    """
    from tfspawner.pages.run import run_folder
    from tfspawner.record.reading import read_whole

    from .options import recorded_options, recorded_sweep

    folder = run_folder(recorded, options["out"] or Path("runs"))
    stored, swept = read_whole(folder)
    place = folder if folder.name not in ("", "..") else folder.resolve()
    former = recorded_sweep(swept) if swept else recorded_options(stored)
    former["out"] = place.parent  # whatever the record says
    try:
        asked = _asked(ctx, options, former)
    except ConfigurationError as error:
        message = error.message if len(error.message) <= 500 else f"{error.message[:500]}…"
        raise ConfigurationError(f"what {folder} records, with what is given: {message}", hint=error.hint) from None
    missing = [name for name in stored.get("env", []) if name not in _base(asked).env]
    if missing:
        raise ConfigurationError(
            f"{recorded} had the variables {', '.join(missing)}, whose values no record has",
            hint="give --env-file, or --env",
        )
    _run(asked, output)


def _run(asked: JobSpec | Sweep, output: str) -> None:
    from tfspawner.plan.grid import Sweep

    if isinstance(asked, Sweep):
        _run_sweep(asked, output)
    else:
        _run_job(asked, output)


def _run_sweep(asked: Sweep, output: str) -> None:
    from tfspawner.jobs.sweeps import run_sweep
    from tfspawner.views.sweep import make_sweep_view, result_table

    view = make_sweep_view()
    try:
        outcome = run_sweep(asked, view)
    finally:
        view.finish()
    if output == "json":
        print_json(outcome.as_json())
    else:
        show_table(result_table(outcome))
        echo(f"\nsweep {outcome.name}: {outcome.told}\npage:  {outcome.page}", err=True)
    if outcome.error:
        raise outcome.error


def _run_job(spec: JobSpec, output: str) -> None:
    from tfspawner.jobs.running import launch, run
    from tfspawner.views.choice import make_view

    if spec.detach:
        launched = launch(spec, _notes())
        if output == "json":
            print_json({"job": launched.name, "on": spec.on, "replicas": list(launched.replicas)})
        else:
            echo(launched.name)
            next_steps = (
                f"follow it: tf-spawner logs -f {launched.name}\nbring it home: tf-spawner fetch {launched.name}"
            )
            echo(placed(next_steps, place_words(sys.argv[1:])), err=True)
        return
    view = make_view(logs=output == "text")
    try:
        outcome = run(spec, view)
    except SpawnerError as error:
        if output == "json":
            told = _outcome_json(error.outcome) if error.outcome else {"result": "error"}
            missing = {"missing": error.missing.message} if error.missing else {}
            print_json({**told, "error": error.message, "hint": error.hint, **missing})
        raise
    finally:
        view.finish()
    _print_outcome(outcome, output)


@cli.command(cls=JobCommand)
@run_options
@output_option
@click.pass_context
def render(ctx: click.Context, /, output: str, **options: Any) -> None:
    """Print the manifests that run would create, without secrets.

    \b
    tf-spawner render train.py -w 4 | kubectl diff -f -
    """
    options["on"] = "kubernetes"
    asked = _asked(ctx, options)
    from tfspawner.backends.kubernetes.manifests import redacted, to_yaml
    from tfspawner.backends.kubernetes.manifests import render as render_plan
    from tfspawner.jobs.prepare import prepare
    from tfspawner.plan.grid import Sweep, shown
    from tfspawner.plan.plan import job_name

    if isinstance(asked, Sweep):
        name, values = job_name(asked.spec), asked.points[0]
        echo(f"point 1 of {len(asked.points)}: {shown(values)}", err=True)
        asked = asked.job(name, f"{name}-1", values)
    _, plan = prepare(asked, check=False)
    for note in plan.notes:
        echo(f"note: {note}", err=True)
    manifests = redacted(render_plan(plan))
    if output == "json":
        print_json({"apiVersion": "v1", "kind": "List", "items": manifests})
    else:
        echo(to_yaml(manifests), nl=False)


@cli.command(cls=JobCommand)
@run_options
@click.option(
    "--data",
    "uris",
    multiple=True,
    metavar="URI",
    help="Training data: are there files for all workers?",
)
@output_option
@click.pass_context
def check(ctx: click.Context, /, output: str, uris: tuple[str, ...], **options: Any) -> None:
    """Say what would go wrong with run, without creating anything.

    It reads the script, and asks the cluster by a dry run.

    \b
    tf-spawner check train.py -w 4 --on kubernetes --data s3://bucket/train/
    """
    asked = _asked(ctx, options)
    from tfspawner.jobs.prepare import prepare
    from tfspawner.plan.grid import Sweep

    spec, points = _base(asked), len(asked.points) if isinstance(asked, Sweep) else None
    if isinstance(asked, Sweep):
        from tfspawner.jobs.sweeps import prepare as prepare_sweep

        plan = prepare_sweep(asked).plan
    else:
        _, plan = prepare(asked)
    warnings = [*plan.warnings, *(_check_data(uris, spec) if uris else [])]
    if output == "json":
        print_json({"job": plan.job, "on": spec.on, "replicas": spec.replicas, "warnings": warnings,
                     **({"points": points} if points else {})})  # fmt: skip
        return
    for note in plan.notes:
        echo(f"note: {note}", err=True)
    for warning in warnings:
        echo("warning: ", fg="yellow", nl=False, err=True)
        echo(warning, err=True)
    counted = {0: "nothing is in the way", 1: "1 warning"}.get(len(warnings), f"{len(warnings)} warnings")
    where = "this machine" if spec.on == "local" else "Kubernetes"
    each = f" for each of {points} points" if points else ""
    echo(f"{len(spec.replicas)} replicas on {where}{each}: {counted}")


def _check_data(uris: tuple[str, ...], spec: JobSpec) -> list[str]:
    """Lists the data; what of them fits the workers badly."""
    from tfspawner.base.words import human_bytes
    from tfspawner.data.filesystems import list_files

    files = list_files(uris)
    workers = spec.workers + spec.has_chief
    echo(f"data: {len(files)} files, {human_bytes(sum(file.size for file in files))}", err=True)
    if len(files) < workers:
        return [f"{len(files)} files for {workers} workers: TensorFlow's own sharding by files needs one for each; "
                "tfspawner.data and tf-spawner data convert --shards divide them"]  # fmt: skip
    empty = [file.uri for file in files if not file.size]
    return [f"{len(empty)} of the files are empty, such as {empty[0]}"] if empty else []


@cli.command("list")
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
    import time

    from tfspawner.base.words import age

    found, left_out = _summaries(**target, verbose=verbose)
    summaries = [s for s in found if tag in (None, s.tag)]
    _tell_left_out(left_out, verbose)
    if output == "json":
        print_json([_summary_json(s) for s in summaries])
        return
    rows = [("JOB", "ON", "STATE", "REPLICAS", "TAG", "AGE")]
    for s in summaries:
        replicas = ", ".join(f"{count} {role}" for role, count in s.roles.items())
        where = f"{s.on}/{s.namespace}" if s.namespace else s.on
        rows.append((s.job, where, s.state, replicas, s.tag, age(time.time() - s.created)))
    if len(rows) == 1:
        echo("no jobs", err=True)
        return
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@cli.command()
@JOB
@target_options
@output_option
def status(job: str, output: str, **target: Any) -> None:
    """Show a job's replicas: state, node, and what Keras tells.

    \b
    tf-spawner status digits-7xk2p -o json
    """
    state = _attach(job, target).status()
    if output == "json":
        print_json(_state_json(state))
        return
    _print_table(state)


@cli.command()
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
        _watch_job(_attach(job, target), output)
    else:
        _watch_jobs(target, output)


def _watch_job(job: Job, output: str) -> None:
    if output == "json":
        print_json(_state_json(job.status()))
        return
    from tfspawner.views.choice import is_terminal

    if not is_terminal(sys.stdout):
        _print_table(job.status())
        return
    from tfspawner.views.live import LiveView

    view = LiveView(console(), sys.stdout, logs=False, stays=True)
    try:
        state = job.wait(view, logs=False)
    except KeyboardInterrupt:
        return
    finally:
        view.finish()
    echo(f"{job.name}: {_state_words(state)}", err=True)


def _watch_jobs(target: dict[str, Any], output: str) -> None:
    """Prints the running jobs; on a terminal again and again, by the same connections."""
    from tfspawner.jobs.job import running
    from tfspawner.views.choice import is_terminal

    look = partial(_ask, _backends(**target), running, wanted=any(target.values()))
    if output == "text" and is_terminal(sys.stdout):
        from tfspawner.views.live import watch_jobs

        with suppress(KeyboardInterrupt):
            watch_jobs(console(), look)
        return
    jobs, warning = look()
    if warning:
        echo(f"warning: {warning}", err=True)
    if output == "json":
        print_json([_summary_json(job) | job.told for job in jobs])
    elif jobs:
        from tfspawner.views.table import jobs_table

        echo(jobs_table(jobs).plain)
    else:
        echo("no running jobs", err=True)


def _print_table(state: JobState) -> None:
    from tfspawner.views.table import replica_table

    width = console().width if sys.stdout.isatty() else None
    show(replica_table(state, width), soft_wrap=True)


@cli.command()
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
    attached = _attach(job, target)
    if replica and replica not in attached.replicas:
        shown = ", ".join(attached.replicas[:10]) + (", …" if len(attached.replicas) > 10 else "")
        raise ConfigurationError(f"job {job} has no replica {replica!r}", hint=f"it has: {shown}")
    if follow:
        from tfspawner.follow.outcome import raise_for
        from tfspawner.views.plain import FollowView

        try:
            state = attached.wait(FollowView(sys.stdout, sys.stderr, replica=replica, as_json=output == "json"))
        except KeyboardInterrupt:
            raise Interrupted("interrupted; the job goes on", hint=f"tf-spawner logs -f {job}") from None
        try:
            raise_for(state, None)
        except JobFailed as error:
            error.lines = []  # they were just shown
            raise
        return
    if output == "json":
        texts = {name: data.decode(errors="replace") for name, data in attached.logs(replica).items()}
        print_json(texts)
        found = bool(texts)
    else:
        found = _print_logs(attached, replica)
    if not found:
        raise NotFoundError(
            f"the pods of job {job} are gone, and their logs with them",
            hint=f"if it was followed or fetched: runs/{job}/logs",
        )


def _print_logs(job: Job, replica: str | None) -> bool:
    """Prints one replica's log, or one after the other, as they come; whether there was any."""
    from tfspawner.views.plain import FollowView

    view, found = FollowView(sys.stdout, sys.stderr, replica=replica), False
    for name in [replica] if replica else job.replicas:
        for piece in job.log(name):
            view.log(name, piece)
            found = True
    view.finish()
    return found


@cli.command()
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
        state = _attach(job, target).wait(view)
    except KeyboardInterrupt:
        raise Interrupted(f"job {job} goes on", hint=f"tf-spawner attach {job}, or tf-spawner delete {job}") from None
    finally:
        view.finish()
    raise_for(state, None)
    ended = f"{job}: {_state_words(state)}; bring it home: tf-spawner fetch {job}"
    echo(placed(ended, place_words(sys.argv[1:])), err=True)


@cli.command()
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
    outcome = _attach(job, target).fetch(out, _notes(), release=not keep)
    _print_outcome(outcome, output)


@cli.command()
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

    state = _attach(job, target).wait(timeout_s=timeout_s)
    if output == "json":
        print_json(_state_json(state))
    raise_for(state, None)
    raise_for_artifacts(state, f"the job still holds them: tf-spawner fetch {job}")
    if output == "text":
        echo(f"{job}: {_state_words(state)}")


@cli.command()
@click.argument("run", metavar="RUN", shell_complete=complete_run)
@OUT
def report(run: str, out: Path) -> None:
    """Write a run's page anew: curves, times, failures, files.

    RUN is a job or a sweep of runs/, or its folder. Each run that ends writes its page by itself.

    \b
    tf-spawner report digits-7xk2p
    """
    from tfspawner.pages.run import run_folder, write_page
    from tfspawner.pages.sweep import write_page as write_sweep_page

    folder = run_folder(run, out)
    try:
        echo(write_sweep_page(folder) if (folder / "sweep.json").exists() else write_page(folder, _note))
    except OSError as error:
        raise ConfigurationError(f"the page in {folder} cannot be written: {error.strerror}") from None


@cli.command()
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
    from tfspawner.pages.run import compared, run_folder, runs_of

    if page:
        from tfspawner.pages.comparison import refuse_foreign

        refuse_foreign(page)
    folders = [folder for run in runs for folder in runs_of(run_folder(run, out))]
    if not folders:
        shown = ", ".join(str(run_folder(run, out)) for run in runs)
        raise NotFoundError(f"no job of {shown} has ended yet", hint="tf-spawner list")
    rows = compared(folders)
    if output == "json":
        print_json(rows)
    else:
        from tfspawner.views.plain import comparison_table

        show_table(comparison_table(rows))
    if page:
        from tfspawner.pages.comparison import write_page

        try:
            write_page(page, folders, _note)
        except OSError as error:
            raise ConfigurationError(
                f"{page} cannot be written: {error.strerror}", hint="name another --page"
            ) from None
        echo(f"page:  {page}", err=True)


@cli.command()
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
        serve(jobs, lambda job: _attach(job, target), out, note, tell, port=port, every_s=max(every_s, 0.2))
    except KeyboardInterrupt:
        echo("\nTensorBoard has ended", err=True)


@cli.command()
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
        raise ConfigurationError("name the jobs to delete, or give --all, or --tag", hint="tf-spawner list")
    if jobs:
        chosen = [_attach(job, target) for job in jobs]
        if not yes and sys.stdin.isatty():  # a script is not asked
            _confirm_deleting([f"{job.name} ({job.backend.name}, {why})" for job in chosen if (why := _at_risk(job))])
    else:
        from tfspawner.jobs.job import attach

        found = [s for s in _summaries(**target)[0] if all_jobs or s.tag == tag]
        if found and not yes:
            _confirm_deleting([f"{s.job} ({s.on}, {s.state})" for s in found])
        chosen = [attach(s.job, **{**target, "on": s.on}) for s in found]
    for job in chosen:
        unfetched = "; its files were not fetched and are lost" if job.is_unfetched() else ""
        job.delete(note=_note)
        if output == "text":
            echo(f"{job.name} is deleted{unfetched}")
    if output == "json":
        print_json({"deleted": [job.name for job in chosen]})
    elif not chosen:
        echo("no jobs", err=True)


def _at_risk(job: Job) -> str:
    """Why a job is not deleted unasked: that it runs, or that nobody has all that it left."""
    from tfspawner.jobs.job import RUNNING, summaries

    state = next((s.state for s in summaries(job.backend) if s.job == job.name), "")
    if state in RUNNING or state.endswith("to be fetched"):
        return state
    return f"{state}, to be fetched" if job.is_unfetched() else ""


def _confirm_deleting(told: list[str]) -> None:
    """Shows the jobs, and ends the command if they are not to be deleted."""
    if not told:
        return
    echo("\n".join(told), err=True)
    try:
        agreed = click.confirm(f"delete {f'these {len(told)} jobs' if len(told) > 1 else 'this job'}?", err=True)
    except click.Abort:
        if sys.stdin.isatty():
            raise
        echo("", err=True)
        raise ConfigurationError("nobody answered, and nothing is deleted", hint="to delete unasked: -y") from None
    if not agreed:
        echo("nothing deleted", err=True)
        raise click.exceptions.Exit(1)


@cli.command()
@target_options
@click.option("--data", "uris", multiple=True, metavar="URI", help="Training data to look for.")
@output_option
def doctor(on: str | None, uris: tuple[str, ...], output: str, **target: Any) -> None:
    """Say what works from here: machine, cluster, rights, data.

    Ends with 3 where something keeps jobs from running.

    \b
    tf-spawner doctor --on kubernetes -n physics --data s3://bucket/train/
    """
    from dataclasses import asdict

    from . import doctor as looks

    findings = list(looks.machine()) if on != "kubernetes" else []
    if on != "local":
        findings += looks.cluster(target, wanted=bool(on or any(target.values())))
    findings += looks.data(uris)
    if output == "json":
        print_json([asdict(finding) for finding in findings])
    else:
        _print_findings(findings)
    problems = sum(finding.level == "problem" for finding in findings)
    if problems:
        raise ClusterError(f"{problems} problem{'s' * (problems > 1)} of {len(findings)} findings")


def _print_findings(findings: list[Finding]) -> None:
    where = None
    for finding in findings:
        if finding.where != where:
            where = finding.where
            echo(where, bold=True)
        colour = {"ok": "green", "note": "yellow", "problem": "red"}[finding.level]
        echo(f"  {finding.level:8}", fg=colour, nl=False)
        echo(finding.text)
        if finding.hint:
            echo(f"          hint: {finding.hint}")


@cli.command()
@click.argument("folder", type=PATH, default=Path())
def init(folder: Path) -> None:
    """Write a script and a job.yaml that run, to begin with.

    \b
    tf-spawner init first; tf-spawner run -f first/job.yaml
    """
    from tfspawner.base.templating import templates_dir

    new = {folder / name: templates_dir() / "init" / name for name in ("train.py", "job.yaml")}
    there = [path for path in new if path.exists()]
    if there:
        raise ConfigurationError(f"{there[0]} is there already", hint="name another folder: tf-spawner init FOLDER")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, template in new.items():
            path.write_text(template.read_text())
    except OSError as error:
        raise ConfigurationError(f"{error.filename or path} cannot be written: {error.strerror}") from None
    echo("\n".join(map(str, new)))
    echo(f"run it: tf-spawner run -f {folder / 'job.yaml'}", err=True)


@cli.command()
@click.option("-n", "--namespace", help="Namespace to put into the Role.")
@click.option("--user", help="Also print a RoleBinding for this user.")
def rbac(namespace: str | None, user: str | None) -> None:
    """Print the least Role that tf-spawner needs in a namespace.

    \b
    tf-spawner rbac -n physics --user anna | kubectl apply -f -
    """
    from tfspawner.backends.kubernetes.manifests import role_manifest

    echo(role_manifest(namespace, user), nl=False)


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), required=False)
@click.option("--install", is_flag=True, help="Put it where the shell looks, instead.")
@click.option("--uninstall", is_flag=True, help="Take away what --install has put there.")
def completion(shell: str | None, install: bool, uninstall: bool) -> None:
    """Complete commands, options and jobs in bash, zsh or fish.

    Prints the script for SHELL, which is $SHELL where none is named.

    \b
    tf-spawner completion --install
    """
    from . import completion as scripts

    shell = shell or scripts.shell_of(os.environ)
    if install and uninstall:
        raise ConfigurationError("--install and --uninstall exclude each other", hint="give one of them")
    if install:
        echo(scripts.install(shell, cli))
    elif uninstall:
        echo(scripts.uninstall(shell))
    else:
        echo(scripts.script(shell, cli))


# ---- words to values, values to words ------------------------------------------------------------


def _asked(ctx: click.Context, options: dict[str, Any], recorded: dict[str, Any] | None = None) -> JobSpec | Sweep:
    from .options import make_spec

    args = (*options.pop("args"), *ctx.meta.get("script_args", ()))
    asked, notes = make_spec(options, args, recorded)
    for note in notes:
        echo(note, err=True)
    return asked


def _base(asked: JobSpec | Sweep) -> JobSpec:
    """The job, or what all jobs of a sweep have in common."""
    from tfspawner.plan.grid import Sweep

    return asked.spec if isinstance(asked, Sweep) else asked


def _target(params: Mapping[str, Any]) -> dict[str, Any]:
    return {key: params.get(key) for key in ("on", "namespace", "context", "kubeconfig")}


def _attach(job: str, target: dict[str, Any]) -> Job:
    from tfspawner.base.userfile import named, wrong_path
    from tfspawner.jobs.job import attach

    if reason := wrong_path(job):
        raise NotFoundError(f"there is no job {named(job)}: {reason}", hint="tf-spawner list")
    try:
        return attach(job, **target)
    except NotFoundError as error:
        if error.hint == "tf-spawner list" and Path("runs", job, "sweep.json").exists():
            error.hint = (
                f"{job} is a sweep, whose jobs are {job}-1 and so on: tf-spawner list; all: tf-spawner delete -t {job}"
            )
        elif error.hint == "tf-spawner list" and Path("runs", job).is_dir():
            error.hint = f"an earlier run's record: {Path('runs', job)}"
        raise


def _summaries(on: str | None, *, verbose: bool = False, **target: Any) -> tuple[list[JobSummary], list[str]]:
    """The jobs there, and what is left out; without --on, a cluster that cannot be asked is only mentioned."""
    from tfspawner.jobs.job import summaries

    left_out: list[str] = []

    def look(backend: Backend) -> list[JobSummary]:
        found = summaries(backend)
        left_out.extend(backend.left_out(thorough=verbose))
        return found

    found, warning = _ask(_backends(on, **target), look, bool(on or any(target.values())))
    if warning:
        echo(f"warning: {warning}", err=True)
    return found, left_out


def _tell_left_out(left_out: list[str], verbose: bool) -> None:
    """What is there and is no job's: each with its reason, or how many there are."""
    if verbose:
        for told in left_out:
            echo(f"left out: {one_line(told)}", err=True)
    elif left_out:
        echo(f"{len(left_out)} object{'s' * (len(left_out) > 1)} left out: tf-spawner list -v", err=True)


def _backends(on: str | None, **target: Any) -> list[Backend]:
    from tfspawner.backends.choice import backend_for

    return [backend_for(name, **target) for name in ("local", "kubernetes") if on in (None, name)]


def _ask(
    backends: list[Backend], what: Callable[[Backend], list[JobSummary]], wanted: bool
) -> tuple[list[JobSummary], str]:
    """What all backends say; and what is wrong with that, such as that a cluster that was not asked for cannot answer."""
    found: list[JobSummary] = []
    unseen = ""
    for backend in backends:
        try:
            found += what(backend)
        except SpawnerError as error:
            if wanted or backend.name == "local":
                raise
            if not isinstance(error, ConfigurationError):  # no kubeconfig: there is no cluster to ask
                unseen = f"the cluster's jobs are not shown: {error.message}"
    return found, "; ".join(filter(None, [unseen, *(summary.warning for summary in found)]))


def _note(text: str) -> None:
    echo(text, err=True)


def _notes() -> View:
    """Shows notes alone."""
    from tfspawner.follow.state import Silent

    class Notes(Silent):
        def note(self, text: str) -> None:
            echo(text, err=True)

    return Notes()


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    files = {replica.replica: [file["path"] for file in replica.files] for replica in outcome.collected}
    return {"job": outcome.job, "result": outcome.result, "folder": str(outcome.folder), "files": files,
            "seconds": round(outcome.seconds, 3), "artifacts": outcome.artifacts}  # fmt: skip


def _print_outcome(outcome: Outcome, output: str) -> None:
    if output == "json":
        print_json(_outcome_json(outcome))
        return
    from tfspawner.base.words import age
    from tfspawner.record.causes import explained

    cause = explained(outcome.cause or {})
    why = (
        f": {cause.get('replica') or ''} {cause['message']}"
        if outcome.result != "succeeded" and cause.get("message")
        else ""
    )
    took = age(outcome.seconds) if outcome.seconds else ""
    if outcome.result == "running":
        told = f"{outcome.job} still runs{took and f' ({took})'}; files so far:"
    elif outcome.result == "interrupted":
        told = f"{outcome.job}: interrupted{took and f' after {took}'}"
    else:
        told = f"{outcome.job}: {outcome.result}{took and f' in {took}'}{why}"
    echo(f"\n{told}", err=True)
    echo(f"logs:  {outcome.folder / 'logs'}", err=True)
    _print_files(outcome)
    if outcome.artifacts:
        echo(f"       {outcome.artifacts}", err=True)
    echo(f"page:  {outcome.folder / 'report.html'}", err=True)


def _print_files(outcome: Outcome) -> None:
    from tfspawner.base.words import human_bytes

    found = [(outcome.folder / "files" / r.replica / f["path"], f["size"]) for r in outcome.collected for f in r.files]
    total = human_bytes(sum(size for _, size in found))
    if not found:
        echo("files: none; what scripts write to $TFSPAWNER_OUTPUT comes back", err=True)
    elif len(found) > 6:
        echo(f"files: {outcome.folder / 'files'} ({len(found)} files, {total})", err=True)
    else:
        echo("files: " + "\n       ".join(f"{path}  {human_bytes(size)}" for path, size in found), err=True)


def _state_words(state: JobState) -> str:
    if not state.result:
        return state.phase
    if state.result == "succeeded":
        return f"succeeded; {state.without_pods}" if state.without_pods else state.result
    cause = state.cause or {}
    message = " ".join(str(cause[key]) for key in ("replica", "message") if cause.get(key))
    return f"{state.result}: {message}" if message else state.result


def _state_json(state: JobState) -> dict[str, Any]:
    from dataclasses import asdict

    replicas = [asdict(line) for line in state.replicas.values()]
    return asdict(state) | {"replicas": replicas, "gone": sorted(state.gone)}


def _summary_json(summary: JobSummary) -> dict[str, Any]:
    return {key: getattr(summary, key) for key in ("job", "on", "namespace", "tag", "state", "roles", "created")}
