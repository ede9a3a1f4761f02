"""run, rerun, check and render."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfspawner.base.terminal import echo, print_json, show_table
from tfspawner.errors import Command, ConfigurationError, Hint, SpawnerError

from .flags import output_option
from .hints import placed
from .job_command import JobCommand, run_arguments, script_arguments
from .printing import notes, outcome_json, print_outcome
from .target import base_of, complete_run, request_of

if TYPE_CHECKING:
    from tfspawner.plan.grid import Sweep
    from tfspawner.plan.spec import JobSpec


@click.command(cls=JobCommand, extra=("detach",))
@run_arguments
@output_option
@click.pass_context
def run(ctx: click.Context, /, output: str, **options: Any) -> None:
    """Run SCRIPT on N workers, show logs, bring the model back.

    What the replicas write to $TFSPAWNER_OUTPUT comes back to runs/JOB/files.

    \b
    tf-spawner run train.py -w 4 -- --epochs 10
    """
    _run(request_of(ctx, options), output)


@click.command(cls=JobCommand)
@click.argument("recorded", metavar="RUN", shell_complete=complete_run)
@script_arguments
@output_option
@click.pass_context
def rerun(ctx: click.Context, /, recorded: str, output: str, **options: Any) -> None:
    """Run again what RUN's record tells of, with changes by flags.

    RUN is of runs/, or a folder. Give the values of variables again.

    \b
    tf-spawner rerun digits-7xk2p -w 4 -- --epochs 20
    """
    from tfspawner.record.folder import run_folder
    from tfspawner.record.reading import read_whole

    from .options import recorded_options, recorded_sweep

    folder = run_folder(recorded, options["out"] or Path("runs"))
    stored, swept = read_whole(folder)
    place = folder if folder.name not in ("", "..") else folder.resolve()
    former = recorded_sweep(swept) if swept else recorded_options(stored)
    former["out"] = place.parent  # whatever the record says
    try:
        request = request_of(ctx, options, former)
    except ConfigurationError as error:
        message = error.message if len(error.message) <= 500 else f"{error.message[:500]}…"
        raise ConfigurationError(f"what {folder} records, with what is given: {message}", hint=error.hint) from None
    missing = [name for name in stored.get("env", []) if name not in base_of(request).env]
    if missing:
        raise ConfigurationError(
            f"{recorded} had the variables {', '.join(missing)}, whose values no record has",
            hint="give --env-file, or --env",
        )
    _run(request, output)


def _run(request: JobSpec | Sweep, output: str) -> None:
    from tfspawner.plan.grid import Sweep

    if isinstance(request, Sweep):
        _run_sweep(request, output)
    else:
        _run_job(request, output)


def _run_sweep(sweep: Sweep, output: str) -> None:
    from tfspawner.jobs.sweeps import run_sweep
    from tfspawner.views.results import result_table
    from tfspawner.views.sweep import make_sweep_view

    view = make_sweep_view()
    try:
        outcome = run_sweep(sweep, view)
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
        launched = launch(spec, notes())
        if output == "json":
            print_json({"job": launched.name, "on": spec.on, "replicas": list(launched.replicas)})
        else:
            echo(launched.name)
            logs, fetch = Command("logs", "-f", launched.name), Command("fetch", launched.name)
            echo(placed(Hint("follow it: ", logs, "\nbring it home: ", fetch)), err=True)
        return
    view = make_view(logs=output == "text")
    try:
        outcome = run(spec, view)
    except SpawnerError as error:
        if output == "json":
            result = outcome_json(error.outcome) if error.outcome else {"result": "error"}
            missing = {"missing": error.missing.message} if error.missing else {}
            print_json({**result, "error": error.message, "hint": error.hint, **missing})
        raise
    finally:
        view.finish()
    print_outcome(outcome, output)


@click.command(cls=JobCommand)
@run_arguments
@output_option
@click.pass_context
def render(ctx: click.Context, /, output: str, **options: Any) -> None:
    """Print the manifests that run would create, without secrets.

    \b
    tf-spawner render train.py -w 4 | kubectl diff -f -
    """
    options["on"] = "kubernetes"
    request = request_of(ctx, options)
    from tfspawner.backends.kubernetes.manifests import redacted, to_yaml
    from tfspawner.backends.kubernetes.manifests import render as render_plan
    from tfspawner.jobs.prepare import new_name, prepare
    from tfspawner.plan.grid import Sweep, shown

    if isinstance(request, Sweep):
        name, values = new_name(request.spec), request.points[0]
        echo(f"point 1 of {len(request.points)}: {shown(values)}", err=True)
        request = request.job(name, f"{name}-1", values)
    _, plan = prepare(request, check=False)
    for note in plan.notes:
        echo(f"note: {note}", err=True)
    manifests = redacted(render_plan(plan))
    if output == "json":
        print_json({"apiVersion": "v1", "kind": "List", "items": manifests})
    else:
        echo(to_yaml(manifests), nl=False)


@click.command(cls=JobCommand)
@run_arguments
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
    request = request_of(ctx, options)
    from tfspawner.jobs.prepare import prepare
    from tfspawner.plan.grid import Sweep

    spec, points = base_of(request), len(request.points) if isinstance(request, Sweep) else None
    if isinstance(request, Sweep):
        from tfspawner.jobs.sweep_plan import prepare as prepare_sweep

        plan = prepare_sweep(request).plan
    else:
        _, plan = prepare(request)
    warnings = [*plan.warnings, *(_check_data(uris, spec) if uris else [])]
    if output == "json":
        print_json(
            {
                "job": plan.job,
                "on": spec.on,
                "replicas": spec.replicas,
                "warnings": warnings,
                **({"points": points} if points else {}),
            }
        )
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
    """Lists the data; returns warnings about files that suit the number of workers badly."""
    from tfspawner.base.words import human_bytes
    from tfspawner.data.filesystems import list_files

    files = list_files(uris)
    workers = spec.workers + spec.has_chief
    echo(f"data: {len(files)} files, {human_bytes(sum(file.size for file in files))}", err=True)
    if len(files) < workers:
        return [
            f"{len(files)} files for {workers} workers: TensorFlow's own sharding by files needs one for each; "
            "tfspawner.data and tf-spawner data convert --shards divide them"
        ]
    empty = [file.uri for file in files if not file.size]
    return [f"{len(empty)} of the files are empty, such as {empty[0]}"] if empty else []
