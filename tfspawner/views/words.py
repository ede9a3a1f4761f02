"""A replica's progress and usage in words, and the colours of its states."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from tfspawner.base.words import human_bytes
from tfspawner.replica.gpu_sums import sums_of

if TYPE_CHECKING:
    from tfspawner.follow.state import ReplicaState

STYLES = {
    "running": "green",
    "succeeded": "green",
    "failed": "red",
    "gone": "red",
    "stopped": "dim",
    "pending": "yellow",
}


def describe_progress(progress: dict[str, Any]) -> tuple[str, str, str]:
    """A replica's epoch, step and metrics as the table shows them."""
    epoch = f"{progress['epoch']}/{progress['epochs']}" if "epoch" in progress else ""
    step = f"{progress['step']}/{progress['steps'] or '?'}" if "step" in progress else ""
    metrics = " ".join(f"{name} {value:.4g}" for name, value in list(progress.get("metrics", {}).items())[:3])
    return epoch, step, metrics


def progress_line(progress: dict[str, Any]) -> str:
    """Epoch, step and metrics in one line."""
    epoch, step, metrics = describe_progress(progress)
    return f"epoch {epoch or '?'}, step {step or '?'} {metrics}".rstrip()


def describe_usage(line: ReplicaState) -> tuple[str, str, str]:
    """Processors, memory and GPUs in use as the table shows them."""
    if not line.usage or line.state != "running":
        return "", "", ""
    gpus = "not measured" if line.usage.get("gpus_missing") else describe_gpus(line.usage["gpus"])
    return f"{line.usage['cpu']:.1f}", human_bytes(line.usage["memory"]), gpus


def describe_gpus(gpus: list[dict[str, Any]]) -> str:
    """Their mean use, the memory in use of all, and how many are out of reach, each where it is known."""
    sums = sums_of(gpus)
    words = [] if sums.use is None else [f"{sums.use:.0f}%"]
    words += [] if sums.memory is None else [human_bytes(sums.memory)]
    errors = Counter(gpu["error"] for gpu in gpus if "error" in gpu)
    counts = [error if len(gpus) == 1 else f"{count} of {len(gpus)}: {error}" for error, count in errors.items()]
    return ", ".join(filter(None, [" ".join(words), *counts]))


def describe_rate(progress: dict[str, Any]) -> str:
    """Steps per second, or seconds per step if they are slow."""
    rate = progress.get("rate")
    if not rate:
        return ""
    return f"{rate:.0f}/s" if rate >= 100 else f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f}s/step"
