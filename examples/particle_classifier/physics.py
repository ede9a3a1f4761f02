"""The event selection and the features of the particle classifier, as functions on whole arrays of events.

What the published data are stands in arXiv:1909.10389 and its notebooks. Some of it is not what physics would have
(see CORRECTIONS); the default is what the published data are, and each of these is put right by its name.
Angles are in radians, momenta and energies in GeV, lengths in mm; η and ΔR have no unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from ragged import Ragged, joined, starts

CLASSES = ("qcd", "ttbar", "wjets")
HIGH_LEVEL = (
    "HT", "MET", "phiMET", "MT2", "nJets", "nBjets", "LepPt", "LepEta", "LepPhi",
    "LepIsoCh", "LepIsoGamma", "LepIsoNeu", "LepCharge", "LepIsEle",
)  # fmt: skip
LOW_LEVEL = (
    "Energy", "Px", "Py", "Pz", "Pt", "Eta", "Phi", "vtxX", "vtxY", "vtxZ", "ChPFIso", "GammaPFIso", "NeuPFIso",
    "isChHad", "isNeuHad", "isGamma", "isEle", "isMu", "Charge",
)  # fmt: skip
ETA, PHI = LOW_LEVEL.index("Eta"), LOW_LEVEL.index("Phi")
ROWS, WIDTH = 801, len(LOW_LEVEL)
MOST_TRACKS, MOST_PHOTONS, MOST_NEUTRALS = 450, 150, 200

CORRECTIONS = {
    "phi": "isolation cones reach across φ = ±π (published: they are cut there)",
    "lepton": "of an electron and a muon the one of larger pT is taken (published: of larger η)",
    "mass": "the feature MT2 is the transverse mass in GeV (published: its square)",
    "charge": "tracks of electrons and muons have their charge (published: the sign of the PDG number, its opposite)",
}

LEPTON_PT, LEPTON_ISOLATION = 23.0, 0.45
TRACK_PT, TOWER_ET = 0.5, 1.0
JET_PT, JET_ETA = 30.0, 2.6
CONE = 0.3
SAME_TRACK = 1e-4  # ΔR from the lepton to its own track, at most
PAIRS_AT_ONCE = 1 << 20
ROUNDING = 1e-6  # more than what η loses in a search key


@dataclass(frozen=True, slots=True)
class Selected:
    """What is kept of some events."""

    features: np.ndarray  # (selected events, 14), see HIGH_LEVEL
    counts: np.ndarray  # (selected events,): the particles of each, at most 801
    particles: np.ndarray  # (all their particles, 19), see LOW_LEVEL; each event's lepton first
    stages: dict[str, int]  # events read, with a lepton of 23 GeV, selected

    def __len__(self) -> int:
        return len(self.counts)


def momentum(pt: np.ndarray, eta: np.ndarray, phi: np.ndarray) -> tuple[np.ndarray, ...]:
    """(E, px, py, pz) in GeV of massless particles."""
    pt = np.abs(pt)
    px, py, pz = pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)
    return np.sqrt(px * px + py * py + pz * pz), px, py, pz


def direction(px: np.ndarray, py: np.ndarray, pz: np.ndarray) -> tuple[np.ndarray, ...]:
    """(pT in GeV, η, φ) of momenta in GeV; η is infinite along the beam, and of a particle at rest too."""
    size = np.sqrt(px * px + py * py + pz * pz)
    cosine = np.divide(pz, size, out=np.ones_like(size), where=size > 0)
    with np.errstate(divide="ignore"):
        eta = -0.5 * np.log((1 - cosine) / (1 + cosine))
    return np.sqrt(px * px + py * py), eta, np.arctan2(py, px)


def delta_phi(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The difference of two angles, of at most π either way."""
    difference = one - other
    return difference - 2 * np.pi * (difference > np.pi) + 2 * np.pi * (difference < -np.pi)


