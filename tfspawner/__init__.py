"""tf-spawner takes a TensorFlow training script to N workers and brings the logs and the model back."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import SpawnerError
    from .job import Job, attach, launch, run
    from .models import checked_model
    from .spec import JobSpec
    from .sweeping import sweep

__version__ = "0.1.0"
__all__ = ["Job", "JobSpec", "SpawnerError", "attach", "checked_model", "launch", "run", "sweep"]

_HOMES = {
    "Job": "job",
    "JobSpec": "spec",
    "SpawnerError": "errors",
    "attach": "job",
    "checked_model": "models",
    "launch": "job",
    "run": "job",
    "sweep": "sweeping",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
