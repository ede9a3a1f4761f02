"""init, doctor, rbac and completion."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfspawner.base.terminal import echo, print_json
from tfspawner.errors import ClusterError, ConfigurationError

from .flags import PATH, output_option, target_options
from .hints import PlacedCommand

if TYPE_CHECKING:
    from .doctor import Finding


@click.command(cls=PlacedCommand)
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
        findings += looks.cluster(target, required=bool(on or any(target.values())))
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


@click.command()
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
            path.write_bytes(template.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"{error.filename or path} cannot be written: {error.strerror}") from None
    echo("\n".join(map(str, new)))
    echo(f"run it: tf-spawner run -f {folder / 'job.yaml'}", err=True)


@click.command()
@click.option("-n", "--namespace", help="Namespace to put into the Role.")
@click.option("--user", help="Also print a RoleBinding for this user.")
def rbac(namespace: str | None, user: str | None) -> None:
    """Print the least Role that tf-spawner needs in a namespace.

    \b
    tf-spawner rbac -n physics --user anna | kubectl apply -f -
    """
    from tfspawner.backends.kubernetes.manifests import role_manifest

    echo(role_manifest(namespace, user), nl=False)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), required=False)
@click.option("--install", is_flag=True, help="Put it where the shell looks, instead.")
@click.option("--uninstall", is_flag=True, help="Take away what --install has put there.")
@click.pass_context
def completion(ctx: click.Context, shell: str | None, install: bool, uninstall: bool) -> None:
    """Complete commands, options and jobs in bash, zsh or fish.

    Prints the script for SHELL, which is $SHELL where none is named.

    \b
    tf-spawner completion --install
    """
    from . import completion as scripts

    group = ctx.find_root().command
    shell = shell or scripts.shell_of(os.environ)
    if install and uninstall:
        raise ConfigurationError("--install and --uninstall exclude each other", hint="give one of them")
    if install:
        echo(scripts.install(shell, group))
    elif uninstall:
        echo(scripts.uninstall(shell))
    else:
        echo(scripts.script(shell, group))
