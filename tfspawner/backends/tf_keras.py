"""Keras on several workers: Keras 3's model.fit fails there, tf-keras's works, and stock images have only Keras 3.

Facts: keras-team/keras#20585, tensorflow/tensorflow#72388; `TF_USE_LEGACY_KERAS=1` makes tf.keras be tf-keras.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tfspawner.plan.spec import DEFAULT_IMAGE

# tf-keras's last version for each minor version of TensorFlow, and its wheel's SHA-256. CONTRIBUTING.md says how to add
# one: by a commit that somebody else reviews.
WHEELS = {
    "2.15": ("2.15.1", "8beaef46b8b4f1158de1410e7c0cf82f008b9e8c4ab3443f54ac1aaef9c2ad74"),
    "2.16": ("2.16.0", "b2ad0541fa7d9e92c4b7a1b96593377afb58aaff374299a6ca6be1a42f51d899"),
    "2.17": ("2.17.0", "cc97717e4dc08487f327b0740a984043a9e0123c7a4e21206711669d3ec41c88"),
    "2.18": ("2.18.0", "c431d04027eef790fcd3261cf7fdf93eb74f3cb32e05078b57b7f5a54bd53262"),
    "2.19": ("2.19.0", "4f339e800987b39d1548a8c76a7b33b6801a97ec7fcd89c299ec29741f7890bd"),
    "2.20": ("2.20.1", "3f0e0a34d9a4c8758f24fdc1053e6e335f16ab5534c7d34f1899b8924779760c"),
    "2.21": ("2.21.0", "f858bf3d97f892304e7fbcf5eb0942ed91674e27204f940a85de8c93cf07fe62"),
}
_STOCK_IMAGE = re.compile(r"(?:.*/)?tensorflow/tensorflow(?::(\d+\.\d+)\S*|:latest\S*|:nightly\S*)?")


def wheel_for(image: str | None) -> Path | None:
    """tf-keras's wheel for a stock TensorFlow image; None for other images. Raises OSError as wheel() does."""
    match = _STOCK_IMAGE.fullmatch(image or DEFAULT_IMAGE)
    return wheel(match[1]) if match else None


def installed_tensorflow() -> str | None:
    """The version of this machine's TensorFlow, from whichever package; None if it is not installed."""
    for package in ("tensorflow", "tensorflow-cpu"):
        with suppress(PackageNotFoundError):
            return version(package)
    return None


def wheel(tensorflow: str | None, cache: Path | None = None) -> Path:
    """tf-keras's wheel for a version of TensorFlow, or the newest, from the package index or the cache.

    It is pure Python (about 2 MB) and travels with the code; a replica's own tf-keras comes first. It is not installed,
    because it depends on the package tensorflow and would install that beside tensorflow-cpu. It is code that runs
    in each replica, so only a file with the SHA-256 in WHEELS is used, wherever it comes from.
    Raises OSError if there is none, or if it cannot be downloaded.
    """
    minor = ".".join(tensorflow.split(".")[:2]) if tensorflow else next(reversed(WHEELS))
    if minor not in WHEELS:
        raise OSError(f"this tf-spawner knows tf-keras for TensorFlow {', '.join(WHEELS)}, and this is {minor}")
    version, sha256 = WHEELS[minor]
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = (cache or Path(base) / "tf-spawner") / f"tf_keras-{version}-py3-none-any.whl"
    if not _is(path, sha256):
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(f"tf-keras=={version} --hash=sha256:{sha256}", path)
        if not _is(path, sha256):
            raise OSError(f"{path} is another file than it should be")
    return path


def _download(requirement: str, path: Path) -> None:
    """Has pip download the wheel to path, and check it against the hash in the requirement."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-") as folder:
        listed = Path(folder) / "requirements.txt"
        listed.write_text(f"{requirement}\n")
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
        words = ["--require-hashes", "-r", str(listed), "-d", folder]
        done = subprocess.run([*command, *words], capture_output=True, text=True)
        if done.returncode:
            errors = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            mismatch = next((line for line in errors if "HASHES" in line), None)
            raise OSError(
                "its SHA-256 is not the one that tf-spawner knows"
                if mismatch
                else errors[-1]
                if errors
                else "pip download failed"
            )
        os.replace(Path(folder) / path.name, path)


def _is(path: Path, sha256: str) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError:
        return False
