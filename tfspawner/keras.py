"""Keras on several workers: Keras 3's model.fit fails there, tf-keras's works, and stock images have only Keras 3.

Facts: keras-team/keras#20585, tensorflow/tensorflow#72388; `TF_USE_LEGACY_KERAS=1` makes tf.keras be tf-keras.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .code import mentions
from .folders import own_folder
from .spec import DEFAULT_IMAGE, JobSpec

_STOCK_IMAGE = re.compile(r"(?:.*/)?tensorflow/tensorflow(?::(\d+\.\d+)\S*|:latest\S*|:nightly\S*)?")


def needs_tf_keras(spec: JobSpec) -> bool:
    """Whether the job trains with Keras on several replicas, so that tf-keras must be there."""
    return gets_legacy_keras(spec) and bool(mentions(spec.folder, "keras", out=spec.out))


def gets_legacy_keras(spec: JobSpec) -> bool:
    """Whether the replicas run with TF_USE_LEGACY_KERAS=1."""
    return spec.legacy_keras and len(spec.replicas) > 1 and spec.env.get("TF_USE_LEGACY_KERAS", "1") == "1"


def wheel_for(image: str | None) -> Path | None:
    """tf-keras's wheel for a stock TensorFlow image; None for other images. Raises OSError as wheel() does."""
    match = _STOCK_IMAGE.fullmatch(image or DEFAULT_IMAGE)
    return wheel(match[1]) if match else None


def installed_tensorflow() -> str | None:
    """The version of this machine's TensorFlow, whichever of its packages it came with; None where there is none."""
    for package in ("tensorflow", "tensorflow-cpu"):
        with suppress(PackageNotFoundError):
            return version(package)
    return None


def wheel(tensorflow: str | None, cache: Path | None = None) -> Path:
    """tf-keras's wheel for a version of TensorFlow, or the newest, from the package index or the cache.

    It is pure Python (about 2 MB) and travels with the code; tf-keras that is there already comes first. It is not
    installed, since it depends on the package tensorflow, and would bring that beside tensorflow-cpu.
    Raises OSError when it cannot be downloaded, and ConfigurationError where others may write to the cache.
    """
    wanted = f"=={'.'.join(tensorflow.split('.')[:2])}.*" if tensorflow else ""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = (cache or Path(base) / "tf-spawner") / f"tf-keras{wanted.replace('==', '-').rstrip('.*')}"
    os.close(own_folder(folder, "tf-keras's wheel"))  # what lies there runs in all replicas
    if not list(folder.glob("*.whl")):
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
        done = subprocess.run([*command, f"tf-keras{wanted}"], capture_output=True, text=True)
        if done.returncode:
            raise OSError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "pip download failed")
    return max(folder.glob("*.whl"))
