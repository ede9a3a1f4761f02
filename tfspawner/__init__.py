"""tf-spawner takes a TensorFlow training script to N workers and brings the logs and the model back."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfspawner.errors import SpawnerError
    from tfspawner.jobs.job import Job, attach
    from tfspawner.jobs.models import checked_model
    from tfspawner.jobs.running import launch, run
    from tfspawner.jobs.sweeps import sweep
    from tfspawner.plan.spec import JobSpec

__version__ = "0.1.0"
__all__ = ["Job", "JobSpec", "SpawnerError", "attach", "checked_model", "launch", "run", "sweep"]

_HOMES = {
    "Job": "jobs.job",
    "JobSpec": "plan.spec",
    "SpawnerError": "errors",
    "attach": "jobs.job",
    "checked_model": "jobs.models",
    "launch": "jobs.running",
    "run": "jobs.running",
    "sweep": "jobs.sweeps",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
