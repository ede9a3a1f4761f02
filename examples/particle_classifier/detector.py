"""A parametrised detector: true particles in, what would be reconstructed out, for a batch of events at once.

Tracks and leptons by efficiencies and smearing; calorimeters as grids of cells, whose energy beyond the tracks that
point at them becomes photons and neutral hadrons; anti-kt jets, b-tags and missing ET from those objects. All
resolutions and efficiencies are of the size of CMS's, for a tracker to |eta| < 4. Units: GeV, mm, rad.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import awkward as ak
import fastjet
import numpy as np
from collisions import BOTTOM, CHARM
from delphes import Objects

FIELD_T = 3.8
RADIUS_MM = 1290.0
HALF_LENGTH_MM = 3000.0
TRACKER_ETA = 4.0
LEPTON_ETA = 2.5

ELECTRON, MUON, PHOTON = 11, 13, 22

Flat = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class ByEta:
    """A number for each range of |eta|: below edges[0], below edges[1], and so on; 0 beyond the last."""

    edges: tuple[float, ...]
    values: tuple[float, ...]

    def __call__(self, eta: np.ndarray) -> np.ndarray:
        return np.array([*self.values, 0.0])[np.digitize(np.abs(eta), self.edges)]


TRACK_EFFICIENCY = ByEta(edges=(1.5, 2.5, TRACKER_ETA), values=(0.95, 0.88, 0.80))
TRACK_CONSTANT = ByEta(edges=(1.5, 2.5, TRACKER_ETA), values=(0.008, 0.015, 0.03))
TRACK_PER_GEV = ByEta(edges=(1.5, 2.5, TRACKER_ETA), values=(1.0e-4, 2.0e-4, 5.0e-4))
TRACK_PT_MIN = 0.15
SOFT_TRACKS = 0.4  # of that efficiency, below 0.5 GeV
ELECTRON_EFFICIENCY = ByEta(edges=(1.5, LEPTON_ETA), values=(0.93, 0.85))  # of those with a track
MUON_EFFICIENCY = ByEta(edges=(LEPTON_ETA,), values=(0.96,))
FAKE_ELECTRONS, FAKE_MUONS = 2e-4, 1e-4  # of charged hadrons with a track
LEPTON_PT_MIN = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Cells of a calorimeter in eta_min <= |eta| < eta_max; a relative resolution stochastic/sqrt(E) (+) noise/E
    (+) constant."""

    eta_min: float
    eta_max: float
    cell: float
    stochastic: float
    noise: float
    constant: float
    threshold: float
    significance: float = 1.0

    def resolution(self, energy: np.ndarray) -> np.ndarray:
        return np.sqrt(self.stochastic**2 * energy + self.noise**2 + (self.constant * energy) ** 2)

    def covers(self, eta: np.ndarray) -> np.ndarray:
        return (np.abs(eta) >= self.eta_min) & (np.abs(eta) < self.eta_max)

    @property
    def rows(self) -> int:
        return round(2 * self.eta_max / self.cell)

    @property
    def columns(self) -> int:
        return round(2 * np.pi / self.cell)

    def index(self, event: np.ndarray, eta: np.ndarray, phi: np.ndarray) -> np.ndarray:
        row = np.floor((eta + self.eta_max) / (2 * self.eta_max) * self.rows).astype(np.int64)
        column = np.floor((phi + np.pi) / (2 * np.pi) * self.columns).astype(np.int64) % self.columns
        return (event * np.int64(self.rows) + row) * self.columns + column

    def centre(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Event, eta and phi of a cell."""
        line, column = np.divmod(index, self.columns)
        event, row = np.divmod(line, self.rows)
        eta = (row + 0.5) * (2 * self.eta_max / self.rows) - self.eta_max
        return event, eta, (column + 0.5) * (2 * np.pi / self.columns) - np.pi


ECAL = (
    Grid(eta_min=0, eta_max=3, cell=0.0436, stochastic=0.05, noise=0.15, constant=0.007, threshold=0.3),
    Grid(eta_min=3, eta_max=5, cell=0.175, stochastic=0.3, noise=0.3, constant=0.05, threshold=1.5),
)
HCAL = (
    Grid(eta_min=0, eta_max=3, cell=0.0875, stochastic=1.0, noise=0.5, constant=0.05, threshold=0.8),
    Grid(eta_min=3, eta_max=5, cell=0.175, stochastic=1.5, noise=0.5, constant=0.07, threshold=2.0),
)


def simulate(particles: np.ndarray, hadrons: np.ndarray, events: int, rng: np.random.Generator) -> dict[str, Objects]:
    """Reconstructed objects of `events` events; `particles` and `hadrons` (dtype PARTICLE) are in order of event."""
    eta_outer, phi_outer = at_calorimeter(particles)
    tracks, source = reconstruct_tracks(particles, rng)
    electrons = leptons(tracks, ELECTRON, ELECTRON_EFFICIENCY, FAKE_ELECTRONS, rng)
    muons = leptons(tracks, MUON, MUON_EFFICIENCY, FAKE_MUONS, rng)
    hits = {"event": particles["event"], "eta": eta_outer, "phi": phi_outer, "energy": particles["energy"]}
    pointing = {name: hits[name][source] for name in ("event", "eta", "phi")} | {"energy": tracks["energy"]}
    kind = np.abs(particles["pid"])
    electromagnetic = (kind == ELECTRON) | (kind == PHOTON)
    photons = neutrals(ECAL, hits, electromagnetic, pointing, electromagnetic[source], rng)
    hadronic = ~electromagnetic & (kind != MUON)
    neutral_hadrons = neutrals(HCAL, hits, hadronic, pointing, hadronic[source], rng)
    flow = [tracks, photons, neutral_hadrons]
    jets = tagged(calibrated(cluster(flow, events), rng), hadrons, events, rng)
    jets = without_leptons(jets, [electrons, muons], events)
    return {
        "EFlowTrack": objects(tracks, events, ("PID", "Charge", "PT", "Eta", "Phi", "X", "Y", "Z")),
        "EFlowPhoton": objects(photons, events, ("ET", "Eta", "Phi")),
        "EFlowNeutralHadron": objects(neutral_hadrons, events, ("ET", "Eta", "Phi")),
        "Electron": objects(electrons, events, ("PT", "Eta", "Phi", "Charge")),
        "MuonTight": objects(muons, events, ("PT", "Eta", "Phi", "Charge")),
        "MissingET": objects(missing(flow, events), events, ("MET", "Phi")),
        "Jet": objects(jets, events, ("PT", "Eta", "Phi", "Mass", "Flavor", "BTag")),
    }


def objects(flat: Flat, events: int, leaves: Sequence[str]) -> Objects:
    counts = np.bincount(flat["event"], minlength=events)
    return Objects(counts=counts, leaves={name: flat[name] for name in leaves})


def select(flat: Flat, chosen: np.ndarray) -> Flat:
    return {name: values[chosen] for name, values in flat.items()}


def at_calorimeter(particles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eta and phi, seen from the origin, where a particle from near the beam leaves the tracker's volume; eta is NaN
    for one that the field turns back before."""
    slope = np.sinh(particles["eta"])
    turning_mm = 1e3 * particles["pt"] / (0.3 * FIELD_T)  # radius of the circle of charge 1
    turning_mm = np.where(particles["charge"] == 0, 1e9, turning_mm)
    to_end = (HALF_LENGTH_MM - np.sign(slope) * particles["z"]) / np.maximum(np.abs(slope), 1e-9) / turning_mm
    chord = RADIUS_MM / (2 * turning_mm)
    to_side = np.where(chord < 1, 2 * np.arcsin(np.minimum(chord, 1)), np.inf)
    angle = np.minimum(to_end, to_side)
    out = (angle > 0) & (angle <= np.pi)
    radius = np.maximum(2 * turning_mm * np.sin(angle / 2), 1e-3)
    along = particles["z"] + slope * turning_mm * np.where(out, angle, 0)
    phi = particles["phi"] - np.sign(particles["charge"]) * np.where(out, angle, 0) / 2
    return np.where(out, np.arcsinh(along / radius), np.nan), wrapped(phi)


def wrapped(phi: np.ndarray) -> np.ndarray:
    return (phi + np.pi) % (2 * np.pi) - np.pi


def reconstruct_tracks(particles: np.ndarray, rng: np.random.Generator) -> tuple[Flat, np.ndarray]:
    """Tracks, and the index of each one's particle."""
    efficiency = TRACK_EFFICIENCY(particles["eta"]) * np.where(particles["pt"] < 0.5, SOFT_TRACKS, 1)
    found = (particles["charge"] != 0) & (particles["pt"] > TRACK_PT_MIN) & (rng.random(len(particles)) < efficiency)
    true = particles[found]
    spread = np.hypot(TRACK_CONSTANT(true["eta"]), TRACK_PER_GEV(true["eta"]) * true["pt"])
    scale = np.maximum(1 + spread * rng.standard_normal(len(true)), 0.05)
    named = {"PID": "pid", "Charge": "charge", "Eta": "eta", "Phi": "phi", "X": "x", "Y": "y", "Z": "z"}
    tracks = {leaf: true[name] for leaf, name in named.items()}
    momentum = {"event": true["event"], "PT": true["pt"] * scale, "energy": true["energy"] * scale}
    return tracks | momentum, np.flatnonzero(found)


def leptons(tracks: Flat, pid: int, efficiency: ByEta, fakes: float, rng: np.random.Generator) -> Flat:
    """Tracks that are taken for electrons (11) or muons (13): their own, and a few of charged hadrons."""
    kind = np.abs(tracks["PID"])
    probability = np.where(kind == pid, efficiency(tracks["Eta"]), 0)
    probability = np.where((kind > 100) & (np.abs(tracks["Eta"]) < LEPTON_ETA), fakes, probability)
    return select(tracks, (tracks["PT"] > LEPTON_PT_MIN) & (rng.random(len(kind)) < probability))


def neutrals(
    grids: Sequence[Grid], hits: Flat, deposits: np.ndarray, pointing: Flat, absorbed: np.ndarray, rng
) -> Flat:
    """Energy above the tracks', of both parts of a calorimeter, in order of event."""
    parts = [
        excess(grid, select(hits, deposits & grid.covers(hits["eta"])),
               select(pointing, absorbed & grid.covers(pointing["eta"])), rng)
        for grid in grids
    ]  # fmt: skip
    together = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return select(together, np.argsort(together["event"], kind="stable"))


def excess(grid: Grid, hits: Flat, tracks: Flat, rng: np.random.Generator) -> Flat:
    """Cells with significantly more energy than the tracks that point at them."""
    cells, cell = np.unique(grid.index(hits["event"], hits["eta"], hits["phi"]), return_inverse=True)
    true = np.bincount(cell, hits["energy"], len(cells))
    measured = true + grid.resolution(true) * rng.standard_normal(len(cells))
    aimed = grid.index(tracks["event"], tracks["eta"], tracks["phi"])
    at = np.minimum(np.searchsorted(cells, aimed), max(len(cells) - 1, 0))
    known = np.bincount(at, tracks["energy"], len(cells)) if len(cells) else np.zeros(0)
    energy = measured - known
    kept = (energy > grid.threshold) & (energy > grid.significance * grid.resolution(np.maximum(measured, 0)))
    event, eta, phi = grid.centre(cells[kept])
    return {"event": event, "ET": energy[kept] / np.cosh(eta), "Eta": eta, "Phi": phi}


def cluster(flow: Sequence[Flat], events: int) -> Flat:
    """Anti-kt jets, R = 0.4, of massless objects, above 10 GeV."""
    pt = np.concatenate([part.get("PT", part.get("ET")) for part in flow])
    event, eta, phi = (np.concatenate([part[name] for part in flow]) for name in ("event", "Eta", "Phi"))
    order = np.argsort(event, kind="stable")
    momenta = {"px": pt * np.cos(phi), "py": pt * np.sin(phi), "pz": pt * np.sinh(eta), "E": pt * np.cosh(eta)}
    inputs = ak.unflatten(ak.zip(select(momenta, order), with_name="Momentum4D"), np.bincount(event, minlength=events))
    jets = fastjet.ClusterSequence(inputs, fastjet.JetDefinition(fastjet.antikt_algorithm, 0.4)).inclusive_jets(10)
    found = {name: np.asarray(ak.flatten(jets[name])) for name in momenta}
    return kinematics(found, np.repeat(np.arange(events), ak.num(jets)))


def kinematics(momenta: Flat, event: np.ndarray) -> Flat:
    pt = np.hypot(momenta["px"], momenta["py"])
    mass = momenta["E"] ** 2 - pt**2 - momenta["pz"] ** 2
    direction = {"Eta": np.arcsinh(momenta["pz"] / pt), "Phi": np.arctan2(momenta["py"], momenta["px"])}
    return {"event": event, "PT": pt, "Mass": np.sqrt(np.maximum(mass, 0))} | direction


def calibrated(jets: Flat, rng: np.random.Generator) -> Flat:
    """Energy scale with an uncertainty of 3 %; jets of 20 GeV and more within |eta| < 5, hardest first."""
    scale = 1 + 0.03 * rng.standard_normal(len(jets["PT"]))
    jets = jets | {"PT": jets["PT"] * scale, "Mass": jets["Mass"] * scale}
    jets = select(jets, (jets["PT"] > 20) & (np.abs(jets["Eta"]) < 5))
    return select(jets, np.lexsort((-jets["PT"], jets["event"])))


def tagged(jets: Flat, hadrons: np.ndarray, events: int, rng: np.random.Generator) -> Flat:
    """Flavor (5, 4 or 0) by hadrons above 5 GeV within dR < 0.4, and BTag drawn for it."""
    hard = hadrons[hadrons["pt"] > 5]
    flavor = np.zeros(len(jets["PT"]), dtype=np.int32)
    for number, kinds in ((4, CHARM), (5, BOTTOM)):
        chosen = hard[np.isin(np.abs(hard["pid"]), kinds)]
        found = {"event": chosen["event"], "Eta": chosen["eta"], "Phi": chosen["phi"]}
        jet, _ = near(jets, found, events, 0.4)
        flavor[jet] = number
    tag = rng.random(len(flavor)) < tag_probability(flavor, jets["PT"], jets["Eta"])
    return jets | {"Flavor": flavor, "BTag": tag.astype(np.int32)}


def tag_probability(flavor: np.ndarray, pt: np.ndarray, eta: np.ndarray) -> np.ndarray:
    """Of a b jet up to 0.65 around 100 GeV, of a c jet up to 0.15, else 0.01 and slowly more; none without tracks."""
    turn_on = 1 - np.exp(-pt / 30)
    bottom, charm, light = 0.65 * turn_on / (1 + pt / 2000), 0.15 * turn_on, 0.01 + 3e-5 * pt
    probability = np.where(flavor == 5, bottom, np.where(flavor == 4, charm, light))
    return np.where(np.abs(eta) < LEPTON_ETA, probability, 0)


def without_leptons(jets: Flat, found: Sequence[Flat], events: int) -> Flat:
    """Leaves out jets that are a lepton and little else: within dR < 0.4 of one with over 0.7 of the jet's pT."""
    lepton = np.zeros(len(jets["PT"]), dtype=bool)
    for kind in found:
        jet, near_by = near(jets, kind, events, 0.4)
        lepton[jet[kind["PT"][near_by] > 0.7 * jets["PT"][jet]]] = True
    return select(jets, ~lepton)


def near(left: Flat, right: Flat, events: int, distance: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices of all pairs of the same event closer than `distance` in (eta, phi); `right` is in order of event."""
    counts = np.bincount(right["event"], minlength=events)
    first = np.cumsum(counts) - counts
    pairs = counts[left["event"]]
    i = np.repeat(np.arange(len(pairs)), pairs)
    j = first[left["event"]][i] + np.arange(len(i)) - np.repeat(np.cumsum(pairs) - pairs, pairs)
    apart = np.hypot(left["Eta"][i] - right["Eta"][j], wrapped(left["Phi"][i] - right["Phi"][j]))
    return i[apart < distance], j[apart < distance]


def missing(flow: Sequence[Flat], events: int) -> Flat:
    """Minus the sum of all objects' transverse momenta."""
    x, y = np.zeros(events), np.zeros(events)
    for part in flow:
        pt = part.get("PT", part.get("ET"))
        x -= np.bincount(part["event"], pt * np.cos(part["Phi"]), events)
        y -= np.bincount(part["event"], pt * np.sin(part["Phi"]), events)
    return {"event": np.arange(events), "MET": np.hypot(x, y), "Phi": np.arctan2(y, x)}
