"""The names of GPU models, as --gpu-type, node labels and NVML spell them."""

from __future__ import annotations

import re

GPU_PRODUCT = "nvidia.com/gpu.product"  # set on nodes by NVIDIA's GPU feature discovery


def is_product(asked: str | None, product: str) -> bool:
    """Whether a product has all the words that are asked for: "a100" fits NVIDIA-A100-SXM4-40GB, and A10 does not.

    A part of a GPU, or a GPU that several pods share, is meant only where that is asked for.
    """
    if asked is None:
        return True
    words, wanted = (set(re.findall(r"[a-z0-9]+", text.lower())) for text in (product, asked))
    return wanted <= words and not {"mig", "shared"} & (words - wanted)


def as_label(asked: str) -> dict[str, tuple[str, ...]]:
    """A product as it is given, as the value that GPU feature discovery makes of it."""
    return {GPU_PRODUCT: (asked.replace(" ", "-"),)}
