"""Why TensorFlow sees none of the GPUs that its replica was given: a program that prints it as JSON, or nothing.

It runs in the replica before the script, so it needs Python 3.9 and its standard library only. TensorFlow itself has
the last word, since it alone knows all places where it looks; it is asked only where something seems to be missing.
"""

from __future__ import annotations

import ctypes
import json
import os
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

FOR_GPUS = "tensorflow/tensorflow:2.21.0-gpu, or pip install 'tensorflow[and-cuda]'"


def missing() -> dict[str, str] | None:
    """What TensorFlow seems to lack for a GPU, and the next step; None if nothing is missing."""
    spec = find_spec("tensorflow")
    if spec is None or spec.origin is None:
        return None  # the script will say so itself
    info = build_info(Path(spec.origin).parent)
    if info.get("is_cuda_build") is False:
        return {"message": "it is built without CUDA", "hint": f"give the replicas one for GPUs: -i {FOR_GPUS}"}
    return missing_driver() or missing_libraries(info)


def build_info(package: Path) -> dict[str, Any]:
    """The wheel's build information, without importing TensorFlow; empty if it has none."""
    try:
        return dict(runpy.run_path(str(package / "python/platform/build_info.py"))["build_info"])
    except (OSError, KeyError):
        return {}


def missing_driver() -> dict[str, str] | None:
    """What is wrong with the NVIDIA driver, with a hint; None if it works."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return {
            "message": "there is no NVIDIA driver (libcuda.so.1)",
            "hint": "NVIDIA's container runtime brings it along: see the node's device plugin and runtime class; "
            "a driver that is mounted needs its folder in LD_LIBRARY_PATH",
        }
    count = ctypes.c_int()
    error = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
    if not error and count.value:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return {
            "message": f"CUDA_VISIBLE_DEVICES={visible!r} leaves it none",
            "hint": "leave CUDA_VISIBLE_DEVICES out of --env, --env-file and the image",
        }
    return {
        "message": f"the NVIDIA driver finds none ({error_name(cuda, error) if error else 'no device'})",
        "hint": "see what nvidia-smi says on the node; the image's CUDA may be newer than the node's driver",
    }


def error_name(cuda: Any, error: int) -> str:
    """CUDA's own name for an error."""
    name = ctypes.c_char_p()
    cuda.cuGetErrorName(error, ctypes.byref(name))
    return (name.value or b"").decode() or f"error {error}"


def missing_libraries(info: dict[str, Any]) -> dict[str, str] | None:
    """Which of CUDA's libraries TensorFlow would not find, with a hint; None if all are there."""
    versions = {"cudart": info.get("cuda_version"), "cudnn": info.get("cudnn_version")}
    names = [f"lib{name}.so.{str(version).split('.')[0]}" for name, version in versions.items() if version]
    absent = [name for name in names if not is_found(name, sys.path)]
    if not absent:
        return None
    return {
        "message": f"CUDA libraries are missing ({', '.join(absent)})",
        "hint": f"give the replicas those: -i {FOR_GPUS}",
    }


def is_found(library: str, places: list[str]) -> bool:
    """Whether a library is where the loader looks, or among NVIDIA's wheels."""
    if any(place and any(Path(place, "nvidia").glob(f"*/lib/{library}")) for place in places):
        return True
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def sees_gpus() -> bool:
    """Whether TensorFlow sees a GPU."""
    import tensorflow

    return bool(tensorflow.config.list_physical_devices("GPU"))


def main() -> None:
    """Prints as JSON what is missing, if anything is and TensorFlow sees no GPU."""
    here = Path(__file__).resolve().parent
    sys.path[:] = [place for place in sys.path if Path(place).resolve() != here]  # where other programs' modules lie
    problem = missing()
    if problem and not sees_gpus():
        print(json.dumps(problem))


if __name__ == "__main__":
    main()
