"""Rules for several workers. They warn only of what is plain to see.

A wrong warning costs more than a missing one. Rules that rely on how TensorFlow 2.21 and tf-keras behave with two
workers were tried with them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from .finding import Finding, Job, Rule, has_helpers, has_new_tensorflow, is_keras_3, is_shared, short, warn
from .reading import Call, Import, Script
from .training import fit_calls, only_chief_fits, own_keras, save_calls, saved_path, trainings

_SEVERAL = r"MultiWorkerMirroredStrategy|CollectiveAllReduceStrategy"
_ONE_MACHINE = ("MirroredStrategy", "OneDeviceStrategy", "CentralStorageStrategy")
_SHARES_WORK = (
    rf"{_SEVERAL}|ParameterServer|horovod|byteps|TF_CONFIG|TOT_WORKERS|WORKER_NUMBER|TFSPAWNER_(INDEX|ROLE|JOB)"
    r"|ClusterSpec|ClusterResolver|[Ee]stimator|mpi4py|\bray\b|torch|\bjax\b|dtensor|distribution|SLURM"
    r"|HOSTNAME|gethostname"
)
_SCALED = (
    r"(?i)replica|tot_workers|num_?workers|n_?workers|workers?_(num|count)|world_?size|global_?batch|per_(worker|gpu)"
    r"|TF_CONFIG|distribute_datasets_from_function"
)
_STARTS_CONTEXT = re.compile(
    r"tensorflow\.(constant|Variable|zeros|ones|cast|range|reshape|stack|concat|one_hot|convert_to_tensor|matmul|add"
    r"|reduce_\w+|random\.(normal|uniform|shuffle|truncated_normal|Generator\.\w+)"
    r"|config\.(experimental\.)?list_logical_devices"
    r"|data\.(Dataset\.\w+|TFRecordDataset|TextLineDataset|experimental\.make_csv_dataset)|summary\.create_file_writer"
    r"|keras\.(metrics|optimizers)\.[A-Z]\w+|keras\.(models\.)?Sequential)|tensorflow_datasets\.load"
)


def _keras_3(script: Script, job: Job) -> Iterator[Finding]:
    """keras-team/keras#20585."""
    fits = fit_calls(script)
    if not fits or not script.mentions(_SEVERAL):
        return
    if own_keras(script) and not script.mentions("KERAS_BACKEND"):
        yield warn(
            "keras-3",
            fits[0],
            "the script imports keras itself, which is Keras 3: its model.fit fails under "
            "MultiWorkerMirroredStrategy with several workers",
            "import it as: from tensorflow import keras",
        )
    elif (
        is_keras_3(script, job)
        and has_new_tensorflow(job)
        and any(call.name.startswith("tensorflow.keras.") for call in script.calls)
    ):
        yield warn(
            "keras-3",
            fits[0],
            "tf.keras is Keras 3 here, whose model.fit fails under MultiWorkerMirroredStrategy with several workers",
            "leave out --no-legacy-keras and any TF_USE_LEGACY_KERAS=0, so that tf.keras is tf-keras",
        )


def _legacy_keras_late(script: Script, job: Job) -> Iterator[Finding]:
    """TensorFlow reads the variable when it is imported, and again at the first use of tf.keras."""
    seen, by_name = False, any(imported.name.startswith("tensorflow.keras") for imported in script.imports)
    for event in script.events:
        if isinstance(event, Import) and event.name.partition(".")[0] == "tensorflow":
            seen = True
        if seen and by_name and event.name == "TF_USE_LEGACY_KERAS" and not isinstance(event, Call | Import):
            if not job.legacy_keras and script.text(event.value) in ("1", "True", "true"):
                yield warn(
                    "legacy-keras-late",
                    event.node,
                    "TF_USE_LEGACY_KERAS is set after TensorFlow is imported, which "
                    "is too late for what is imported from tensorflow.keras",
                    "set it before the first import of tensorflow",
                )
            return


