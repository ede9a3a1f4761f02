"""Checks a model that came back from a run before it is loaded: reads the file as data, without Keras.

A model can contain code that runs when it is loaded: lambdas, functions and classes by name, pickles. Keras's
safe_mode refuses some of that, but tf-keras ignores it for HDF5 files, whatever they are called.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfspawner.base.names import shown
from tfspawner.errors import ArtifactError, ConfigurationError

MEMBERS = {"config.json", "metadata.json", "model.weights.h5"}
MOST_CONFIG_BYTES = 64 << 20
OWN_RISK = "if you trust the run and its data, load it by Keras itself"
# Classes of Keras that run, import or unpickle what their configuration says.
RUN_OTHERS = {
    "Lambda",
    "TFSMLayer",
    "TFOpLambda",
    "SlicingOpLambda",
    "ClassMethod",
    "InstanceMethod",
    "InstanceProperty",
    "TorchModuleWrapper",
    "JaxLayer",
    "FlaxLayer",
}
PLAIN_VALUES = {"__tensor__", "__numpy__", "__bytes__", "__tuple__", "__ellipsis__", "__slice__", "__keras_tensor__"}
_PARTS = (
    "layers|models|engine|initializers|regularizers|constraints|activations|losses|metrics|optimizers|dtype_policies"
)
_MODULE = re.compile(rf"(?:tf_)?keras(\.src)?(\.({_PARTS}|mixed_precision|quantizers|random|ops)(\.\w+)*)?", re.ASCII)


def checked_model(path: str | Path) -> str:
    """Checks that a .keras file runs none of its own code when it is loaded; returns its path for load_model().

    >>> model = tf.keras.models.load_model(tfspawner.checked_model(outcome.file("model.keras")), safe_mode=True)
    ... # doctest: +SKIP

    It does not judge what the model computes, or the arrays in it. Raises ArtifactError for every other file: one that
    is not an archive of Keras's, or that names lambdas, functions or classes other than Keras's own layers, optimizers
    and so on.
    """
    if not isinstance(path, str | Path):
        raise ConfigurationError(
            f"the model's path is {shown(repr(path))}; it must be a path", hint="outcome.file(…) gives one"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if set(names) != MEMBERS or len(names) != len(MEMBERS):
                extra = sorted(set(names) ^ MEMBERS) or names
                raise _refused(path, f"it has not the files of a Keras model, as {shown(extra[0])} tells")
            if any(archive.getinfo(name).file_size > MOST_CONFIG_BYTES for name in ("config.json", "metadata.json")):
                raise _refused(path, f"its configuration has more than {MOST_CONFIG_BYTES:,} bytes")
            config, metadata = (json.loads(archive.read(name)) for name in ("config.json", "metadata.json"))
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror or error}") from None
    except zipfile.BadZipFile:
        raise _refused(
            path, "it is not a .keras archive; TensorFlow takes such files for HDF5, whose code it runs"
        ) from None
    except (ValueError, RecursionError, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
        raise _refused(path, f"its configuration cannot be read: {shown(str(error))}") from None
    if not isinstance(metadata, dict) or not isinstance(metadata.get("keras_version"), str):
        raise _refused(path, "it does not say which Keras wrote it")
    for described in _objects(config):
        if why := _runs_code(described):
            raise _refused(path, why)
    return str(path)


def _refused(path: str | Path, why: str) -> ArtifactError:
    return ArtifactError(f"{path} is not loaded: {why}", hint=OWN_RISK)


def _objects(config: Any) -> Iterator[dict[str, Any]]:
    """All objects that a configuration describes, at any depth."""
    waiting = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if "class_name" in value or "module" in value:
                yield value
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _runs_code(described: dict[str, Any]) -> str | None:
    """Why creating this object would run or import code that the file names; None if it would not."""
    name, module, own = (described.get(key) for key in ("class_name", "module", "registered_name"))
    if not isinstance(name, str):
        return f"it describes an object as {shown(described)}"
    if name in PLAIN_VALUES:
        return None
    if name in RUN_OTHERS or name.startswith("__"):
        return f"its {shown(name)} runs code that comes with it"
    if not isinstance(module, str) or not _MODULE.fullmatch(module) or own not in (None, name) or name == "function":
        where = f" of {shown(module)}" if module is not None else ""
        return f"its {shown(name)}{where} is not Keras's own"
    return None
