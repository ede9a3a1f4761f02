"""Training data from S3, the web, mounts such as /eos and disks: read as fast as the link allows, each record once.

Usable without the launcher. Importing it imports neither TensorFlow nor pyarrow: each comes when it is needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfspawner.replica.gfile import register

    from .columnar import parquet
    from .dataset import tfrecords
    from .files import File
    from .filesystems import list_files

__all__ = ["File", "list_files", "parquet", "register", "tfrecords"]

_HOMES = {
    "register": ".replica.gfile",
    "File": "filesystems",
    "list_files": "filesystems",
    "parquet": "columnar",
    "tfrecords": "dataset",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
