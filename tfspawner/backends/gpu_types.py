"""The names of GPU models, as --gpu-type, node labels and NVML spell them."""

from __future__ import annotations

import re

GPU_PRODUCT = "nvidia.com/gpu.product"  # set on nodes by NVIDIA's GPU feature discovery


def is_product(requested: str | None, product: str) -> bool:
    """Whether a product has all the words requested: "a100" fits NVIDIA-A100-SXM4-40GB, but not A10.

    A part of a GPU, or a GPU shared between pods, fits only a request that says so.
    """
    if requested is None:
        return True
    words, needed = (set(re.findall(r"[a-z0-9]+", text.lower())) for text in (product, requested))
    return needed <= words and not {"mig", "shared"} & (words - needed)


def as_label(product: str) -> dict[str, tuple[str, ...]]:
    """The label that GPU feature discovery gives a node with this product."""
    return {GPU_PRODUCT: (product.replace(" ", "-"),)}
