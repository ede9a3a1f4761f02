"""Rules for any number of workers: TensorFlow's version, the image, and what a replica does not have."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from .finding import (
    STOCK_IMAGE,
    Finding,
    Job,
    Rule,
    has_helpers,
    has_new_tensorflow,
    is_keras_3,
    is_shared,
    short,
    warn,
)
from .reading import UNKNOWN, Script
from .training import save_calls, saved_path, trainings

_CARRIES_ON = r"BackupAndRestore|CheckpointManager|restore|latest_checkpoint|load_weights|load_model|[Ee]stimator"
_CARRIES_AWAY = (
    r"boto|s3fs|fsspec|minio|subprocess|shutil|^system$|gfile|upload|copy|zipfile|tarfile|XRootD|requests|mlflow|wandb"
    r"|storage"
)
_ONLY_DEFAULTS = ("add_argument", "get", "getenv", "option", "setdefault", "print", "makedirs", "mkdir")
_OPENS = re.compile(
    r"tensorflow\.(data\.(TFRecordDataset|TextLineDataset|FixedLengthRecordDataset|Dataset\.list_files"
    r"|experimental\.(CsvDataset|make_csv_dataset))"
    r"|io\.(gfile\.\w+|read_file|write_file|matching_files|TFRecordWriter))"
)
_ASKS = ("input", "breakpoint", "pdb.set_trace", "getpass.getpass")
_URI = re.compile(r"([a-z][a-z0-9+]+)://")
_HOME = re.compile(r"/home/(?!jovyan/)[^/\s]+/\S|/Users/[^/\s]+/\S|[A-Za-z]:[\\/]\w")
_TENSORFLOW_1 = re.compile(
    r"tensorflow\.(contrib|Session|InteractiveSession|placeholder|app|flags|logging|ConfigProto|get_variable|layers"
    r"|global_variables_initializer|set_random_seed|reset_default_graph|get_default_graph|variable_scope|python_io"
    r"|enable_eager_execution|train\.(Adam|GradientDescent|Momentum|RMSProp|Adagrad)Optimizer|train\.Saver"
    r"|summary\.FileWriter|parse_single_example|decode_raw|truncated_normal|random_uniform|to_float)\b"
)


def _tensorflow_io(script: Script, job: Job) -> Iterator[Finding]:
    for imported in script.imports:
        if (
            imported.name.partition(".")[0] == "tensorflow_io"
            and not imported.where.guarded
            and has_new_tensorflow(job)
        ):
            yield warn(
                "tensorflow-io",
                imported,
                "tensorflow_io is abandoned, and does not load in TensorFlow 2.17 and newer",
                "leave the import out: tf-spawner gives TensorFlow s3:// itself",
            )
            return


def _no_file_system(script: Script, job: Job) -> Iterator[Finding]:
    unknown = {"hdfs", "viewfs", "root", "http", "https"} | (set() if job.s3_plugin else {"s3"})
    if not has_new_tensorflow(job) or script.mentions("tensorflow_io"):
        return
    for call in script.calls:
        if not _OPENS.fullmatch(call.name):
            continue
        for path in [script.text(part) for arg in call.node.args[:1] for part in _elements(script, arg)]:
            match = _URI.match(path)
            if match and match[1] in unknown:
                yield warn(
                    "no-file-system",
                    call,
                    f"TensorFlow itself cannot read {match[1]}://, which {short(call.name)} is given",
                    "read it by tfspawner.data.tfrecords, or copy it first: tf-spawner data cp",
                )
                return


def _elements(script: Script, node: ast.expr) -> list[ast.expr]:
    value = script.value(node)
    return value.elts if isinstance(value, ast.List | ast.Tuple) else [node]


def _needs_terminal(script: Script, job: Job) -> Iterator[Finding]:
    for call in script.calls:
        if not call.where.is_certain:
            continue
        if call.name in _ASKS and call.name not in script.functions:
            yield warn(
                "needs-terminal",
                call,
                f"{call.name}() reads from a terminal, and a replica has none",
                "give the value as an argument of the script, or by --env-file",
            )
        elif call.name == "matplotlib.pyplot.show" and not script.mentions("^(?i:agg)$|savefig"):
            yield warn(
                "needs-terminal",
                call,
                "plt.show() shows nothing without a display, and with one it waits for a click",
                'save it: plt.savefig(os.environ["TFSPAWNER_OUTPUT"] + "/figure.png")',
            )


def _removed_api(script: Script, job: Job) -> Iterator[Finding]:
    for call in script.calls:
        match = _TENSORFLOW_1.match(call.name)
        if match and call.where.is_certain and has_new_tensorflow(job):
            yield warn(
                "removed-api",
                call,
                f"{short(match[0])} is TensorFlow 1's, and TensorFlow 2 has no such name",
                "write tf.compat.v1 in place of tf there, or name an image with TensorFlow 1",
            )
            return


def _old_keras(script: Script, job: Job) -> Iterator[Finding]:
    """tf-keras raises for decay and ignores lr with a warning; Keras 3 does the opposite."""
    new_name = {"lr": "name it learning_rate", "decay": "give a schedule as learning_rate"}
    for call in script.calls if has_new_tensorflow(job) else ():
        if not re.fullmatch(r"(tensorflow\.)?keras\.optimizers\.[A-Z]\w+", call.name):
            continue
        is_new = is_keras_3(script, job) or call.name.startswith("keras.")
        for word in sorted(call.keywords & new_name.keys()):
            outcome = "raises ValueError" if is_new == (word == "lr") else "is passed over without an error"
            yield warn("old-argument", call, f"{call.method} has no {word} any more: it {outcome}", new_name[word])


def _restart(script: Script, job: Job) -> Iterator[Finding]:
    fits = trainings(script)
    if not job.restarts or not fits or has_helpers(script, job):
        return
    if not script.mentions(_CARRIES_ON):
        yield warn(
            "no-restore",
            fits[0],
            "after a restart the training begins anew: the script restores nothing",
            'give fit the callback tf.keras.callbacks.BackupAndRestore(os.environ["TFSPAWNER_CHECKPOINTS"])',
        )
    for call in [call for call in script.calls if call.method in ("BackupAndRestore", "CheckpointManager")]:
        path = script.text(
            call.argument(*((0, "backup_dir") if call.method == "BackupAndRestore" else (1, "directory")))
        )
        if "$TFSPAWNER_OUTPUT" in path or (UNKNOWN not in path and not is_shared(path, job)):
            yield warn(
                "restart-path",
                call,
                f"{call.method} keeps its files in a place that is each worker's own, and gone after a restart",
                'give it os.environ["TFSPAWNER_CHECKPOINTS"], which all workers share',
            )


def _gpus_hidden(script: Script, job: Job) -> Iterator[Finding]:
    for setting in script.settings:
        hides = setting.name == "CUDA_VISIBLE_DEVICES" and script.text(setting.value) in ("", "-1")
        if hides and job.gpus and setting.where.is_certain:
            yield warn(
                "gpus-hidden",
                setting.node,
                "the script hides all GPUs from TensorFlow, and --gpus asks for some",
                "leave CUDA_VISIBLE_DEVICES alone: tf-spawner gives each replica its own GPUs",
            )


def _cpu_image(script: Script, job: Job) -> Iterator[Finding]:
    match = STOCK_IMAGE.fullmatch(job.image or "tensorflow/tensorflow")
    if job.gpus and match and "gpu" not in (match[1] or ""):
        named = job.image or "the image that is taken without --image"
        yield warn(
            "cpu-image",
            None,
            f"--gpus asks for GPUs, and {named} has TensorFlow for CPUs alone",
            f"--image tensorflow/tensorflow:{match[1] or '2.21.0'}-gpu",
        )


def _home_path(script: Script, job: Job) -> Iterator[Finding]:
    if script.mentions(r"^(exists|isdir|isfile|is_dir|is_file)$"):
        return
    paths = [(call, script.text(arg)) for call in script.calls for arg in call.node.args]
    made = tuple(path for call, path in paths if call.method in ("makedirs", "mkdir"))
    for call, path in paths:
        is_used = call.where.is_certain and call.method not in _ONLY_DEFAULTS and saved_path(script, call) is None
        if is_used and _HOME.match(path) and not path.startswith((*job.mounts, *made)):
            yield warn(
                "home-path",
                call,
                f"{path.replace(UNKNOWN, '…')} is on this machine, and not in the pods",
                "put the files beside the script, which travel with it, or mount their place: --volume",
            )
            return


def _left_behind(script: Script, job: Job) -> Iterator[Finding]:
    saves = save_calls(script)
    own = [(call, path) for call, path in saves if path.startswith("/") and not is_shared(path, job)]
    if len(own) < len(saves) or job.collect or script.mentions(_CARRIES_AWAY):
        return
    for call, path in own[:1]:
        yield warn(
            "left-behind",
            call,
            f"the model is saved to {path.replace(UNKNOWN, '…')}, which goes with the pod",
            f"save it to $TFSPAWNER_OUTPUT, or name it: --collect '{path.split(UNKNOWN)[0]}*'",
        )


RULES: list[Rule] = [
    _tensorflow_io,
    _no_file_system,
    _needs_terminal,
    _removed_api,
    _old_keras,
    _restart,
    _gpus_hidden,
]
RULES_ON_KUBERNETES: list[Rule] = [_cpu_image, _home_path, _left_behind]
