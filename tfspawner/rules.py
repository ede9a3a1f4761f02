"""The rules by which a script is judged: what is plain to see, and sure or very likely to go wrong.

A warning that is wrong costs more than one that is missing. Where a rule rests on how TensorFlow 2.21 and tf-keras
behave with two workers, that was tried.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .reading import UNKNOWN, Call, Import, Script
from .training import fit_calls, only_chief_fits, own_keras, save_calls, saved_path, trains

_SEVERAL = r"MultiWorkerMirroredStrategy|CollectiveAllReduceStrategy"
_ONE_MACHINE = ("MirroredStrategy", "OneDeviceStrategy", "CentralStorageStrategy")
_SHARES_WORK = (
    rf"{_SEVERAL}|ParameterServer|horovod|byteps|TF_CONFIG|TOT_WORKERS|WORKER_NUMBER|TFSPAWNER_(INDEX|ROLE|JOB)|ClusterSpec"
    r"|ClusterResolver|[Ee]stimator|mpi4py|\bray\b|torch|\bjax\b|dtensor|distribution|SLURM|HOSTNAME|gethostname"
)
_SCALED = (
    r"(?i)replica|tot_workers|num_?workers|n_?workers|workers?_(num|count)|world_?size|global_?batch|per_(worker|gpu)"
    r"|TF_CONFIG|distribute_datasets_from_function"
)
_CARRIES_ON = r"BackupAndRestore|CheckpointManager|restore|latest_checkpoint|load_weights|load_model|[Ee]stimator"
_CARRIES_AWAY = r"boto|s3fs|fsspec|minio|subprocess|shutil|\bsystem\b|gfile|upload|copy|zip|tar|XRootD|requests|mlflow|wandb|storage"
_SHARED = re.compile(r"[a-z0-9]+://|/(eos|afs|nfs|mnt|shared)/")
_URI = re.compile(r"([a-z][a-z0-9+]+)://")
_HOME = re.compile(r"/home/(?!jovyan/)[^/\s]+/\S|/Users/[^/\s]+/\S|[A-Za-z]:[\\/]\w")
_STOCK = re.compile(r"(?:.*/)?tensorflow/tensorflow(?::((?:\d+\.(\d+)|latest|nightly)\S*))?")
_STARTS_CONTEXT = re.compile(
    r"tensorflow\.(constant|Variable|zeros|ones|cast|range|reshape|stack|concat|one_hot|convert_to_tensor|matmul|add"
    r"|reduce_\w+|random\.(normal|uniform|shuffle|truncated_normal|Generator\.\w+)|config\.list_logical_devices"
    r"|data\.(Dataset\.\w+|TFRecordDataset|TextLineDataset|experimental\.make_csv_dataset)|summary\.create_file_writer"
    r"|keras\.(metrics|optimizers)\.[A-Z]\w+|keras\.(models\.)?Sequential)"
)
_TENSORFLOW_1 = re.compile(
    r"tensorflow\.(contrib|Session|InteractiveSession|placeholder|app|flags|logging|ConfigProto|get_variable|layers"
    r"|global_variables_initializer|set_random_seed|reset_default_graph|get_default_graph|variable_scope|python_io"
    r"|enable_eager_execution|train\.(Adam|GradientDescent|Momentum|RMSProp|Adagrad)Optimizer|train\.Saver"
    r"|summary\.FileWriter|parse_single_example|decode_raw|truncated_normal|random_uniform|to_float)\b"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing in the script: `is_error` where it is sure to fail; `line` counts from 1."""

    kind: str
    line: int | None
    message: str
    hint: str
    is_error: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What the rules have to know of the job, and of where the script lies."""

    workers: int
    gpus: int
    image: str | None
    legacy_keras: bool
    on: str
    s3_plugin: bool
    restarts: int
    local_modules: frozenset[str]
    mounts: tuple[str, ...]
    collect: tuple[str, ...]


# ---- what rules ask -------------------------------------------------------------------------------


def _warn(kind: str, at: ast.AST | Call | Import | None, message: str, hint: str) -> Finding:
    node = at.node if isinstance(at, Call | Import) else at
    return Finding(kind=kind, line=getattr(node, "lineno", None), message=message, hint=hint)


def _has_helpers(script: Script, job: Job) -> bool:
    """Whether it imports modules of its own folder, which are not read."""
    return any(
        found.name.startswith(".") or found.name.partition(".")[0] in job.local_modules for found in script.imports
    )


def _is_keras_3(script: Script, job: Job) -> bool:
    """Whether tf.keras is Keras 3: by the job, unless the script says otherwise in time."""
    settings = [setting for setting in script.settings if setting.name == "TF_USE_LEGACY_KERAS"]
    if not settings:
        return not job.legacy_keras
    return script.text(settings[0].value) in ("0", "False", "false")


def _is_shared(path: str, job: Job) -> bool:
    """Whether every replica finds the same place at this path; one that is not absolute is each worker's own."""
    if UNKNOWN in path:
        return False
    if _SHARED.match(path):
        return True
    if job.on == "local":
        return path.startswith(("/", "~/"))
    return any(f"{path}/".startswith(f"{mount.rstrip('/')}/") for mount in job.mounts)