def delta_r(eta: np.ndarray, phi: np.ndarray, other_eta: np.ndarray, other_phi: np.ndarray) -> np.ndarray:
    """√(Δη² + Δφ²)."""
    return np.sqrt((eta - other_eta) ** 2 + delta_phi(phi, other_phi) ** 2)


def cone_sums(particles: Ragged, others: Ragged, *, wrap: bool, pairs_at_once: int = PAIRS_AT_ONCE) -> np.ndarray:
    """The pT in GeV of the others of the same event with ΔR < 0.3, for each particle (pt, eta, phi).

    The others are sorted by η, so that only those within 0.3 in η are looked at, some pairs at once; they are added
    in that order, whatever the number of pairs and of events. `wrap` is whether the cone reaches across φ = ±π.
    """
    order = np.lexsort((others["eta"], others.event))
    pt, eta, phi = (others[name][order] for name in ("pt", "eta", "phi"))
    span = 2 * max(np.abs(eta).max(initial=0), np.abs(particles["eta"]).max(initial=0)) + 2
    keys, wanted = others.event * span + eta, particles.event * span + particles["eta"]
    low = np.searchsorted(keys, wanted - CONE - ROUNDING)
    counts = np.searchsorted(keys, wanted + CONE + ROUNDING) - low
    sums = np.zeros(len(particles))
    for some in portions(counts, pairs_at_once):
        sizes = counts[some]
        who = np.repeat(np.arange(len(sizes)), sizes)
        other = np.repeat(low[some] - starts(sizes), sizes) + np.arange(len(who))
        turn = (
            particles["phi"][some][who] - phi[other] if not wrap else delta_phi(particles["phi"][some][who], phi[other])
        )
        inside = (particles["eta"][some][who] - eta[other]) ** 2 + turn**2 < CONE**2
        sums[some] = np.bincount(who[inside], weights=pt[other[inside]], minlength=len(sizes))
    return sums


def portions(sizes: np.ndarray, limit: int) -> Iterator[slice]:
    """Neighbours of at most `limit` together, or one that alone is larger."""
    ends = np.cumsum(sizes)
    first = 0
    while first < len(sizes):
        before = ends[first - 1] if first else 0
        last = max(int(np.searchsorted(ends, before + limit, "right")), first + 1)
        yield slice(first, last)
        first = last


def isolation(particles: Ragged, maps: Mapping[str, Ragged], *, wrap: bool) -> np.ndarray:
    """(particles, 3): the pT in the cone over the particle's own, of charged particles, photons and neutral hadrons.

    From the charged one 1 is subtracted, the particle's own share, as published: whether or not it is charged.
    Photons' and neutral hadrons' own shares stay in. All are 0 for a particle without pT.
    """
    own = particles["pt"]
    found = np.zeros((len(particles), 3))
    for column, kind in enumerate(("charged", "photon", "neutral")):
        sums = cone_sums(particles, maps[kind], wrap=wrap)
        np.divide(sums, own, out=found[:, column], where=own > 0)
    found[own > 0, 0] -= 1
    return found


def isolation_maps(events: Mapping[str, Ragged]) -> dict[str, Ragged]:
    """The particles that isolation is of: tracks above 0.5 GeV, photons and neutral hadrons above 1 GeV."""
    tracks, photons, neutrals = events["track"], events["photon"], events["neutral"]
    return {
        "charged": tracks.keep(tracks["PT"] > TRACK_PT).renamed(pt="PT", eta="Eta", phi="Phi"),
        "photon": photons.keep(photons["ET"] > TOWER_ET).renamed(pt="ET", eta="Eta", phi="Phi"),
        "neutral": neutrals.keep(neutrals["ET"] > TOWER_ET).renamed(pt="ET", eta="Eta", phi="Phi"),
    }


