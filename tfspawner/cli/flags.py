"""The flags of the command line that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tfspawner.base.terminal import echo


class Duration(click.ParamType):  # type: ignore[type-arg] # not generic before click 8.4
    """Seconds, or a number with s, m, h or d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from .options import duration

        try:
            return duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = Duration()
PATH = click.Path(path_type=Path)


class JobOption(click.Option):
    """An option that describes a job: its section in --help-all, and whether --help shows it, too."""

    def __init__(self, *words: Any, section: str, often: bool = False, **attributes: Any) -> None:
        super().__init__(*words, **attributes)
        self.section, self.often = section, often


class JobCommand(click.Command):
    """A command with the options that describe a job: --help shows those that are needed often, --help-all all of them.

    What stands behind -- goes to the script; options may stand before and after SCRIPT.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            cut = args.index("--")
            args, rest = args[:cut], args[cut + 1 :]
            ctx.meta["script_args"] = tuple(rest)
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), HELP_ALL]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if not record:
                continue
            if not isinstance(param, JobOption):
                sections.setdefault("Options", []).append(record)
            elif ctx.meta.get("help_all"):
                sections.setdefault(param.section, []).append(record)
            elif param.often:
                sections.setdefault("Options", []).append((record[0], param.help or ""))
        for title, records in sorted(sections.items(), key=lambda section: section[0] == "Options"):
            with formatter.section(title):
                formatter.write_dl(records)


def _show_all(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta["help_all"] = True
        echo(ctx.get_help())
        ctx.exit()


HELP_ALL = click.Option(
    ["--help-all"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_all,
    help="Show all options and exit.",
)


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    """The script and the options that describe a job; `run`, `check` and `render` share them."""
    return click.argument("script", required=False, type=PATH)(job_options(command))


def job_options(command: Callable[..., None]) -> Callable[..., None]:
    """The script's arguments and the options that describe a job, for a JobCommand."""
    sections = {
        "Replicas": [
            _flag("-w", "--workers", type=int, often=True, help="Workers.  [default: 2]"),
            _flag("--chief", is_flag=True, default=None, help="A chief beside the workers."),
            _flag("--ps", type=int, help="Parameter servers; they need a chief and add it."),
            _flag("--evaluator", is_flag=True, default=None, help="An evaluator beside the workers."),
            _flag("--gpus", type=int, often=True, help="GPUs for each replica, but for parameter servers."),
            _flag("--gpu-type", metavar="PRODUCT", help='Which GPUs, by a part of their name, like "A100" or "a100-40gb".'),
            _flag("--cpu", help='CPUs for each replica, like "2" or "500m".'),
            _flag("--memory", help='Memory for each replica, like "4Gi".'),
            _flag("-i", "--image", envvar="TFSPAWNER_IMAGE", show_envvar=True, often=True, help="Container image with Python 3.9 or newer.  [default: tensorflow/tensorflow:2.21.0]"),
        ],
        "Script": [
            _flag("-c", "--command", "command_file", type=PATH, help="A shell script to run instead of the training script itself."),
            _flag("-e", "--env-file", "env_files", type=PATH, multiple=True, often=True, help="File of KEY=VALUE lines; travels as a Secret."),
            _flag("--env", "env_pairs", multiple=True, metavar="KEY=VALUE", help="An environment variable; travels as a Secret."),
            _flag("--workdir", type=PATH, help="Folder that travels to the replicas, without what its .tfspawnerignore names.  [default: the script's]"),
            _flag("-p", "--port", type=int, help="TensorFlow's port.  [default: 2222; on this machine free ones]"),
            _flag("--no-legacy-keras", "legacy_keras", flag_value=False, default=None, help="Do not set TF_USE_LEGACY_KERAS=1 for several workers."),
            _flag("-f", "--file", "job_file", type=PATH, often=True, help="A YAML file with any of these options; flags win."),
        ],
        "Place and name": [
            _flag("--on", type=click.Choice(["local", "kubernetes"]), often=True, help="Where to run.  [default: local]"),
            _flag("-n", "--namespace", often=True, help="Namespace.  [default: the context's]"),
            _flag("--context", help="Kube context.  [default: the current one]"),
            _flag("--kubeconfig", type=PATH, help="Kubeconfig file.  [default: $KUBECONFIG or ~/.kube/config]"),
            _flag("--name", often=True, help="The job's name.  [default: made from the script's]"),
            _flag("-t", "--tag", help="A tag to list and delete jobs by."),
        ],
        "What comes back": [
            _flag("--out", type=PATH, help="Where runs are recorded.  [default: runs]"),
            _flag("--collect", multiple=True, metavar="GLOB", help="More files to bring back, like '/tmp/mymodel*'."),
            _flag("--artifacts", metavar="s3://BUCKET/FOLDER", help="Put logs and files into FOLDER/JOB of a bucket, too; keys from --env-file."),
            _flag("--keep", is_flag=True, default=None, help="Leave the job's objects after collecting."),
            _flag("--hold", "hold_s", type=DURATION, help="How long an ended job waits to be collected.  [default: 24h; a failed or stored one at most 10m]"),
        ],
        "Time and faults": [
            _flag("--timeout", "timeout_s", type=DURATION, help="End the job if it trains for longer, like 2h; 0 is never."),
            _flag("--start-timeout", "start_timeout_s", type=DURATION, help="End the job if not all replicas are there by then.  [default: 10m; 30s for pods that fit on no node]"),
            _flag("--start-tries", type=int, help="If there is not room for all replicas by --start-timeout, give back what there is, wait and try again, so often in all.  [default: 1]"),
            _flag("--restarts", type=int, often=True, help="Restarts from the last checkpoint.  [default: 0]"),
            _flag("--restart-on", multiple=True, type=click.Choice(["lost", "stalled", "failed"]), help="After what: a replica was killed or is gone, all stand still, a script failed.  [default: lost, stalled]"),
            _flag("--stall-timeout", "stall_timeout_s", type=DURATION, help="A job whose trainers put nothing out for so long has stalled, and ends.  [default: never]"),
        ],
        "Sweeps": [
            _flag("--grid", multiple=True, metavar="NAME=V1,V2", often=True, help="A job for each value of --NAME; repeatable."),
            _flag("--parallel", type=int, help="Jobs of --grid at a time.  [default: 1]"),
        ],
        "Kubernetes": [
            _flag("--queue", help="Kueue's LocalQueue that admits the job."),
            _flag("--node-selector", "node_selector_pairs", multiple=True, metavar="KEY=VALUE", help="Run on nodes with this label."),
            _flag("--toleration", "tolerations", multiple=True, metavar="KEY[=VALUE][:EFFECT]", help="Tolerate this taint."),
            _flag("--service-account", help="Service account of the pods.  [default: none, and no token]"),
            _flag("--image-pull-secret", "image_pull_secrets", multiple=True, help="Secret for a private registry."),
            _flag("--volume", "volumes", multiple=True, metavar="CLAIM:/PATH[:ro]", help="Mount a PersistentVolumeClaim, or a /host/path such as /eos."),
            _flag("--egress", multiple=True, metavar="CIDR[:PORT]", help='Let pods connect to this, to each other and to DNS alone; "none": to no more.  [default: anywhere]'),
            _flag("--pod-file", type=PATH, help="A Pod manifest to build the replicas' pods on."),
            _flag("--template-dir", type=PATH, help="Folder with templates that replace tf-spawner's own."),
            _flag("--ttl", "ttl_s", type=DURATION, help="How long Kubernetes keeps an ended job's objects.  [default: 24h]"),
        ],
    }  # fmt: skip
    for section, flags in reversed(sections.items()):
        for words, attributes in reversed(flags):
            command = click.option(*words, cls=JobOption, section=section, **attributes)(command)
    return click.argument("args", nargs=-1, type=click.UNPROCESSED)(command)


def _flag(*words: str, **attributes: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    return words, attributes


def target_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say where to look for jobs."""
    for option in reversed([
        click.option("--on", type=click.Choice(["local", "kubernetes"]), help="Look only there.  [default: here, then the cluster]"),
        click.option("-n", "--namespace", help="Namespace.  [default: the context's]"),
        click.option("--context", help="Kube context.  [default: the current one]"),
        click.option("--kubeconfig", type=PATH, help="Kubeconfig file."),
    ]):  # fmt: skip
        command = option(command)
    return command


def output_option(command: Callable[..., None]) -> Callable[..., None]:
    """The option --output: text or json."""
    return click.option(
        "-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print the result."
    )(command)