def _has_new_tensorflow(job: Job) -> bool:
    """Whether the job's TensorFlow is 2.17 or newer, as far as the image's name tells it."""
    if job.image is None:
        return True
    match = _STOCK.fullmatch(job.image)
    return bool(match) and (match[2] is None or int(match[2]) >= 17)  # type: ignore[index]  # bool() hides it


# ---- the rules ------------------------------------------------------------------------------------


def _keras_3(script: Script, job: Job) -> Iterator[Finding]:
    """keras-team/keras#20585."""
    fits = fit_calls(script)
    if not fits or not script.mentions(_SEVERAL):
        return
    if own_keras(script) and not script.mentions("KERAS_BACKEND"):
        yield _warn(
            "keras-3", fits[0], "the script imports keras itself, which is Keras 3: its model.fit fails under "
            "MultiWorkerMirroredStrategy with several workers", "import it as: from tensorflow import keras",
        )  # fmt: skip
    elif _is_keras_3(script, job) and any(call.name.startswith("tensorflow.keras.") for call in script.calls):
        yield _warn(
            "keras-3", fits[0], "tf.keras is Keras 3 here, whose model.fit fails under MultiWorkerMirroredStrategy with "
            "several workers", "leave out --no-legacy-keras and any TF_USE_LEGACY_KERAS=0, so that tf.keras is tf-keras",
        )  # fmt: skip


def _legacy_keras_late(script: Script, job: Job) -> Iterator[Finding]:
    """TensorFlow looks at the variable as it is imported, and again at the first use of tf.keras."""
    seen, by_name = False, any(found.name.startswith("tensorflow.keras") for found in script.imports)
    for event in script.events:
        if isinstance(event, Import) and event.name.partition(".")[0] == "tensorflow":
            seen = True
        if seen and by_name and event.name == "TF_USE_LEGACY_KERAS" and not isinstance(event, Call | Import):
            if not job.legacy_keras and script.text(event.value) in ("1", "True", "true"):
                yield _warn(
                    "legacy-keras-late", event.node, "TF_USE_LEGACY_KERAS is set after TensorFlow is imported, which is "
                    "too late for what is imported from tensorflow.keras", "set it before the first import of tensorflow",
                )  # fmt: skip
            return


def _no_strategy(script: Script, job: Job) -> Iterator[Finding]:
    if not trains(script) or _has_helpers(script, job) or script.mentions(_SHARES_WORK) or _one_machine(script):
        return
    at = next(iter(fit_calls(script)), None)
    yield _warn(
        "no-strategy", at, f"the script has no distribution strategy: {job.workers} workers would each train a model alone",
        "make and compile the model under tf.distribute.MultiWorkerMirroredStrategy().scope(), or ask for one worker: -w 1",
    )  # fmt: skip


