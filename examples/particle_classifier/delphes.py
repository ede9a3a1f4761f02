"""Writes events as a ROOT file laid out as Delphes writes one: a tree "Delphes", a branch for each leaf of an object.

Leaves are named as in a Delphes file ("EFlowTrack.PT", float32 or int32, jagged) with one counter for each kind of
object ("EFlowTrack_size"), so `tree["EFlowTrack.PT"]` reads both. uproot cannot write split C++ classes: here the
leaves lie at the top of the tree, where Delphes has them inside a branch "EFlowTrack". Delphes' bookkeeping leaves
(fUniqueID, fBits) and references between objects are left out.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import awkward as ak
import numpy as np
import uproot

TREE = "Delphes"
COMPRESSIONS = {"zlib": uproot.ZLIB(1), "lzma": uproot.LZMA(9)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Objects:
    """All objects of one kind of a number of events: how many each event has, and every leaf as a flat array."""

    counts: np.ndarray
    leaves: Mapping[str, np.ndarray]

    def jagged(self, mantissa_bits: int) -> ak.Array:
        leaves = {name: leaf(values, mantissa_bits) for name, values in self.leaves.items()}
        return ak.unflatten(ak.zip(leaves), self.counts)


def leaf(values: np.ndarray, mantissa_bits: int) -> np.ndarray:
    if np.issubdtype(values.dtype, np.integer):
        return values.astype(np.int32)
    return rounded(values.astype(np.float32), mantissa_bits)


def rounded(values: np.ndarray, mantissa_bits: int) -> np.ndarray:
    """float32 values to the nearest one of that many mantissa bits (of 23): zeros at their ends compress well."""
    drop = 23 - mantissa_bits
    if not drop:
        return values
    bits = values.view(np.uint32) + np.uint32(1 << (drop - 1))
    return (bits & np.uint32(0xFFFFFFFF << drop & 0xFFFFFFFF)).view(np.float32)


def write(
    path: Path, batches: Iterable[Mapping[str, Objects]], *, mantissa_bits: int = 23, compression: str = "zlib"
) -> None:
    """Each batch becomes one basket a branch. The file appears under its name only when it is whole."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with uproot.recreate(partial, compression=COMPRESSIONS[compression]) as file:
            tree = None
            for batch in batches:
                jagged = {kind: objects.jagged(mantissa_bits) for kind, objects in batch.items()}
                tree = new_tree(file, jagged) if tree is None else tree
                tree.extend(jagged)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def new_tree(file: uproot.WritableDirectory, jagged: Mapping[str, ak.Array]) -> uproot.WritableTree:
    return file.mktree(
        TREE,
        {kind: objects.type.content for kind, objects in jagged.items()},
        title="Analysis tree",
        counter_name=lambda kind: f"{kind}_size",
        field_name=lambda kind, leaf: f"{kind}.{leaf}",
    )
