"""The flags of the command line that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


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


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    """The script and the options that describe a job; `run`, `check` and `render` share them."""
    return click.argument("script", required=False, type=PATH)(job_options(command))


def job_options(command: Callable[..., None]) -> Callable[..., None]:
    """The script's arguments and the options that describe a job."""
    options = [
        click.argument("args", nargs=-1, type=click.UNPROCESSED),
        click.option("-w", "--workers", type=int, help="Workers.  [default: 2]"),
        click.option("--chief", is_flag=True, default=None, help="A chief beside the workers."),
        click.option("--ps", type=int, help="Parameter servers; they need a chief and add it."),
        click.option("--evaluator", is_flag=True, default=None, help="An evaluator beside the workers."),
        click.option("--gpus", type=int, help="GPUs for each replica (none for parameter servers)."),
        click.option("--gpu-type", metavar="PRODUCT", help='Which GPUs, by a part of their name, like "A100" or "a100-40gb".'),
        click.option("--cpu", help='CPUs for each replica, like "2" or "500m".'),
        click.option("--memory", help='Memory for each replica, like "4Gi".'),
        click.option("-i", "--image", envvar="TFSPAWNER_IMAGE", show_envvar=True, help="Container image with Python 3.9 or newer.  [default: tensorflow/tensorflow:2.21.0]"),
        click.option("-c", "--command", "command_file", type=PATH, help="A shell script to run instead of the training script itself."),
        click.option("-e", "--env-file", "env_files", type=PATH, multiple=True, help="File of KEY=VALUE lines; travels as a Secret."),
        click.option("--env", "env_pairs", multiple=True, metavar="KEY=VALUE", help="An environment variable; travels as a Secret."),
        click.option("--on", type=click.Choice(["local", "kubernetes"]), help="Where to run.  [default: local]"),
        click.option("-n", "--namespace", help="Namespace.  [default: the context's]"),
        click.option("--context", help="Kube context.  [default: the current one]"),
        click.option("--kubeconfig", type=PATH, help="Kubeconfig file.  [default: $KUBECONFIG or ~/.kube/config]"),
        click.option("-p", "--port", type=int, help="TensorFlow's port.  [default: 2222; on this machine free ones]"),
        click.option("--name", help="The job's name.  [default: made from the script's, or its folder's]"),
        click.option("-t", "--tag", help="A tag to list and delete jobs by."),
        click.option("--workdir", type=PATH, help="Folder that travels to the replicas, without what its .tfspawnerignore names.  [default: the script's]"),
        click.option("--collect", multiple=True, metavar="GLOB", help="More files to bring back, like '/tmp/mymodel*'."),
        click.option("--artifacts", metavar="s3://BUCKET/FOLDER", help="Put logs and files into FOLDER/JOB of a bucket, too; keys from --env-file."),
        click.option("--out", type=PATH, help="Where runs are recorded.  [default: runs]"),
        click.option("--timeout", "timeout_s", type=DURATION, help="End the job if it trains for longer, like 2h."),
        click.option("--start-timeout", "start_timeout_s", type=DURATION, help="End the job if not all replicas are there by then.  [default: 10m; 30s for pods that fit on no node]"),
        click.option("--start-tries", type=int, help="If there is not room for all replicas by --start-timeout, give back what there is, wait and try again, so often in all.  [default: 1]"),
        click.option("--restarts", type=int, help="Start all replicas again, from the last checkpoint, up to so many times.  [default: 0]"),
        click.option("--restart-on", multiple=True, type=click.Choice(["lost", "stalled", "failed"]), help="After what: a replica was killed or is gone, all stand still, a script failed.  [default: lost, stalled]"),
        click.option("--stall-timeout", "stall_timeout_s", type=DURATION, help="A job whose trainers put nothing out for so long has stalled, and ends.  [default: never]"),
        click.option("--hold", "hold_s", type=DURATION, help="How long an ended job waits to be collected.  [default: 24h; a failed or stored one at most 10m]"),
        click.option("--ttl", "ttl_s", type=DURATION, help="How long Kubernetes keeps an ended job's objects.  [default: 24h]"),
        click.option("--queue", help="Kueue's LocalQueue that admits the job."),
        click.option("--node-selector", "node_selector_pairs", multiple=True, metavar="KEY=VALUE", help="Run on nodes with this label."),
        click.option("--toleration", "tolerations", multiple=True, metavar="KEY[=VALUE][:EFFECT]", help="Tolerate this taint."),
        click.option("--service-account", help="Service account of the pods.  [default: none, and no token]"),
        click.option("--image-pull-secret", "image_pull_secrets", multiple=True, help="Secret for a private registry."),
        click.option("--volume", "volumes", multiple=True, metavar="CLAIM:/PATH[:ro]", help="Mount a PersistentVolumeClaim, or a /host/path such as /eos."),
        click.option("--pod-file", type=PATH, help="A Pod manifest to build the replicas' pods on."),
        click.option("--template-dir", type=PATH, help="Folder with templates that replace tf-spawner's own."),
        click.option("--grid", multiple=True, metavar="NAME=V1,V2", help="A job for each value, which its script gets as --NAME=VALUE; given again, for each combination."),
        click.option("--parallel", type=int, help="Jobs of --grid at a time.  [default: 1]"),
        click.option("--keep", is_flag=True, default=None, help="Leave the job's objects after collecting."),
        click.option("--no-legacy-keras", "legacy_keras", flag_value=False, default=None, help="Do not set TF_USE_LEGACY_KERAS=1 for several workers."),
        click.option("-f", "--file", "job_file", type=PATH, help="A YAML file with any of these options; flags win."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


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
    return click.option(
        "-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print the result."
    )(command)