def first_isolated(leptons: Ragged, maps: Mapping[str, Ragged], *, wrap: bool) -> tuple[np.ndarray, Ragged]:
    """Which events have a lepton above 23 GeV with an isolation below 0.45, and the first such lepton of each event."""
    hard = leptons.keep(leptons["PT"] > LEPTON_PT)
    seen = hard.renamed(pt="PT", eta="Eta", phi="Phi")
    charged, photon, neutral = isolation(seen, maps, wrap=wrap).T
    columns = {**seen.columns, "charge": hard["Charge"], "charged": charged, "photon": photon, "neutral": neutral}
    isolated = Ragged(hard.counts, columns).keep(charged + neutral + photon < LEPTON_ISOLATION).first(1)
    return isolated.counts > 0, isolated


def choose_leptons(events: Mapping[str, Ragged], maps: Mapping[str, Ragged], fix: frozenset[str]) -> Ragged:
    """The lepton of each event that has one: 0 or 1 an event, with the column `electron` 1 or 0."""
    is_there, electrons = first_isolated(events["electron"], maps, wrap="phi" in fix)
    muon_there, muons = first_isolated(events["muon"], maps, wrap="phi" in fix)
    by = "pt" if "lepton" in fix else "eta"
    best = [np.full(len(is_there), -np.inf) for _ in range(2)]
    best[0][is_there], best[1][muon_there] = electrons[by], muons[by]
    electron_wins, muon_wins = is_there & (best[0] > best[1]), muon_there & (best[1] >= best[0])
    chosen = [
        electrons.keep(np.repeat(electron_wins, electrons.counts)),
        muons.keep(np.repeat(muon_wins, muons.counts)),
    ]
    counts, places = joined(chosen)
    columns = {name: np.empty(counts.sum()) for name in [*electrons.columns, "electron"]}
    for part, place, electron in zip(chosen, places, (1.0, 0.0), strict=True):
        for name, values in columns.items():
            values[place] = part[name] if name != "electron" else electron
    return Ragged(counts, columns)


def select(events: Mapping[str, Ragged], fix: frozenset[str] = frozenset()) -> Selected:
    """The events with an isolated lepton above 23 GeV and no empty isolation map, with their features.

    `events` has the collections of events.COLLECTIONS; `fix` the names of CORRECTIONS to be made.
    """
    maps = isolation_maps(events)
    leptons = choose_leptons(events, maps, fix)
    hard = sum(events[kind].keep(events[kind]["PT"] > LEPTON_PT).counts for kind in ("electron", "muon"))
    full = np.all([kind.counts > 0 for kind in maps.values()], axis=0)
    kept = full & (leptons.counts > 0)
    events = {name: collection.of_events(kept) for name, collection in events.items()}
    maps = {name: collection.of_events(kept) for name, collection in maps.items()}
    lepton = leptons.of_events(kept)
    stages = {"read": len(kept), "with_lepton": int((hard > 0).sum()), "selected": int(kept.sum())}
    counts, particles = particle_rows(events, maps, lepton, fix)
    return Selected(high_level(events, lepton, fix), counts, particles, stages)


def lepton_direction(lepton: Ragged) -> tuple[np.ndarray, ...]:
    """(pT, η, φ) as they come back from the lepton's momentum."""
    return direction(*momentum(lepton["pt"], lepton["eta"], lepton["phi"])[1:])


def high_level(events: Mapping[str, Ragged], lepton: Ragged, fix: frozenset[str]) -> np.ndarray:
    """(events, 14): the features of HIGH_LEVEL; HT, MET and LepPt in GeV, MT2 in GeV², angles in radians."""
    jets = events["jet"]
    jets = jets.keep((jets["PT"] > JET_PT) & (np.abs(jets["Eta"]) < JET_ETA))
    missing = events["met"].first(1)
    met, phi_met = missing["MET"], missing["Phi"]
    pt, eta, phi = lepton_direction(lepton)
    mass = 2 * met * pt * (1 - np.cos(phi - phi_met))
    if "mass" in fix:
        mass = np.sqrt(mass)
    b_jets = jets.keep(jets["BTag"] > 0)
    isolated = [lepton[kind] for kind in ("charged", "photon", "neutral")]
    return np.column_stack([
        jets.total(jets["PT"]), met, phi_met, mass, jets.counts, b_jets.counts, pt, eta, phi,
        *isolated, lepton["charge"], lepton["electron"],
    ])  # fmt: skip


