"""What is to be launched: JobSpec, checked as it is made, with nothing left to be guessed later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .limits import MAX_GPUS, MAX_INT32, MAX_REPLICAS
from .options import (
    ANY_BYTES,
    BACK,
    CLUSTER_ONLY,
    FAULTS,
    FIXED,
    KUBERNETES,
    NUMBER,
    OFTEN,
    ONCE,
    OTHER,
    PAIRS,
    PATH,
    PATHS,
    PLACE,
    REPLICAS,
    SCRIPT,
    SECONDS,
    SECRET,
    SWITCH,
    TEXT,
    TEXTS,
    WHOLE_SECONDS,
    described,
    option,
    options_of,
)

DEFAULT_IMAGE = "tensorflow/tensorflow:2.21.0"
DEFAULT_PORT = 2222
RESTART_ON = ("lost", "stalled", "failed")
ROLES = ("chief", "worker", "ps", "evaluator")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """One job: a script, the replicas that run it, and where.

    Times are in seconds. Quantities are Kubernetes's, such as "4", "500m" and "8Gi". Where no default is named,
    it is none: 0, False, None or empty. "K" marks what is for Kubernetes alone: with on="local" it is refused.

    Args:
        script: the training script. Its folder travels to every replica (see workdir).
        args: the script's own arguments.
        workers: how many replicas of the role worker (2).
        chief: whether there is a chief beside the workers. Without one, worker 0 coordinates.
        ps: how many parameter servers. They need a chief and add it.
        evaluator: whether there is an evaluator beside the workers.
        gpus: how many GPUs each replica gets; parameter servers get none.
        gpu_type: which GPUs, by a part of their product's name, such as "A100". Needs gpus.
        on: "local", as processes of this machine, or "kubernetes" ("local").
        name: the job's name: lower-case letters, digits and "-" (made from the script's).
        tag: a label to list and delete jobs by.
        workdir: the folder that travels to the replicas, without what its .tfspawnerignore names (the script's).
        command_file: a shell script that replicas run in place of the training script.
        env: environment variables of the replicas. They travel in a Secret: no value stands in a manifest or record.
        env_files: the files that env was read from. They are not read again, and do not travel with the code.
        port: TensorFlow's port in each replica; on this machine the first one's, and the others count up from it
            (2222, on this machine free ones).
        collect: glob patterns of more files to bring back, such as "/tmp/mymodel*", beside $TFSPAWNER_OUTPUT.
        artifacts: s3://BUCKET/FOLDER, where logs and files are put, too. The keys to it are in env.
        out: the folder in which runs are recorded ("runs").
        timeout_s: seconds of training after which the job is ended; 0 and None are never.
        start_timeout_s: seconds in which all replicas must have started (600; 30 for pods that fit on no node).
        stall_timeout_s: seconds without output of any trainer after which the job has stalled; None is never.
        restarts: how often training is started again from its last checkpoint (0).
        restart_on: after what: "lost", a replica was killed or is gone; "stalled", none puts out anything; "failed",
            a script ended with an error (lost, stalled).
        hold_s: seconds for which an ended job waits to be collected (24 h; a failed or stored one at most 10 min).
        keep: whether the job's objects are left there after its files were collected.
        detach: whether launching is all, and nobody follows the job.
        legacy_keras: whether TF_USE_LEGACY_KERAS=1 is set where there are several workers (True).
        cpu: CPUs of each replica, a quantity. K
        memory: memory of each replica, a quantity of at least 16Mi. K
        image: the container image, with Python 3.9 or newer (tensorflow/tensorflow:2.21.0). K
        namespace: the namespace (the context's). K
        context: the kubeconfig's context (the current one). K
        kubeconfig: the kubeconfig file ($KUBECONFIG or ~/.kube/config). K
        ttl_s: whole seconds for which Kubernetes keeps an ended job's objects (24 h). K
        start_tries: how often in all to wait start_timeout_s for room; what was got is given back in between (1). K
        queue: the LocalQueue of Kueue that admits the job. K
        node_selector: labels of the nodes to run on. K
        tolerations: taints to tolerate, each KEY[=VALUE][:EFFECT]. K
        service_account: the pods' service account (none, and no token). K
        image_pull_secrets: names of Secrets for a private registry. K
        volumes: what is mounted, each CLAIM:/PATH[:ro] or /HOST/PATH:/PATH[:ro]. K
        egress: what pods may connect to beside each other and DNS, each CIDR[:PORT]; "none" is nothing more
            (anything). K
        pod_file: a Pod manifest that the replicas' pods are built on. K
        template_dir: a folder with templates that replace tf-spawner's own. K

    Raises ConfigurationError, naming the field and the value; no value of env is shown.

    >>> JobSpec(script=Path("train.py"), workers=4, ps=1).roles
    {'chief': 1, 'worker': 4, 'ps': 1}
    """

    script: Path = field(metadata=described(PATH, "", None, FIXED))
    args: tuple[str, ...] = option((), TEXTS, "", None, FIXED, ANY_BYTES)
    workers: int = option(
        2,
        NUMBER,
        "-w --workers",
        REPLICAS,
        OFTEN,
        FIXED,
        bounds=(0, MAX_REPLICAS),
        help="Workers.  [default: {default}]",
    )
    chief: bool = option(False, SWITCH, "--chief", REPLICAS, FIXED, help="A chief beside the workers.")
    ps: int = option(
        0,
        NUMBER,
        "--ps",
        REPLICAS,
        FIXED,
        bounds=(0, MAX_REPLICAS),
        help="Parameter servers; they need a chief and add it.",
    )
    evaluator: bool = option(False, SWITCH, "--evaluator", REPLICAS, FIXED, help="An evaluator beside the workers.")
    gpus: int = option(
        0,
        NUMBER,
        "--gpus",
        REPLICAS,
        OFTEN,
        FIXED,
        bounds=(0, MAX_GPUS),
        help="GPUs for each replica, but for parameter servers.",
    )
    gpu_type: str | None = option(
        None,
        TEXT,
        "--gpu-type",
        REPLICAS,
        metavar="PRODUCT",
        help='Which GPUs, by a part of their name, like "A100" or "a100-40gb".',
    )
    on: Literal["local", "kubernetes"] = option(
        "local",
        TEXT,
        "--on",
        PLACE,
        OFTEN,
        FIXED,
        choices=("local", "kubernetes"),
        help="Where to run.  [default: {default}]",
    )
    name: str | None = option(
        None, TEXT, "--name", PLACE, OFTEN, ONCE, place=1, help="The job's name.  [default: made from the script's]"
    )
    tag: str | None = option(None, TEXT, "-t --tag", PLACE, place=1, help="A tag to list and delete jobs by.")
    workdir: Path | None = option(
        None,
        PATH,
        "--workdir",
        SCRIPT,
        place=3,
        help="Folder that travels to the replicas, without what its .tfspawnerignore names.  [default: the script's]",
    )
    command_file: Path | None = option(
        None, PATH, "-c --command", SCRIPT, FIXED, help="A shell script to run instead of the training script itself."
    )
    env: Mapping[str, str] = option(
        {},
        PAIRS,
        "--env",
        SCRIPT,
        SECRET,
        place=2,
        metavar="KEY=VALUE",
        help="An environment variable; travels as a Secret.",
    )
    env_files: tuple[Path, ...] = option(
        (), PATHS, "-e --env-file", SCRIPT, OFTEN, place=1, help="File of KEY=VALUE lines; travels as a Secret."
    )
    port: int | None = option(
        None,
        NUMBER,
        "-p --port",
        SCRIPT,
        place=4,
        help=f"TensorFlow's port.  [default: {DEFAULT_PORT}; on this machine free ones]",
    )
    collect: tuple[str, ...] = option(
        (),
        TEXTS,
        "--collect",
        BACK,
        ANY_BYTES,
        place=1,
        metavar="GLOB",
        help="More files to bring back, like '/tmp/mymodel*'.",
    )
    artifacts: str | None = option(
        None,
        TEXT,
        "--artifacts",
        BACK,
        place=1,
        metavar="s3://BUCKET/FOLDER",
        help="Put logs and files into FOLDER/JOB of a bucket, too; keys from --env-file.",
    )
    out: Path = option(Path("runs"), PATH, "--out", BACK, help="Where runs are recorded.  [default: {default}]")
    timeout_s: float | None = option(
        None, SECONDS, "--timeout", FAULTS, help="End the job if it trains for longer, like 2h; 0 is never."
    )
    start_timeout_s: float | None = option(
        None,
        SECONDS,
        "--start-timeout",
        FAULTS,
        help="End the job if not all replicas are there by then.  [default: 10m; 30s for pods that fit on no node]",
    )
    stall_timeout_s: float | None = option(
        None,
        SECONDS,
        "--stall-timeout",
        FAULTS,
        place=3,
        help="A job whose trainers put nothing out for so long has stalled, and ends.  [default: never]",
    )
    restarts: int = option(
        0,
        NUMBER,
        "--restarts",
        FAULTS,
        OFTEN,
        place=2,
        bounds=(0, MAX_INT32),
        help="Restarts from the last checkpoint.  [default: {default}]",
    )
    restart_on: tuple[str, ...] = option(
        ("lost", "stalled"),
        TEXTS,
        "--restart-on",
        FAULTS,
        place=2,
        choices=RESTART_ON,
        help="After what: a replica was killed or is gone, all stand still, a script failed.  [default: {default}]",
    )
    hold_s: float = option(
        24 * 3600,
        SECONDS,
        "--hold",
        BACK,
        place=3,
        help="How long an ended job waits to be collected.  [default: 24h; a failed or stored one at most 10m]",
    )
    keep: bool = option(False, SWITCH, "--keep", BACK, place=2, help="Leave the job's objects after collecting.")
    detach: bool = option(False, SWITCH, "--detach", OTHER, OFTEN, ONCE, help="Return as soon as the job is launched.")
    legacy_keras: bool = option(
        True,
        SWITCH,
        "--no-legacy-keras",
        SCRIPT,
        FIXED,
        place=5,
        help="Do not set TF_USE_LEGACY_KERAS=1 for several workers.",
    )
    cpu: str | None = option(
        None, TEXT, "--cpu", REPLICAS, CLUSTER_ONLY, help='CPUs for each replica, like "2" or "500m".'
    )
    memory: str | None = option(
        None, TEXT, "--memory", REPLICAS, CLUSTER_ONLY, help='Memory for each replica, like "4Gi".'
    )
    image: str | None = option(
        None,
        TEXT,
        "-i --image",
        REPLICAS,
        OFTEN,
        CLUSTER_ONLY,
        FIXED,
        variable="TFSPAWNER_IMAGE",
        help=f"Container image with Python 3.9 or newer.  [default: {DEFAULT_IMAGE}]",
    )
    namespace: str | None = option(
        None, TEXT, "-n --namespace", PLACE, OFTEN, CLUSTER_ONLY, FIXED, help="Namespace.  [default: the context's]"
    )
    context: str | None = option(
        None, TEXT, "--context", PLACE, CLUSTER_ONLY, FIXED, help="Kube context.  [default: the current one]"
    )
    kubeconfig: Path | None = option(
        None,
        PATH,
        "--kubeconfig",
        PLACE,
        CLUSTER_ONLY,
        help="Kubeconfig file.  [default: $KUBECONFIG or ~/.kube/config]",
    )
    ttl_s: int | None = option(
        None,
        WHOLE_SECONDS,
        "--ttl",
        KUBERNETES,
        CLUSTER_ONLY,
        place=1,
        bounds=(0, MAX_INT32),
        help="How long Kubernetes keeps an ended job's objects.  [default: 24h]",
    )
    start_tries: int | None = option(
        None,
        NUMBER,
        "--start-tries",
        FAULTS,
        CLUSTER_ONLY,
        place=1,
        bounds=(1, MAX_INT32),
        help="If there is not room for all replicas by --start-timeout, give back what there is, wait and try again, "
        "so often in all.  [default: 1]",
    )
    queue: str | None = option(
        None, TEXT, "--queue", KUBERNETES, CLUSTER_ONLY, help="Kueue's LocalQueue that admits the job."
    )
    node_selector: Mapping[str, str] = option(
        {},
        PAIRS,
        "--node-selector",
        KUBERNETES,
        CLUSTER_ONLY,
        metavar="KEY=VALUE",
        help="Run on nodes with this label.",
    )
    tolerations: tuple[str, ...] = option(
        (),
        TEXTS,
        "--toleration",
        KUBERNETES,
        CLUSTER_ONLY,
        metavar="KEY[=VALUE][:EFFECT]",
        help="Tolerate this taint.",
    )
    service_account: str | None = option(
        None,
        TEXT,
        "--service-account",
        KUBERNETES,
        CLUSTER_ONLY,
        help="Service account of the pods.  [default: none, and no token]",
    )
    image_pull_secrets: tuple[str, ...] = option(
        (), TEXTS, "--image-pull-secret", KUBERNETES, CLUSTER_ONLY, help="Secret for a private registry."
    )
    volumes: tuple[str, ...] = option(
        (),
        TEXTS,
        "--volume",
        KUBERNETES,
        CLUSTER_ONLY,
        metavar="CLAIM:/PATH[:ro]",
        help="Mount a PersistentVolumeClaim, or a /host/path such as /eos.",
    )
    egress: tuple[str, ...] = option(
        (),
        TEXTS,
        "--egress",
        KUBERNETES,
        CLUSTER_ONLY,
        metavar="CIDR[:PORT]",
        help='Let pods connect to this, to each other and to DNS alone; "none": to no more.  [default: anywhere]',
    )
    pod_file: Path | None = option(
        None, PATH, "--pod-file", KUBERNETES, CLUSTER_ONLY, help="A Pod manifest to build the replicas' pods on."
    )
    template_dir: Path | None = option(
        None,
        PATH,
        "--template-dir",
        KUBERNETES,
        CLUSTER_ONLY,
        help="Folder with templates that replace tf-spawner's own.",
    )

    def __post_init__(self) -> None:
        from . import checks  # not above: --help needs the fields alone, and is to be quick

        values = {name: getattr(self, name) for name in OPTIONS}
        for name, value in checks.converted(values, OPTIONS).items():
            object.__setattr__(self, name, value)
        checks.check_files(script=self.script, command_file=self.command_file, pod_file=self.pod_file)
        checks.check_folders(workdir=self.workdir, template_dir=self.template_dir)
        checks.check_inside(self.script, self.script_path, self.workdir, self.folder)
        checks.check_place(self.on)
        for name, one in OPTIONS.items():
            checks.check_bounds(name, getattr(self, name), one)
        checks.check_roles(self.workers, self.ps, self.has_chief, sum(self.roles.values()))
        checks.check_names(self.name, self.tag, self.queue)
        checks.check_gpu_type(self.gpu_type, self.gpus)
        checks.check_words(self.namespace, self.artifacts, self.image)
        checks.check_quantity("cpu", self.cpu)
        checks.check_quantity("memory", self.memory)
        checks.check_port(self.port, self.on, len(self.replicas), DEFAULT_PORT)
        checks.check_start_tries(self.start_tries, self.detach)
        checks.check_restart_on(self.restart_on, RESTART_ON)
        for name, one in OPTIONS.items():
            if one.kind is SECONDS:
                checks.check_seconds(name, getattr(self, name))
        checks.check_collect(self.collect)
        checks.check_egress(self.egress)
        checks.check_env(self.env, self.on)
        if self.on == "local":
            given_flags = [flag_of(name) for name in KUBERNETES_ONLY if getattr(self, name)]
            checks.check_kubernetes_only(given_flags)

    @property
    def roles(self) -> dict[str, int]:
        """Replicas per role, in TF_CONFIG's order; the first role's replica 0 coordinates."""
        counts = {"chief": int(self.has_chief), "worker": self.workers, "ps": self.ps, "evaluator": int(self.evaluator)}
        return {role: count for role, count in counts.items() if count}

    @property
    def replicas(self) -> list[str]:
        """Their names, role-index; the first coordinates."""
        return [f"{role}-{index}" for role, count in self.roles.items() for index in range(count)]

    @property
    def gpu_replicas(self) -> list[str]:
        """Those that get --gpus: parameter servers hold variables, and need none."""
        return [replica for replica in self.replicas if self.gpus and not replica.startswith("ps-")]

    @property
    def has_chief(self) -> bool:
        """Parameter servers need a coordinating chief, so asking for them asks for it."""
        return self.chief or self.ps > 0

    @property
    def folder(self) -> Path:
        """The folder that travels to the replicas: --workdir, else the script's own."""
        return (self.workdir or self.script.parent).resolve()

    @property
    def script_path(self) -> Path:
        """The script's own path, its folder resolved; it may itself be a link."""
        return self.script.parent.resolve() / self.script.name


OPTIONS = options_of(JobSpec)
KUBERNETES_ONLY = tuple(name for name, one in OPTIONS.items() if CLUSTER_ONLY in one.traits)


def flag_of(name: str) -> str:
    """The command line's flag for a JobSpec field."""
    return OPTIONS[name].flag
