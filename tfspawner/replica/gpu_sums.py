"""What several GPUs use together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class GpuSums(NamedTuple):
    """What is known of some GPUs: each one's use in per cent, the mean of these, and the memory in use of all."""

    uses: list[float]
    use: float | None  # None where no GPU tells
    memory: int | None  # bytes; None where no GPU tells


def sums_of(gpus: Iterable[Mapping[str, Any]]) -> GpuSums:
    """The sums of GPUs, each with its "use" and its "memory", which may be None."""
    known = list(gpus)
    uses, memory = ([gpu[key] for gpu in known if gpu[key] is not None] for key in ("use", "memory"))
    return GpuSums(uses, sum(uses) / len(uses) if uses else None, sum(memory) if memory else None)