def _no_strategy(script: Script, job: Job) -> Iterator[Finding]:
    fits = trainings(script)
    if not fits or has_helpers(script, job) or script.mentions(_SHARES_WORK) or _one_machine(script):
        return
    yield warn(
        "no-strategy",
        fits[0],
        f"the script has no distribution strategy: {job.workers} workers would each train a model alone",
        "make the model under tf.distribute.MultiWorkerMirroredStrategy().scope(), or ask for one worker: -w 1",
    )


def _one_machine(script: Script) -> Call | None:
    calls = (call for call in script.calls if call.name.startswith("tensorflow.distribute."))
    return next((call for call in calls if call.method in _ONE_MACHINE), None)


def _one_machine_strategy(script: Script, job: Job) -> Iterator[Finding]:
    call = _one_machine(script)
    if call and not script.mentions(_SHARES_WORK) and not has_helpers(script, job):
        yield warn(
            "one-machine-strategy",
            call,
            f"{call.method} is for one machine's devices: {job.workers} workers would each train a model alone",
            "use tf.distribute.MultiWorkerMirroredStrategy",
        )


def _outside_scope(script: Script, job: Job) -> Iterator[Finding]:
    strategies = [call for call in script.calls if re.search(rf"({_SEVERAL}|\bMirroredStrategy)$", call.name)]
    fits = [call for call in fit_calls(script) if call.where.reached]
    made = [call for call in script.calls if script.is_model(call.name)]
    if not (strategies and fits and made) or has_helpers(script, job) or _strategy_is_passed_on(script):
        return
    if any(call.where.in_scope or not call.where.reached for call in [*made, *fits]):
        return
    yield warn(
        "outside-scope",
        made[-1],
        "the model is made outside strategy.scope(), so the strategy does not reach it",
        "make and compile the model inside: with strategy.scope():",
    )


def _strategy_is_passed_on(script: Script) -> bool:
    """Whether the strategy is set globally, or passed to something that may open its scope."""
    if script.mentions("experimental_set_strategy|enter_context|__enter__|distribution_strategy|train_distribute"):
        return True
    read_too = (*script.functions, *script.classes, "print", "isinstance", "type", "str", "format", "info")
    calls = [call.node for call in script.calls if call.method not in read_too]
    passed = [arg for call in calls for arg in [*call.args, *(keyword.value for keyword in call.keywords)]]
    return any(isinstance(arg, ast.Name) and "strategy" in arg.id.lower() for arg in passed)


def _shared_path(script: Script, job: Job) -> Iterator[Finding]:
    if script.mentions("ParameterServer"):  # only its coordinator runs the script
        return
    for call, path in save_calls(script):
        if call.where.role is None and is_shared(path, job):
            yield warn(
                "shared-path",
                call,
                f"every worker saves to {path}, all of them at once",
                "save to os.environ[\"TFSPAWNER_OUTPUT\"], which is each worker's own; worker 0's is the model",
            )
    if not script.mentions("horovod"):  # under a strategy, tf-keras's ModelCheckpoint keeps only the chief's file
        return
    for call in [call for call in script.calls if call.method == "ModelCheckpoint" and call.where.role is None]:
        if is_shared(script.text(call.argument(0, "filepath")), job):
            yield warn(
                "shared-path", call, "every worker's ModelCheckpoint writes to one file", "give it to rank 0 alone"
            )


def _chief_saves(script: Script, job: Job) -> Iterator[Finding]:
    """model.save, save_weights to HDF5 and tf.saved_model.save need all workers; export() does not."""
    if not script.mentions(_SEVERAL) or is_keras_3(script, job) or not script.mentions("keras"):
        return
    if own_keras(script) or not fit_calls(script):  # without fit there are no metrics to read from all workers
        return
    if only_chief_fits(script):  # the rule chief-trains reports that
        return
    saves = [call for call in script.calls if call.method != "export" and saved_path(script, call) is not None]
    callbacks = [call for call in script.calls if call.method == "ModelCheckpoint"]
    for calls in (saves, callbacks):
        alone = [
            call for call in calls if call.where.role == "chief" and call.where.reached and _is_collective(script, call)
        ]
        if alone and not any(call.where.role == "others" for call in calls):
            yield warn(
                "chief-saves",
                alone[0],
                f"only the chief calls {alone[0].method}, and under MultiWorkerMirroredStrategy every worker takes "
                "part in it: the chief would wait and fail, and leave a file that is not whole",
                'let every worker save, each to os.environ["TFSPAWNER_OUTPUT"]; worker 0\'s is the model',
            )