def particle_rows(
    events: Mapping[str, Ragged], maps: Mapping[str, Ragged], lepton: Ragged, fix: frozenset[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Each event's number of particles, and their rows of LOW_LEVEL's columns: E, p in GeV, vertices in mm.

    The lepton comes first, then up to 450 tracks, 150 photons and 200 neutral hadrons, each in the file's order.
    """
    tracks, photons, neutrals = events["track"], events["photon"], events["neutral"]
    apart = delta_r(tracks["Eta"], tracks["Phi"], *(x[tracks.event] for x in lepton_direction(lepton)[1:])) > SAME_TRACK
    tracks = tracks.keep((tracks["PT"] > TRACK_PT) & apart).first(MOST_TRACKS)
    photons = photons.keep(photons["ET"] > TOWER_ET).first(MOST_PHOTONS)
    neutrals = neutrals.keep(neutrals["ET"] > TOWER_ET).first(MOST_NEUTRALS)
    counts, places = joined([lepton, tracks, photons, neutrals])
    rows = np.zeros((counts.sum(), WIDTH))
    rows[places[0]] = lepton_rows(lepton)
    seen = [
        (tracks.renamed(pt="PT", eta="Eta", phi="Phi"), "isChHad"),
        (photons.renamed(pt="ET", eta="Eta", phi="Phi"), "isGamma"),
        (neutrals.renamed(pt="ET", eta="Eta", phi="Phi"), "isNeuHad"),
    ]
    for place, (particles, kind) in zip(places[1:], seen, strict=True):
        rows[place] = rows_of(particles, isolation(particles, maps, wrap="phi" in fix), kind)
    for column, values in zip(("vtxX", "vtxY", "vtxZ"), ("X", "Y", "Z"), strict=True):
        rows[places[1], LOW_LEVEL.index(column)] = tracks[values]
    rows[places[1], LOW_LEVEL.index("Charge")] = track_charge(tracks["PID"], right="charge" in fix)
    return counts, rows


def rows_of(particles: Ragged, isolations: np.ndarray, kind: str) -> np.ndarray:
    """(particles, 19): momentum, direction, isolation and kind; no vertex and no charge."""
    rows = np.zeros((len(particles), WIDTH))
    rows[:, :4] = np.column_stack(momentum(particles["pt"], particles["eta"], particles["phi"]))
    rows[:, 4:7] = np.column_stack([particles["pt"], particles["eta"], particles["phi"]])
    rows[:, 10:13] = isolations
    rows[:, LOW_LEVEL.index(kind)] = 1
    return rows


def lepton_rows(lepton: Ragged) -> np.ndarray:
    """(leptons, 19); the direction is the one that comes back from the momentum."""
    isolations = np.column_stack([lepton[kind] for kind in ("charged", "photon", "neutral")])
    rows = rows_of(lepton, isolations, "isEle")
    rows[:, 4:7] = np.column_stack(lepton_direction(lepton))
    rows[:, LOW_LEVEL.index("isEle")] = lepton["electron"]
    rows[:, LOW_LEVEL.index("isMu")] = 1 - lepton["electron"]
    rows[:, LOW_LEVEL.index("Charge")] = lepton["charge"]
    return rows


def track_charge(pdg: np.ndarray, *, right: bool) -> np.ndarray:
    """The sign of the PDG number, and if right: turned for e, µ and τ, whose positive numbers are negative particles."""
    sign = np.sign(pdg)
    return np.where(np.isin(np.abs(pdg), (11, 13, 15)), -sign, sign) if right else sign
