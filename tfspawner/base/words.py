"""Sizes, durations and the time left, in words."""

from __future__ import annotations

import time
from typing import Any

LONGEST_AGE_S = 1e9


def human_bytes(size: float) -> str:
    """A number of bytes in B, KiB, MiB or GiB."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def age(seconds: float) -> str:
    """A duration as kubectl writes it: 8s, 3m12s, 2h5m."""
    whole = int(min(max(0.0, seconds), LONGEST_AGE_S))  # 0 for nan
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60}s"
    return f"{whole // 3600}h{whole % 3600 // 60}m"


def left(progress: dict[str, Any]) -> str:
    """How much longer training takes at the pace of the last epoch, or of the last steps."""
    epochs = progress.get("epochs", 1) - progress.get("epoch", 1) + 1
    if "epoch_s" in progress:
        return age(epochs * progress["epoch_s"] - (time.time() - progress["epoch_since"]))
    if progress.get("rate") and progress.get("steps"):
        return age((epochs * progress["steps"] - progress.get("step", 0)) / progress["rate"])
    return ""