def _is_collective(script: Script, call: Call) -> bool:
    path = script.text(call.argument(0, "filepath"))
    return call.method != "save_weights" or path.endswith((".h5", ".hdf5", ".keras"))


def _batch_size(script: Script, job: Job) -> Iterator[Finding]:
    if not script.mentions(_SEVERAL) or script.mentions(_SCALED):
        return
    if has_helpers(script, job):
        return
    for fit in fit_calls(script):
        batch = _batch_of(script, fit.argument(0, "x"))
        if batch is not None and (size := script.text(batch)).isdigit() and int(size) >= job.workers:
            yield warn(
                "batch-size",
                batch,
                f"the batch size {size} is divided among the {job.workers} workers: "
                f"each gets {int(size) // job.workers} at a time",
                "multiply it by strategy.num_replicas_in_sync if each worker is to have that many",
            )
            return


def _batch_of(script: Script, node: ast.expr | None) -> ast.expr | None:
    """The size in .batch() of the dataset passed to fit; follows names and functions without arguments."""
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
            yield warn(
                "strategy-late",
                calls[strategy],
                f"the strategy is made after {short(call.name)} in line "
                f"{call.node.lineno}: collective operations must be configured before TensorFlow does anything",
                "make the strategy first, right after the imports",
            )
            return


def _chief_trains(script: Script, job: Job) -> Iterator[Finding]:
    if not script.mentions(_SEVERAL) or not only_chief_fits(script):
        return
    exits = [call for call in script.calls if call.name in ("sys.exit", "exit", "quit", "os._exit")]
    leaves = next((call for call in exits if call.where.role == "others"), fit_calls(script)[0])
    yield warn(
        "chief-trains",
        leaves,
        "only the chief comes to the training, and waits there for the other workers",
        "let every worker call fit; MultiWorkerMirroredStrategy divides the work",
    )


def _tf_config(script: Script, job: Job) -> Iterator[Finding]:
    settings = [setting for setting in script.settings if setting.name == "TF_CONFIG" and setting.where.is_certain]
    if not settings or _reads_cluster(script):
        return
    is_removed = settings[0].value is None
    yield warn(
        "tf-config",
        settings[0].node,
        "the script removes TF_CONFIG, without which each worker trains alone"
        if is_removed
        else "the script sets TF_CONFIG itself, in place of the addresses that tf-spawner gives",
        "leave the line out, or only do so where TF_CONFIG is not set",
    )


def _reads_cluster(script: Script) -> bool:
    """Whether the script reads tf-spawner's variables: it may build TF_CONFIG from them, or only if it is missing."""
    if script.mentions("TOT_WORKERS|WORKER_NUMBER|TFSPAWNER_(INDEX|ROLE|JOB)"):
        return True
    settings = [setting for setting in script.settings if setting.name == "TF_CONFIG"]
    return script.words.split("\n").count("TF_CONFIG") > len({setting.node for setting in settings})


def _keras_version(script: Script, job: Job) -> Iterator[Finding]:
    if is_keras_3(script, job) or not has_new_tensorflow(job):
        return
    for node in ast.walk(script.tree):
        if isinstance(node, ast.Attribute) and script.dotted(node) == "tensorflow.keras.__version__":
            yield warn(
                "keras-version",
                node,
                "tf.keras.__version__ does not exist where tf.keras is tf-keras",
                "leave the line out, or print tf.__version__",
            )
            return


RULES: list[Rule] = [
    _keras_3,
    _legacy_keras_late,
    _keras_version,
    _no_strategy,
    _one_machine_strategy,
    _outside_scope,
    _shared_path,
    _chief_saves,
    _batch_size,
    _strategy_late,
    _chief_trains,
    _tf_config,
]
