"""Features and selection: events computed by hand, every pair looked at one by one, and the published events."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from delphes_files import FIELDS, Event, arrays_of, random_arrays
from events import COLLECTIONS, ragged_of
from physics import (
    CORRECTIONS,
    HIGH_LEVEL,
    LOW_LEVEL,
    ROWS,
    Selected,
    cone_sums,
    delta_phi,
    direction,
    isolation,
    isolation_maps,
    momentum,
    portions,
    select,
)  # fmt: skip
from ragged import Ragged, joined
from scaling import Ranges

PI = math.pi
ALL = frozenset(CORRECTIONS)

# A negative muon of 30 GeV with its own track, and in its cone: a track of 3 GeV, a photon of 1.5, a neutral of 2.
MUON: Event = {
    "MuonTight": [(30, 0.5, 1.0, -1)],
    "EFlowTrack": [
        (30, 0.5, 1.0, 0.1, 0.2, 7, 13),
        (3, 0.5, 1.2, 0.3, 0.4, 8, -211),
        (0.5, 0.5, 1.0, 0, 0, 0, 211),  # not above 0.5
        (4, 0.5, 1.31, 0, 0, 0, -11),  # ΔR 0.31
    ],
    "EFlowPhoton": [(1.5, 0.7, 1.0), (1, 0.5, 1.0), (20, -2, 1.0)],
    "EFlowNeutralHadron": [(2, 0.5, 0.9), (50, 0.5, 1.0 - PI)],
    "MissingET": [(40, 1.0 - PI / 2)],
    "Jet": [(50, 1, 1), (40, -2.5, 0), (29, 0, 1), (60, 2.7, 1), (30, 0, 1)],
}


def events_of(arrays: dict) -> dict[str, Ragged]:
    """As read_events gives them, without a file."""
    found = {}
    for name, (collection, leaves) in COLLECTIONS.items():
        values = {leaf: ragged_of(arrays[collection][leaf]) for leaf in leaves}
        found[name] = Ragged(values[leaves[0]][0], {leaf: flat for leaf, (_, flat) in values.items()})
    return found


def selected(*events: Event, fix: frozenset[str] = frozenset()) -> Selected:
    return select(events_of(arrays_of(list(events))), fix)


def feature(of: Selected, name: str) -> np.ndarray:
    return of.features[:, HIGH_LEVEL.index(name)]


def column(of: Selected, name: str) -> np.ndarray:
    return of.particles[:, LOW_LEVEL.index(name)]


def but(**collections: list) -> Event:
    return {**MUON, **collections}


def test_high_level_features_of_a_muon_computed_by_hand():
    found = selected(MUON)
    by_hand = {
        "HT": 90, "MET": 40, "phiMET": 1 - PI / 2, "MT2": 2 * 40 * 30, "nJets": 2, "nBjets": 1, "LepPt": 30,
        "LepEta": 0.5, "LepPhi": 1, "LepIsoCh": 0.1, "LepIsoGamma": 0.05, "LepIsoNeu": 2 / 30, "LepCharge": -1,
        "LepIsEle": 0,
    }  # fmt: skip
    assert dict(zip(HIGH_LEVEL, found.features[0], strict=True)) == pytest.approx(by_hand, rel=1e-6)
    assert found.stages == {"read": 1, "with_lepton": 1, "selected": 1}


def test_low_level_rows_of_a_muon_computed_by_hand():
    found = selected(MUON)
    assert found.counts.tolist() == [7]  # the muon, 2 tracks without its own, 2 photons, 2 neutral hadrons
    sinh, cosh = math.sinh(0.5), math.cosh(0.5)
    muon = [30 * cosh, 30 * math.cos(1), 30 * math.sin(1), 30 * sinh, 30, 0.5, 1, 0, 0, 0, 0.1, 0.05, 2 / 30]
    assert found.particles[0] == pytest.approx([*muon, 0, 0, 0, 0, 1, -1], rel=1e-6)
    track = [3 * cosh, 3 * math.cos(1.2), 3 * math.sin(1.2), 3 * sinh, 3, 0.5, 1.2, 0.3, 0.4, 8]
    # In the track's cone: itself, the muon's track and the one of 4 GeV; the photon at ΔR √0.08 = 0.28; no neutral at 0.3
    assert found.particles[1] == pytest.approx([*track, 37 / 3 - 1, 0.5, 0, 1, 0, 0, 0, 0, -1], rel=1e-6)
    photon = [1.5 * math.cosh(0.7), 1.5 * math.cos(1), 1.5 * math.sin(1), 1.5 * math.sinh(0.7), 1.5, 0.7, 1, 0, 0, 0]
    # A photon has no part in the charged sum, yet 1 is taken away; its own part in the photons' sum stays in.
    assert found.particles[3] == pytest.approx([*photon, 33 / 1.5 - 1, 1, 2 / 1.5, 0, 0, 1, 0, 0, 0], rel=1e-6)
    assert column(found, "ChPFIso")[[4, 6]].tolist() == [-1, -1]  # nothing charged near the others
    assert column(found, "isNeuHad").tolist() == [0, 0, 0, 0, 0, 1, 1]


def test_only_above_each_threshold_is_selected():
    at_the_edge = but(MuonTight=[(23, 0.5, 1.0, -1)])
    isolated = but(EFlowTrack=[(30, 0.5, 1, 0, 0, 0, 13), (13.49 - 3.5, 0.5, 1, 0, 0, 0, 211)])
    too_much = but(EFlowTrack=[(30, 0.5, 1, 0, 0, 0, 13), (13.51 - 3.5, 0.5, 1, 0, 0, 0, 211)])
    found = selected(at_the_edge, isolated, too_much, {**MUON, "MuonTight": []})
    assert found.stages == {"read": 4, "with_lepton": 2, "selected": 1}
    assert feature(found, "LepIsoCh") == pytest.approx([9.99 / 30], rel=1e-6)


@pytest.mark.parametrize("collection", ["EFlowTrack", "EFlowPhoton", "EFlowNeutralHadron"])
def test_an_event_with_an_empty_map_is_dropped(collection: str):
    below = tuple([0.4, 0, 0, 0, 0, 0, 211][: len(FIELDS[collection])])
    far = but(EFlowTrack=[(1, 3, 0, 0, 0, 0, 211)])  # isolated, so that the map alone decides
    assert len(selected(far)) == 1
    assert len(selected({**far, collection: [below]})) == 0
    assert len(selected({**far, collection: []})) == 0


def test_the_first_isolated_lepton_is_taken_not_the_hardest():
    found = selected(but(MuonTight=[(90, 0.5, 1.31, 1), (24, -1, -1, 1), (80, -2, -2, -1)]))
    assert feature(found, "LepPt") == pytest.approx([90])
    shadowed = but(
        MuonTight=[(24, 0.5, 1.0, 1), (25, -1, -1, 1), (80, -2, -2, -1)],
        EFlowNeutralHadron=[(20, 0.5, 1.0)],  # beside the first muon
    )
    assert feature(selected(shadowed), "LepPt") == pytest.approx([25])


def test_of_electron_and_muon_the_published_data_have_the_larger_eta_and_lepton_puts_it_right():
    both = but(Electron=[(80, -1.5, 2.5, 1)])
    published, right = selected(both), selected(both, fix=frozenset({"lepton"}))
    assert (feature(published, "LepIsEle"), feature(published, "LepCharge")) == (0, -1)
    assert (feature(right, "LepIsEle"), feature(right, "LepCharge")) == (1, 1)
    assert column(right, "isEle").tolist()[0] == 1
    assert column(right, "isMu").sum() == 0


def test_an_electron_and_a_muon_alone_are_each_taken():
    electron = but(MuonTight=[], Electron=[(50, -1.5, 2.5, 1)])
    found = selected(electron, MUON, electron)
    assert feature(found, "LepIsEle").tolist() == [1, 0, 1]
    assert feature(found, "LepPt") == pytest.approx([50, 30, 50])


def test_cones_are_cut_at_phi_pi_as_published_and_whole_when_phi_is_put_right():
    seam = but(
        MuonTight=[(30, 0, PI - 0.05, 1)],
        EFlowTrack=[(30, 0, PI - 0.05, 0, 0, 0, -13), (3, 0, -PI + 0.05, 0, 0, 0, 211)],
    )
    assert feature(selected(seam), "LepIsoCh") == pytest.approx([0], abs=1e-6)
    found = selected(seam, fix=frozenset({"phi"}))
    assert feature(found, "LepIsoCh") == pytest.approx([0.1], rel=1e-5)
    assert column(found, "ChPFIso")[1] == pytest.approx(10, rel=1e-6)


def test_a_lepton_may_be_isolated_only_because_its_cone_is_cut():
    seam = but(
        MuonTight=[(30, 0, PI - 0.05, 1)],
        EFlowTrack=[(30, 0, PI - 0.05, 0, 0, 0, -13), (20, 0, -PI + 0.05, 0, 0, 0, 211)],
    )
    assert (len(selected(seam)), len(selected(seam, fix=frozenset({"phi"})))) == (1, 0)


def test_mt2_is_a_square_as_published_and_a_mass_when_put_right():
    opposite = but(MissingET=[(30, 1 - PI)])  # 2 · 30 · 30 · (1 - cos π) = 3600
    assert feature(selected(opposite), "MT2") == pytest.approx([3600], rel=1e-6)
    assert feature(selected(opposite, fix=frozenset({"mass"})), "MT2") == pytest.approx([60], rel=1e-6)


def test_tracks_charge_is_the_sign_of_the_pdg_number_and_right_for_electrons_when_put_right():
    assert column(selected(MUON), "Charge").tolist() == [-1, -1, -1, 0, 0, 0, 0]
    assert column(selected(MUON, fix=frozenset({"charge"})), "Charge").tolist() == [-1, -1, 1, 0, 0, 0, 0]


def test_the_first_450_150_and_200_are_kept_in_the_files_order():
    random = np.random.default_rng(5)
    pt = random.uniform(0, 3, 1000)
    crowded = but(
        MuonTight=[(30, -3, 0, 1)],
        EFlowTrack=[(p, 3, 1, 0, 0, i, 211) for i, p in enumerate(pt)],
        EFlowPhoton=[(p, 2, 1) for p in pt],
        EFlowNeutralHadron=[(p, 2, -1) for p in pt],
    )
    found = selected(crowded)
    assert found.counts.tolist() == [ROWS]
    assert [column(found, name).sum() for name in ("isChHad", "isGamma", "isNeuHad")] == [450, 150, 200]
    assert column(found, "vtxZ")[1:451].tolist() == np.flatnonzero(pt.astype(np.float32) > 0.5)[:450].tolist()
    assert column(found, "Pt")[451:601] == pytest.approx(pt[pt > 1][:150], rel=1e-6)


def test_sums_in_cones_are_those_of_every_pair_whatever_is_looked_at_at_once():
    events = events_of(random_arrays(3, 12, particles=80))
    tracks = isolation_maps(events)["charged"]
    photons = events["photon"].renamed(pt="ET", eta="Eta", phi="Phi")
    for wrap in (True, False):
        sums = cone_sums(photons, tracks, wrap=wrap)
        assert sums == pytest.approx(pair_by_pair(photons, tracks, wrap), rel=1e-12)
        assert sums.any()
        assert all((cone_sums(photons, tracks, wrap=wrap, pairs_at_once=n) == sums).all() for n in (1, 37, 500))


def pair_by_pair(particles: Ragged, others: Ragged, wrap: bool) -> list[float]:
    found = []
    for event, eta, phi in zip(particles.event, particles["eta"], particles["phi"], strict=True):
        total = 0.0
        for j in np.flatnonzero(others.event == event):
            turn = phi - others["phi"][j]
            turn = (turn + PI) % (2 * PI) - PI if wrap else turn
            total += others["pt"][j] if (eta - others["eta"][j]) ** 2 + turn**2 < 0.3**2 else 0
        found.append(total)
    return found


def test_a_particle_without_pt_has_no_isolation():
    maps = isolation_maps(events_of(arrays_of([MUON])))
    at_rest = Ragged(np.array([1]), {"pt": np.zeros(1), "eta": np.array([0.5]), "phi": np.ones(1)})
    assert isolation(at_rest, maps, wrap=True).tolist() == [[0, 0, 0]]


def test_events_are_the_same_alone_and_among_others():
    arrays = random_arrays(8, 40)
    together = select(events_of(arrays), ALL)
    alone = [select(events_of({name: array[i : i + 1] for name, array in arrays.items()}), ALL) for i in range(40)]
    assert len(together) > 20
    assert (together.features == np.concatenate([one.features for one in alone])).all()
    assert (together.particles == np.concatenate([one.particles for one in alone])).all()


def test_no_event_is_no_error():
    found = select(events_of({name: array[:0] for name, array in random_arrays(1, 2).items()}))
    assert (found.features.shape, found.particles.shape, found.stages["read"]) == ((0, 14), (0, 19), 0)


def test_momentum_and_direction_are_each_others_inverse():
    pt, eta, phi = np.array([1.0, 50, 3]), np.array([-4.9, 0, 2.5]), np.array([3.1, -3.1, 0])
    energy, px, py, pz = momentum(pt, eta, phi)
    assert energy == pytest.approx(pt * np.cosh(eta), rel=1e-14)
    for back, was in zip(direction(px, py, pz), (pt, eta, phi), strict=True):
        assert back == pytest.approx(was, rel=1e-11)
    assert direction(*np.zeros((3, 1)))[1] == np.inf


def test_delta_phi_is_the_shorter_way():
    found = delta_phi(np.array([3.0, -3.0, 1.0, PI]), np.array([-3.0, 3.0, 0.5, 0.0]))
    assert found == pytest.approx([6 - 2 * PI, 2 * PI - 6, 0.5, PI], rel=1e-14)


def test_portions_cover_all_and_keep_the_limit_where_it_can_be_kept():
    sizes = np.array([3, 0, 9, 1, 1, 0, 2])
    found = list(portions(sizes, 4))
    assert [sizes[some].tolist() for some in found] == [[3, 0], [9], [1, 1, 0, 2]]


def test_joined_puts_the_first_collection_first_in_each_event():
    parts = [Ragged(np.array([1, 0, 2]), {}), Ragged(np.array([0, 2, 1]), {})]
    counts, places = joined(parts)
    assert (counts.tolist(), [p.tolist() for p in places]) == ([1, 2, 3], [[0, 3, 4], [1, 2, 5]])


# Of the published events' notebooks: HT, MET in GeV, jets, b-jets, the lepton's pT in GeV.
UNSCALED = {
    "A": (74.9492, 24.7, 2, 0, 23.9), "B": (181.50, 48.4, 3, 1, 80.8), "C": (615.60, 30.5, 4, 2, 138.5),
    "D": (45.44, 21.4, 1, 1, 35.7), "E": (82.39, 48.5, 2, 1, 23.2),
}  # fmt: skip


@pytest.fixture
def published(example: Path) -> dict:
    return json.loads((example / "published.json").read_text())


@pytest.fixture
def unscaled(published: dict) -> dict[str, dict[str, float]]:
    known = published["ranges"]
    names = [name for name in HIGH_LEVEL if name in known]
    ranges = Ranges(*np.array([known[name] for name in names], float).T)
    found = {}
    for event in published["events"]:
        values = np.array([event["HLF_input"][HIGH_LEVEL.index(name)] for name in names])
        assert ranges.scaled(ranges.unscaled(values)) == pytest.approx(values, rel=1e-12)
        found[event["id"]] = dict(zip(names, ranges.unscaled(values), strict=True))
    return found


def test_the_published_events_come_back_from_the_published_ranges(unscaled: dict):
    assert unscaled.keys() == UNSCALED.keys()
    for name, (ht, met, jets, b_jets, pt) in UNSCALED.items():
        event = unscaled[name]
        assert event["HT"] == pytest.approx(ht, rel=1e-4)
        assert (event["MET"], event["LepPt"]) == (pytest.approx(met, abs=0.06), pytest.approx(pt, abs=0.06))
        assert (event["nJets"], event["nBjets"]) == (pytest.approx(jets, abs=1e-4), pytest.approx(b_jets, abs=1e-4))


def test_mt2_of_the_published_events_is_ours(unscaled: dict):
    for event in unscaled.values():
        lepton = (event["LepPt"], 0.0, event["LepPhi"], event["LepCharge"])
        kind = "Electron" if event["LepIsEle"] > 0.5 else "MuonTight"
        same = {"MissingET": [(event["MET"], event["phiMET"])], "EFlowTrack": [(1, 2, 0, 0, 0, 0, 211)]}
        towers = {"EFlowPhoton": [(2, 2, 0)], "EFlowNeutralHadron": [(2, 2, 0)]}
        found = selected({kind: [lepton], **same, **towers})
        assert feature(found, "MT2")[0] == pytest.approx(event["MT2"], rel=2e-3)