def _one_machine(script: Script) -> Call | None:
    calls = (call for call in script.calls if call.name.startswith("tensorflow.distribute."))
    return next((call for call in calls if call.method in _ONE_MACHINE), None)


def _one_machine_strategy(script: Script, job: Job) -> Iterator[Finding]:
    call = _one_machine(script)
    if call and not script.mentions(_SHARES_WORK) and not _has_helpers(script, job):
        yield _warn(
            "one-machine-strategy", call, f"{call.method} is for the devices of one machine: {job.workers} workers would "
            "each train a model alone", "use tf.distribute.MultiWorkerMirroredStrategy",
        )  # fmt: skip


def _outside_scope(script: Script, job: Job) -> Iterator[Finding]:
    strategies = [call for call in script.calls if re.search(rf"({_SEVERAL}|\bMirroredStrategy)$", call.name)]
    fits = [call for call in fit_calls(script) if call.where.reached]
    made = [call for call in script.calls if script.is_model(call.name)]
    if not (strategies and fits and made) or _has_helpers(script, job) or _strategy_is_passed_on(script):
        return
    if any(call.where.in_scope or not call.where.reached for call in [*made, *fits]):
        return
    yield _warn(
        "outside-scope", made[-1], "the model is made outside strategy.scope(), so the strategy does not reach it",
        "make and compile the model inside: with strategy.scope():",
    )  # fmt: skip


def _strategy_is_passed_on(script: Script) -> bool:
    """Whether the strategy is set for all that follows, or handed to something that may open its scope."""
    if script.mentions("experimental_set_strategy|enter_context|__enter__|distribution_strategy|train_distribute"):
        return True
    given = [arg for call in script.calls for arg in [*call.node.args, *(k.value for k in call.node.keywords)]]
    return any(isinstance(arg, ast.Name) and "strategy" in arg.id.lower() for arg in given)


def _shared_path(script: Script, job: Job) -> Iterator[Finding]:
    if script.mentions("ParameterServer"):  # its coordinator alone runs the script
        return
    for call, path in save_calls(script):
        if call.where.role is None and _is_shared(path, job):
            yield _warn(
                "shared-path", call, f"every worker saves to {path}, all of them at once",
                'save to os.environ["TFSPAWNER_OUTPUT"], which is each worker\'s own; worker 0\'s is the model',
            )  # fmt: skip
    if not script.mentions("horovod"):  # under a strategy, tf-keras's ModelCheckpoint lets the chief's file stand alone
        return
    for call in [call for call in script.calls if call.method == "ModelCheckpoint" and call.where.role is None]:
        if _is_shared(script.text(call.argument(0, "filepath")), job):
            yield _warn(
                "shared-path", call, "every worker's ModelCheckpoint writes to one file", "give it to rank 0 alone"
            )


def _chief_saves(script: Script, job: Job) -> Iterator[Finding]:
    """model.save, save_weights to HDF5 and tf.saved_model.save read all workers' variables; export() does not."""
    if not script.mentions(_SEVERAL) or _is_keras_3(script, job) or not script.mentions(r"^keras$|\.keras|keras"):
        return
    if (
        own_keras(script) or not fit_calls(script) or only_chief_fits(script)
    ):  # without fit there are no metrics to be read from all
        return
    saves = [call for call in script.calls if call.method != "export" and saved_path(script, call) is not None]
    callbacks = [call for call in script.calls if call.method == "ModelCheckpoint"]
    for calls in (saves, callbacks):
        alone = [
            call for call in calls if call.where.role == "chief" and call.where.reached and _is_collective(script, call)
        ]
        if alone and not any(call.where.role == "others" for call in calls):
            yield _warn(
                "chief-saves", alone[0], f"only the chief calls {alone[0].method}, and under MultiWorkerMirroredStrategy "
                "every worker takes part in it: the chief would wait and fail, and leave a file that is not whole",
                'let every worker save, each to os.environ["TFSPAWNER_OUTPUT"]; worker 0\'s is the model',
            )  # fmt: skip


