"""Divides files over workers by their bytes. Pure: every worker computes the same result."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tfspawner.errors import ConfigurationError

from .files import File

SNAP = 0.02  # of a worker's share: a file is not split for less


@dataclass(frozen=True, slots=True)
class Part:
    """The records of a file that begin at a byte from start on and before end."""

    file: File
    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start


def divide(files: Sequence[File], workers: int, *, splittable: bool = True) -> list[list[Part]]:
    """Each worker's parts, which together are all files, each byte once.

    Splittable files are laid end to end and cut into shares of equal size, at a file's edge where one is near;
    others go whole, the largest first, to whoever has the least.
    """
    if not splittable:
        return _whole(files, workers)
    total = sum(file.size for file in files)
    edges = [0]
    for file in files:
        edges.append(edges[-1] + file.size)
    near = SNAP * total / workers
    cuts = [min(edges, key=lambda edge: (abs(edge - i * total / workers), edge)) for i in range(workers + 1)]
    cuts = [c if abs(c - i * total / workers) <= near else round(i * total / workers) for i, c in enumerate(cuts)]
    shares: list[list[Part]] = []
    for low, high in pairwise(cuts):
        share = [
            Part(file, max(low - edge, 0), min(high - edge, file.size))
            for file, edge in zip(files, edges, strict=False)
            if max(low, edge) < min(high, edge + file.size)
        ]
        shares.append(share)
    return shares


def _whole(files: Sequence[File], workers: int) -> list[list[Part]]:
    shares: list[list[Part]] = [[] for _ in range(workers)]
    order = {file: number for number, file in enumerate(files)}
    for file in sorted(files, key=lambda f: (-f.size, order[f])):
        least = min(shares, key=lambda share: sum(part.size for part in share))
        least.append(Part(file, 0, file.size))
    return [sorted(share, key=lambda part: order[part.file]) for share in shares]


def shuffled(files: Sequence[File], seed: int, epoch: int) -> list[File]:
    """The files in an order that depends only on seed and epoch, the same on every machine."""
    return random.Random(f"{seed}/{epoch}").sample(sorted(files), len(files))


def worker_from(env: Mapping[str, str]) -> tuple[int, int]:
    """(this worker's number, how many there are) among those that train, from TF_CONFIG; (0, 1) without it."""
    text = env.get("TF_CONFIG")
    if not text:
        return 0, 1
    try:
        config = json.loads(text)
        roles = {role: len(config["cluster"][role]) for role in ("chief", "worker") if role in config["cluster"]}
        role, index = config["task"]["type"], int(config["task"]["index"])
    except (ValueError, KeyError, TypeError):
        raise ConfigurationError(
            f"TF_CONFIG is {text[:200]!r}", hint="tf-spawner sets it; or give worker and workers"
        ) from None
    if role not in roles:  # an evaluator reads all
        return 0, 1
    return index + (roles.get("chief", 0) if role == "worker" else 0), sum(roles.values())
