"""Reads the events of Delphes' ROOT files, CERN's and our own, as columns of particles, some events at a time."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from ragged import Ragged

from tfspawner.errors import DataError

TREE, MUONS = "Delphes", "MuonTight"
EVENTS_AT_ONCE = 500
COLLECTIONS = {  # our name: Delphes' name, and the leaves that the features need (PT, ET, MET in GeV; X, Y, Z in mm)
    "track": ("EFlowTrack", ("PT", "Eta", "Phi", "X", "Y", "Z", "PID")),
    "photon": ("EFlowPhoton", ("ET", "Eta", "Phi")),
    "neutral": ("EFlowNeutralHadron", ("ET", "Eta", "Phi")),
    "electron": ("Electron", ("PT", "Eta", "Phi", "Charge")),
    "muon": (MUONS, ("PT", "Eta", "Phi", "Charge")),
    "met": ("MissingET", ("MET", "Phi")),
    "jet": ("Jet", ("PT", "Eta", "BTag")),
}


def read_events(
    path: Path, *, tree: str = TREE, muons: str = MUONS, at_once: int = EVENTS_AT_ONCE
) -> Iterator[dict[str, Ragged]]:
    """{name: its particles} of the events of a file, `at_once` at a time. Raises DataError for what is no such file."""
    with told_of(path), opened(path, tree) as found:
        branches = branches_of(path, found, tree, muons)
        names = list(branches.values())
        first = 0
        for arrays in found.iterate(names, step_size=at_once, how=dict):
            columns = {leaf: ragged_of(arrays[name]) for leaf, name in branches.items()}
            yield collections_of(path, columns, first, muons)
            first += len(arrays[names[0]])
        if first != found.num_entries:
            raise DataError(f"{path}: {first} of {found.num_entries} events could be read", hint="copy it again")


@contextmanager
def opened(path: Path, tree: str) -> Iterator[Any]:
    """The file's tree of that name."""
    import uproot

    with uproot.open(path) as file:
        found = file.get(tree)
        if found is None or not hasattr(found, "iterate"):
            there = ", ".join(sorted(set(file.keys(cycle=False)))) or "nothing"
            raise DataError(f"{path}: there is no tree {tree}; there is {there}", hint="--tree names another")
        yield found


@contextmanager
def told_of(path: Path) -> Iterator[None]:
    """uproot raises errors of any kind for damaged bytes: all of them become one."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{path}: it cannot be read as a ROOT file: {reason}", hint="it may be cut off: copy it again"
        ) from None


def branches_of(path: Path, tree: Any, name: str, muons: str) -> dict[str, str]:
    """{leaf such as EFlowTrack.PT: its branch}; a leaf may stand under its collection's branch, as Delphes writes it."""
    there = {posixpath.basename(key): key for key in tree.iterkeys()}
    found = {}
    for collection, leaves in wanted(muons).values():
        for leaf in (f"{collection}.{leaf}" for leaf in leaves):
            if leaf not in there:
                others = sorted({key.split(".")[0] for key in there if key.startswith("Muon") and key.endswith(".PT")})
                hint = f"--muons {others[0]}" if collection == muons and others else None
                raise DataError(f"{path}: the tree {name} has no branch {leaf}", hint=hint)
            found[leaf] = there[leaf]
    return found


def wanted(muons: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {**COLLECTIONS, "muon": (muons, COLLECTIONS["muon"][1])}


def ragged_of(array: Any) -> tuple[np.ndarray, np.ndarray]:
    """(number of values of each event, all values as float64) of an awkward array."""
    import awkward as ak

    if array.ndim == 1:
        return np.ones(len(array), np.int64), ak.to_numpy(array).astype(np.float64)
    return ak.to_numpy(ak.num(array)).astype(np.int64), ak.to_numpy(ak.flatten(array)).astype(np.float64)


def collections_of(
    path: Path, columns: Mapping[str, tuple[np.ndarray, np.ndarray]], first: int, muons: str
) -> dict[str, Ragged]:
    """The leaves' values as collections. Raises DataError where they do not go together."""
    found = {}
    for name, (collection, leaves) in wanted(muons).items():
        counts = columns[f"{collection}.{leaves[0]}"][0]
        for leaf in leaves:
            others, values = columns[f"{collection}.{leaf}"]
            if not np.array_equal(counts, others):
                raise DataError(
                    f"{path}: {collection}.{leaf} and {collection}.{leaves[0]} are not of the same particles"
                )
            if not np.isfinite(values).all():
                event = first + int(np.repeat(np.arange(len(counts)), counts)[~np.isfinite(values)][0])
                raise DataError(f"{path}: event {event}: {collection}.{leaf} is not a finite number")
        found[name] = Ragged(counts, {leaf: columns[f"{collection}.{leaf}"][1] for leaf in leaves})
    if (found["met"].counts != 1).any():
        event = first + int(np.flatnonzero(found["met"].counts != 1)[0])
        raise DataError(f"{path}: event {event} has {found['met'].counts[event - first]} MissingET, not 1")
    return found