def _is_collective(script: Script, call: Call) -> bool:
    path = script.text(call.argument(0, "filepath"))
    return call.method != "save_weights" or path.endswith((".h5", ".hdf5", ".keras"))


def _batch_size(script: Script, job: Job) -> Iterator[Finding]:
    if not script.mentions(_SEVERAL) or script.mentions(_SCALED):
        return
    if _has_helpers(script, job):
        return
    for fit in fit_calls(script):
        batch = _batch_of(script, fit.argument(0, "x"))
        if batch is not None and (size := script.text(batch)).isdigit() and int(size) >= job.workers:
            yield _warn(
                "batch-size", batch, f"the batch size {size} is divided among the {job.workers} workers: "
                f"each gets {int(size) // job.workers} at a time",
                "multiply it by strategy.num_replicas_in_sync if each worker is to have that many",
            )  # fmt: skip
            return


def _batch_of(script: Script, node: ast.expr | None) -> ast.expr | None:
    """The size in the .batch() of the dataset that is given to fit, through names and functions without arguments."""
    for _ in range(12):
        node = script.value(node)
        if not isinstance(node, ast.Call):
            return None
        if isinstance(node.func, ast.Attribute):
            if node.func.attr == "batch" and node.args:
                return node.args[0]
            node = node.func.value
            continue
        functions = script.functions.get(node.func.id, []) if isinstance(node.func, ast.Name) else []
        returned = [part.value for part in ast.walk(functions[0]) if isinstance(part, ast.Return)] if functions else []
        node = returned[0] if len(returned) == 1 else None
    return None


def _strategy_late(script: Script, job: Job) -> Iterator[Finding]:
    """RuntimeError: Collective ops must be configured at program startup."""
    calls = [call for call in script.calls if call.where.reached]
    strategy = next((i for i, call in enumerate(calls) if re.search(rf"({_SEVERAL})$", call.name)), 0)
    for call in calls[:strategy]:
        if _STARTS_CONTEXT.fullmatch(call.name) and not call.where.conditional:
            yield _warn(
                "strategy-late", calls[strategy], f"the strategy is made after {_short(call.name)} in line "
                f"{call.node.lineno}: collective operations must be configured before TensorFlow does anything",
                "make the strategy first, right after the imports",
            )  # fmt: skip
            return


def _short(name: str) -> str:
    return re.sub(r"^tensorflow\.", "tf.", name)


def _chief_trains(script: Script, job: Job) -> Iterator[Finding]:
    if not script.mentions(_SEVERAL) or not only_chief_fits(script):
        return
    exits = [call for call in script.calls if call.name in ("sys.exit", "exit", "quit", "os._exit")]
    leaves = next((call for call in exits if call.where.role == "others"), fit_calls(script)[0])
    yield _warn(
        "chief-trains", leaves, "only the chief comes to the training, and waits there for the other workers",
        "let every worker call fit; MultiWorkerMirroredStrategy divides the work",
    )  # fmt: skip


def _tf_config(script: Script, job: Job) -> Iterator[Finding]:
    settings = [setting for setting in script.settings if setting.name == "TF_CONFIG" and not setting.where.conditional]
    if not settings or _reads_cluster(script):
        return
    is_removed = settings[0].value is None
    yield _warn(
        "tf-config", settings[0].node,
        "the script removes TF_CONFIG, without which each worker trains alone" if is_removed else
        "the script sets TF_CONFIG itself, in place of the addresses that tf-spawner gives",
        "leave the line out, or only do so where TF_CONFIG is not set",
    )  # fmt: skip


def _reads_cluster(script: Script) -> bool:
    """Whether the script makes its TF_CONFIG of what tf-spawner set, rather than of its own."""
    if script.mentions("TOT_WORKERS|WORKER_NUMBER|TFSPAWNER_(INDEX|ROLE|JOB)"):
        return True
    reads = [call for call in script.calls if call.name in ("os.environ.get", "os.getenv") and call.node.args]
    looked = [script.text(call.node.args[0]) for call in reads]
    subscripts = (
        node for node in ast.walk(script.tree) if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load)
    )
    looked += [script.text(node.slice) for node in subscripts if script.dotted(node.value) == "os.environ"]
    return "TF_CONFIG" in looked


