"""Small ROOT files with Delphes' tree and branch names, for tests: events are said as lists of particles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot

FIELDS = {
    "EFlowTrack": {"PT": "f4", "Eta": "f4", "Phi": "f4", "X": "f4", "Y": "f4", "Z": "f4", "PID": "i4"},
    "EFlowPhoton": {"ET": "f4", "Eta": "f4", "Phi": "f4"},
    "EFlowNeutralHadron": {"ET": "f4", "Eta": "f4", "Phi": "f4"},
    "Electron": {"PT": "f4", "Eta": "f4", "Phi": "f4", "Charge": "i4"},
    "MuonTight": {"PT": "f4", "Eta": "f4", "Phi": "f4", "Charge": "i4"},
    "MissingET": {"MET": "f4", "Phi": "f4"},
    "Jet": {"PT": "f4", "Eta": "f4", "BTag": "i4"},
}
Event = dict[str, list[tuple[float, ...]]]


def arrays_of(events: list[Event], skip: str = "") -> dict[str, Any]:
    """{branch: its particles} of events such as {"Jet": [(PT, Eta, BTag), …], …}."""
    found = {}
    for collection, fields in FIELDS.items():
        if collection == skip:
            continue
        counts = [len(event.get(collection, [])) for event in events]
        rows = [particle for event in events for particle in event.get(collection, [])]
        flat = {name: np.array([row[i] for row in rows], kind) for i, (name, kind) in enumerate(fields.items())}
        found[collection] = ak.unflatten(ak.zip(flat), counts)
    return found


def write(path: Path, arrays: dict[str, Any], tree: str = "Delphes") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with uproot.recreate(path) as file:
        made = file.mktree(
            tree,
            {name: array.type.content for name, array in arrays.items()},
            counter_name=lambda counted: f"{counted}_size",
            field_name=lambda outer, inner: f"{outer}.{inner}",
        )
        made.extend(arrays)
    return path


def random_arrays(seed: int, count: int, particles: int = 60) -> dict[str, Any]:
    """Events with a hard muon or electron each, in about the proportions that Delphes gives, but nothing physical."""
    random = np.random.default_rng(seed)
    mean = {"EFlowTrack": particles, "EFlowPhoton": particles, "EFlowNeutralHadron": particles / 2, "Jet": 3}
    found = {}
    for collection, fields in FIELDS.items():
        counts = random.poisson(mean.get(collection, 1), count) if collection != "MissingET" else np.ones(count, int)
        flat = {name: _values(random, name, counts.sum(), collection).astype(k) for name, k in fields.items()}
        found[collection] = ak.unflatten(ak.zip(flat), counts)
    return found


def _values(random: np.random.Generator, name: str, count: int, collection: str) -> np.ndarray:
    if name in ("PT", "ET", "MET"):
        return random.exponential(40 if collection in ("Electron", "MuonTight", "MissingET", "Jet") else 1.2, count)
    if name == "Eta":
        return random.uniform(-2.5, 2.5, count)
    if name == "Phi":
        return random.uniform(-np.pi, np.pi, count)
    if name == "PID":
        return random.choice([211, -211, 11, -13, 2212], count)
    if name == "Charge":
        return random.choice([-1, 1], count)
    return random.integers(0, 2, count) if name == "BTag" else random.normal(0, 30, count)
