"""s3:// for TensorFlow itself, so that scripts which give it to tf.data and tf.io.gfile run as they are.

TensorFlow takes file systems as plug-ins, by a C interface. Here its functions are Python's, by ctypes;
native_library() makes the shared library that TensorFlow insists on.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import platform
import sys
import tempfile
from ctypes import CFUNCTYPE, POINTER, c_void_p
from typing import Any

from .elf import SHIFTED, STUB_BYTES, native_library
from .filesystem import FileSystem
from .structures import TRANSLATE, PluginInfo, PluginOps, Table

_registered: list[FileSystem] = []


def register() -> bool:
    """Gives TensorFlow s3://, once; returns whether it has it from here.

    False where it has it already, as from tensorflow-io. Raises OSError on machines other than Linux on x86-64 or
    ARM, and where no temporary folder allows to load a library.
    """
    import tensorflow as tf

    if _registered:
        return True
    machine = platform.machine().replace("arm64", "aarch64")
    if sys.platform != "linux" or machine not in ("x86_64", "aarch64"):
        raise OSError(f"TensorFlow cannot be given s3:// on {sys.platform}, {machine}")
    try:
        tf.io.gfile.exists("s3://")
        return False
    except tf.errors.UnimplementedError:
        pass
    except tf.errors.OpError:
        return False
    framework = ctypes.CDLL(os.path.join(os.path.dirname(tf.__file__), "libtensorflow_framework.so.2"))
    filesystem = FileSystem(framework)
    functions = filesystem.functions()
    callbacks = [(kind, name) for kind, table in functions.items() for name, function in table.items() if function]
    callbacks.sort(key=lambda which: which[1] != TRANSLATE)
    with tempfile.TemporaryDirectory(prefix="tf-spawner-") as folder:
        path = os.path.join(folder, "tfspawner_s3.so")
        with open(path, "wb") as file:
            file.write(native_library(1 + len(callbacks), machine))
        library = ctypes.CDLL(path)
        slots = (c_void_p * (1 + len(callbacks))).in_dll(library, "slots")
        first = ctypes.cast(library.TF_InitPlugin, c_void_p).value or 0
        stubs = {which: first + STUB_BYTES * number for number, which in enumerate(callbacks, SHIFTED)}
        nothing = first + STUB_BYTES * (1 + len(callbacks))

        def init(info: Any) -> None:
            _describe(info[0], functions, stubs, filesystem.libc)

        start = CFUNCTYPE(None, POINTER(PluginInfo))(init)
        filesystem.keep += [functions, start, library]
        slots[0] = ctypes.cast(start, c_void_p)
        for number, (kind, name) in enumerate(callbacks, SHIFTED):
            slots[number] = ctypes.cast(functions[kind][name], c_void_p)
        tf.experimental.register_filesystem_plugin(path)

    def at_exit() -> None:
        """TensorFlow's threads may go on to read when there is no Python any more: then nothing is done."""
        for number in range(SHIFTED + 1, len(slots)):
            slots[number] = nothing
        filesystem.finish()

    atexit.register(at_exit)
    _registered.append(filesystem)
    return True


def _describe(
    info: PluginInfo, functions: dict[str, dict[str, Any]], stubs: dict[tuple[str, str], int], libc: Any
) -> None:
    """Fills in the plug-in's description for TensorFlow, in memory that it frees."""

    def allocated(size: int) -> int:
        address = int(libc.malloc(size))
        ctypes.memset(address, 0, size)
        return address

    info.num_schemes = 1
    info.allocate, info.free = ctypes.cast(libc.malloc, c_void_p), ctypes.cast(libc.free, c_void_p)
    info.ops = ctypes.cast(allocated(ctypes.sizeof(PluginOps)), POINTER(PluginOps))
    info.ops[0].scheme = libc.strdup(b"s3")
    for kind, table in functions.items():
        pointers = allocated(len(table) * ctypes.sizeof(c_void_p))
        for number, name in enumerate(table):
            if (kind, name) in stubs:
                (c_void_p * len(table)).from_address(pointers)[number] = stubs[kind, name]
        setattr(info.ops[0], kind, Table(0, 0, len(table) * ctypes.sizeof(c_void_p), pointers))