def _tensorflow_io(script: Script, job: Job) -> Iterator[Finding]:
    for found in script.imports:
        if found.name.partition(".")[0] == "tensorflow_io" and not found.where.guarded and _has_new_tensorflow(job):
            yield _warn(
                "tensorflow-io", found, "tensorflow_io is abandoned, and does not load in TensorFlow 2.17 and newer",
                "leave the import out: tf-spawner gives TensorFlow s3:// itself",
            )  # fmt: skip
            return


def _no_file_system(script: Script, job: Job) -> Iterator[Finding]:
    unknown = {"hdfs", "viewfs", "root", "http", "https"} | (set() if job.s3_plugin else {"s3"})
    if not _has_new_tensorflow(job) or script.mentions("tensorflow_io"):
        return
    for call in script.calls:
        if not re.match(r"tensorflow\.(data|io)\.(?!\w*\(\))|tensorflow\.(data|io)\.\w+\.\w+$", call.name):
            continue
        for path in [script.text(part) for arg in call.node.args[:1] for part in _elements(script, arg)]:
            match = _URI.match(path)
            if match and match[1] in unknown:
                yield _warn(
                    "no-file-system", call, f"TensorFlow itself cannot read {match[1]}://, which {_short(call.name)} is given",
                    "read it by tfspawner.data.tfrecords, or copy it first: tf-spawner data cp",
                )  # fmt: skip
                return


def _elements(script: Script, node: ast.expr) -> list[ast.expr]:
    value = script.value(node)
    return value.elts if isinstance(value, ast.List | ast.Tuple) else [node]


def _needs_terminal(script: Script, job: Job) -> Iterator[Finding]:
    for call in script.calls:
        if call.where.conditional or call.where.guarded or not call.where.reached:
            continue
        if (
            call.name in ("input", "breakpoint", "pdb.set_trace", "getpass.getpass")
            and call.name not in script.functions
        ):
            yield _warn(
                "needs-terminal", call, f"{call.name}() reads from a terminal, and a replica has none",
                "give the value as an argument of the script, or by --env-file",
            )  # fmt: skip
        elif call.name == "matplotlib.pyplot.show" and not script.mentions("^(?i:agg)$|savefig"):
            yield _warn(
                "needs-terminal", call, "plt.show() shows nothing in a replica, and the figure is lost",
                'save it: plt.savefig(os.environ["TFSPAWNER_OUTPUT"] + "/figure.png")',
            )  # fmt: skip


def _removed_api(script: Script, job: Job) -> Iterator[Finding]:
    for call in script.calls:
        match = _TENSORFLOW_1.match(call.name)
        if match and not call.where.conditional and not call.where.guarded:
            yield _warn(
                "removed-api", call, f"{_short(match[0])} is TensorFlow 1's, and TensorFlow 2 has no such name",
                "write tf.compat.v1 in place of tf there, or name an image with TensorFlow 1",
            )  # fmt: skip
            return


def _restart(script: Script, job: Job) -> Iterator[Finding]:
    if not job.restarts or not trains(script) or _has_helpers(script, job):
        return
    if not script.mentions(_CARRIES_ON):
        yield _warn(
            "no-restore", next(iter(fit_calls(script)), None), "after a restart the training begins anew: the script restores nothing",
            'give fit the callback tf.keras.callbacks.BackupAndRestore(os.environ["TFSPAWNER_CHECKPOINTS"])',
        )  # fmt: skip
    for call in [call for call in script.calls if call.method in ("BackupAndRestore", "CheckpointManager")]:
        path = script.text(
            call.argument(*((0, "backup_dir") if call.method == "BackupAndRestore" else (1, "directory")))
        )
        if "$TFSPAWNER_OUTPUT" in path or (UNKNOWN not in path and not _is_shared(path, job)):
            yield _warn(
                "restart-path", call, f"{call.method} keeps its files in a place that is each worker's own, and gone after "
                "a restart", 'give it os.environ["TFSPAWNER_CHECKPOINTS"], which all workers share',
            )  # fmt: skip


def _gpus_hidden(script: Script, job: Job) -> Iterator[Finding]:
    for setting in script.settings:
        hides = setting.name == "CUDA_VISIBLE_DEVICES" and script.text(setting.value) in ("", "-1")
        if hides and job.gpus and not setting.where.conditional:
            yield _warn(
                "gpus-hidden", setting.node, "the script hides all GPUs from TensorFlow, and --gpus asks for some",
                "leave CUDA_VISIBLE_DEVICES alone: tf-spawner gives each replica its own GPUs",
            )  # fmt: skip


def _cpu_image(script: Script, job: Job) -> Iterator[Finding]:
    match = _STOCK.fullmatch(job.image or "tensorflow/tensorflow")
    if job.gpus and match and "gpu" not in (match[1] or ""):
        named = job.image or "the image that is taken without --image"
        yield _warn(
            "cpu-image", None, f"--gpus asks for GPUs, and {named} has TensorFlow for CPUs alone",
            f"--image tensorflow/tensorflow:{match[1] or '2.21.0'}-gpu",
        )  # fmt: skip


def _home_path(script: Script, job: Job) -> Iterator[Finding]:
    if script.mentions(r"^(exists|isdir|isfile|is_dir|is_file)$"):
        return
    for call in [call for call in script.calls if not call.where.conditional and not call.where.guarded]:
        if call.method in ("add_argument", "get", "getenv", "option", "setdefault", "print") or saved_path(
            script, call
        ):
            continue
        for path in [script.text(arg) for arg in call.node.args]:
            if _HOME.match(path) and not any(path.startswith(mount) for mount in job.mounts):
                yield _warn(
                    "home-path", call, f"{path.replace(UNKNOWN, '…')} is on this machine, and not in the pods",
                    "put the files beside the script, which travel with it, or mount their place: --volume",
                )  # fmt: skip
                return


def _left_behind(script: Script, job: Job) -> Iterator[Finding]:
    saves = save_calls(script)
    own = [(call, path) for call, path in saves if path.startswith("/") and not _is_shared(path, job)]
    if len(own) < len(saves) or job.collect or script.mentions(_CARRIES_AWAY):
        return
    for call, path in own[:1]:
        yield _warn(
            "left-behind", call, f"the model is saved to {path.replace(UNKNOWN, '…')}, which goes with the pod",
            f"save it to $TFSPAWNER_OUTPUT, or name it: --collect '{path.split(UNKNOWN)[0]}*'",
        )  # fmt: skip


def _keras_version(script: Script, job: Job) -> Iterator[Finding]:
    if _is_keras_3(script, job):
        return
    for node in ast.walk(script.tree):
        if isinstance(node, ast.Attribute) and script.dotted(node) == "tensorflow.keras.__version__":
            yield _warn(
                "keras-version", node, "tf.keras.__version__ does not exist where tf.keras is tf-keras",
                "leave the line out, or print tf.__version__",
            )  # fmt: skip
            return


Rule = Callable[[Script, Job], Iterator[Finding]]

_ALWAYS: list[Rule] = [
    _tensorflow_io, _no_file_system, _needs_terminal, _removed_api, _restart, _gpus_hidden,
]  # fmt: skip
_SEVERAL_WORKERS: list[Rule] = [
    _keras_3, _legacy_keras_late, _keras_version, _no_strategy, _one_machine_strategy, _outside_scope, _shared_path, _chief_saves,
    _batch_size, _strategy_late, _chief_trains, _tf_config,
]  # fmt: skip
_ON_KUBERNETES: list[Rule] = [_cpu_image, _home_path, _left_behind]


def rules_for(job: Job) -> list[Rule]:
    return [
        *_ALWAYS,
        *(_SEVERAL_WORKERS if job.workers > 1 else ()),
        *(_ON_KUBERNETES if job.on == "kubernetes" else ()),
    ]
