"""Generated events: the same whatever makes them, laid out as Delphes', detected as parametrised."""

# ruff: noqa: E402  (without the generator's packages this file is skipped)

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

for needed in ("awkward", "fastjet", "pythia8mc", "uproot"):
    pytest.importorskip(needed)

import collisions
import delphes
import detector
import generate
import uproot
from collisions import PARTICLE, PROCESSES, LeptonFilter, Source
from pileup import PileUp

ARGUMENTS = ["--events", "10", "--shards", "2", "--pool", "20"]
CLASSES = tuple(PROCESSES)


def command(output: Path, *args: str) -> list[str]:
    return [sys.executable, generate.__file__, *ARGUMENTS, "--output", str(output), *args]


def run(command: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def contents(folder: Path) -> dict[tuple[str, str], list]:
    files = sorted(folder.rglob("*.root"))
    return {
        (path.name, branch): values.tolist()
        for path in files
        for branch, values in uproot.open(path)["Delphes"].arrays(how=dict).items()
    }


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("raw")
    done = run(command(output, "--jobs", "2"))
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture(scope="module")
def pool() -> np.ndarray:
    return collisions.minimum_bias(20, generate.pythia_seed(generate.entropy("pool", 1)))


def shards(*args: str) -> list[generate.Job]:
    return generate.jobs(generate.arguments([*ARGUMENTS, "--process", "wjets", *args]))


def gun(count: int, pid: int, charge: int, pt: float, eta: float) -> np.ndarray:
    """One particle in each of `count` events, of a mass of 0."""
    particles = np.zeros(count, dtype=PARTICLE)
    particles["event"], particles["pid"], particles["charge"] = np.arange(count), pid, charge
    particles["pt"], particles["eta"], particles["energy"] = pt, eta, pt * np.cosh(eta)
    particles["phi"] = np.linspace(-3.1, 3.1, count)
    return particles


def detected(particles: np.ndarray, hadrons: np.ndarray | None = None) -> dict[str, delphes.Objects]:
    hadrons = np.zeros(0, dtype=PARTICLE) if hadrons is None else hadrons
    return detector.simulate(particles, hadrons, int(particles["event"].max()) + 1, np.random.default_rng(7))


def is_about(found: int, expected: float, of: int) -> bool:
    """Within five standard deviations of a binomial distribution."""
    return abs(found - expected * of) < 5 * np.sqrt(expected * (1 - expected) * of) + 1


def test_workers_of_tf_spawner_make_the_events_that_two_processes_make(raw: Path, tmp_path: Path) -> None:
    spawner = [sys.executable, "-m", "tfspawner", "run", generate.__file__, "-w", "2", "--out", str(tmp_path)]
    done = run([*spawner, "--name", "events", "--", *ARGUMENTS])
    assert done.returncode == 0, done.stderr
    made = {path.name: path.parent.name for path in tmp_path.glob("events/files/*/*.root")}
    assert sorted(made.values()) == ["worker-0"] * 3 + ["worker-1"] * 3
    assert contents(tmp_path / "events/files") == contents(raw)


def test_one_process_makes_the_events_that_two_make(raw: Path, pool: np.ndarray, tmp_path: Path) -> None:
    for shard in shards():
        generate.generate(shard, pool, tmp_path)
    assert contents(tmp_path) == {key: values for key, values in contents(raw).items() if key[0].startswith("wjets")}


def test_another_seed_makes_other_events(pool: np.ndarray, tmp_path: Path) -> None:
    for folder, seed in (("one", "1"), ("other", "2")):
        (tmp_path / folder).mkdir()
        generate.generate(shards("--seed", seed)[0], pool, tmp_path / folder)
    assert contents(tmp_path / "one") != contents(tmp_path / "other")


def test_shards_that_are_there_are_kept_and_damaged_ones_made_again(pool: np.ndarray, tmp_path: Path) -> None:
    shard, other = shards()[0], shards("--pile-up", "0")[0]
    assert "5 events of" in generate.generate(shard, pool, tmp_path)
    whole = contents(tmp_path)
    assert generate.generate(shard, pool, tmp_path).endswith("is there")
    (tmp_path / f"{shard.name}.root").write_bytes(b"cut")
    assert "5 events of" in generate.generate(shard, pool, tmp_path)
    assert contents(tmp_path) == whole
    assert "5 events of" in generate.generate(other, pool, tmp_path)
    assert contents(tmp_path) != whole


@pytest.mark.parametrize(
    ("tf_config", "place"),
    [
        ({}, (0, 1)),
        ({"cluster": {"worker": ["a", "b"]}, "task": {"type": "worker", "index": 1}}, (1, 2)),
        ({"cluster": {"chief": ["a"], "worker": ["b", "c"]}, "task": {"type": "chief", "index": 0}}, (0, 3)),
        ({"cluster": {"chief": ["a"], "worker": ["b", "c"]}, "task": {"type": "worker", "index": 1}}, (2, 3)),
    ],
)
def test_a_worker_knows_its_place(tf_config: dict, place: tuple[int, int]) -> None:
    assert generate.place_among_workers(json.dumps(tf_config)) == place


def test_more_shards_than_events_are_refused_in_a_line(tmp_path: Path) -> None:
    done = run(command(tmp_path / "none", "--shards", "11"))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("--shards 11 is more than --events 10: take fewer shards")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("process", CLASSES)
def test_the_layout_is_that_of_delphes(raw: Path, process: str) -> None:
    tree = uproot.open(raw / f"{process}-00000-of-00002.root")["Delphes"]
    assert tree.num_entries == 5
    for kind, leaves in {
        "EFlowTrack": ("PT", "Eta", "Phi", "X", "Y", "Z"),
        "EFlowPhoton": ("ET", "Eta", "Phi"),
        "EFlowNeutralHadron": ("ET", "Eta", "Phi"),
        "Electron": ("PT", "Eta", "Phi"),
        "MuonTight": ("PT", "Eta", "Phi"),
        "MissingET": ("MET", "Phi"),
        "Jet": ("PT", "Eta", "Phi"),
    }.items():
        sizes = tree[f"{kind}_size"].array().tolist()
        for leaf in leaves:
            values = tree[f"{kind}.{leaf}"]
            assert values.typename == "float[]"
            assert [len(event) for event in values.array()] == sizes
    for leaf in ("EFlowTrack.PID", "EFlowTrack.Charge", "Electron.Charge", "MuonTight.Charge", "Jet.BTag"):
        assert tree[leaf].typename == "int32_t[]"
    assert tree["MissingET_size"].array().tolist() == [1] * 5


@pytest.mark.parametrize("process", CLASSES)
def test_weights_and_seeds_are_recorded_beside_each_file(raw: Path, process: str) -> None:
    records = [json.loads((raw / f"{process}-{shard:05}-of-00002.json").read_text()) for shard in (0, 1)]
    for shard, record in enumerate(records):
        path = raw / f"{process}-{shard:05}-of-00002.root"
        weights = uproot.open(path)["Delphes"]["Event.Weight"].array().to_numpy().ravel()
        assert record["kept"] == len(weights) <= record["tried"]
        assert record["sum_of_weights"] == pytest.approx(weights.sum(), rel=1e-5)
        assert record["filter_efficiency"] == pytest.approx(weights.sum() / record["tried"], rel=1e-5)
        assert record["cross_section_mb"] > 0
        assert record["bytes"] == path.stat().st_size
    assert records[0]["made_with"]["pythia_seed"] != records[1]["made_with"]["pythia_seed"]
    assert set(PROCESSES[process].settings) <= set(records[0]["made_with"]["settings"])


@pytest.mark.parametrize("process", CLASSES)
def test_each_collision_has_a_lepton_that_passes_the_filter(process: str) -> None:
    wanted = LeptonFilter(pt_min=22, isolation_max=0.5)
    source = Source(process=PROCESSES[process], lepton_filter=wanted, seed=3)
    for collision in itertools.islice(source, 4):
        particles = collision.particles
        hard = np.isin(np.abs(particles["pid"]), (11, 13)) & (particles["pt"] >= 22) & (np.abs(particles["eta"]) < 2.5)
        cones = [around(particles, lepton) for lepton in particles[hard]]
        assert any(cone < 0.5 * pt for cone, pt in zip(cones, particles["pt"][hard], strict=True))
    assert source.kept == 4 <= source.tried


def around(particles: np.ndarray, lepton: np.void) -> float:
    """The pT of others within dR < 0.3, by complex numbers: a second way to wrap an angle."""
    turn = np.angle(np.exp(1j * (particles["phi"] - lepton["phi"])))
    near = ((particles["eta"] - lepton["eta"]) ** 2 + turn**2 < 0.09) & (particles["pt"] > 0.5) & (particles != lepton)
    return float(particles["pt"][near].sum())


def test_decaying_hadrons_anew_leaves_the_event_as_it_was_and_everything_decayed() -> None:
    source = Source(process=PROCESSES["qcd"], lepton_filter=LeptonFilter(pt_min=5), seed=5)
    for _ in range(3):
        source.pythia.next()
        before = [(p.id(), p.status(), p.e(), p.daughter1()) for p in source.pythia.event.particles()]
        collision = source.collision()
        assert [(p.id(), p.status(), p.e(), p.daughter1()) for p in source.pythia.event.particles()] == before
        if collision:
            assert not np.isin(np.abs(collision.particles["pid"]), [*collisions.HEAVY, 15, 111]).any()
            assert (collision.weight * source.process.redecays) % 1 == pytest.approx(0, abs=1e-9)


def test_weights_of_decays_done_anew_give_the_efficiency_of_plain_decays() -> None:
    hard = replace(PROCESSES["qcd"], settings=("HardQCD:hardbbbar = on", "PhaseSpace:pTHatMin = 150"))
    wanted = LeptonFilter(pt_min=20)
    again = Source(process=hard, lepton_filter=wanted, seed=6)
    plain = Source(process=replace(hard, redecays=1), lepton_filter=wanted, seed=7)
    list(itertools.islice(again, 60))
    list(itertools.islice(plain, 60))
    efficiency, error = plain.kept / plain.tried, np.sqrt(plain.kept) / plain.tried
    other, other_error = again.weights / again.tried, np.sqrt(again.squared_weights) / again.tried
    assert abs(efficiency - other) < 4 * np.hypot(error, other_error)
    assert all(0 < weight <= 1 for weight in (efficiency, other))


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(ValueError, match="'HardQCD:hardbbar = on'"):
        collisions.generator(["HardQCD:hardbbar = on"], seed=1)


@pytest.mark.parametrize(
    ("eta", "efficiency", "resolution"), [(0.5, 0.95, 0.0094), (2.0, 0.88, 0.018), (3.0, 0.8, 0.039)]
)
def test_tracks_are_found_and_smeared_as_parametrised(eta: float, efficiency: float, resolution: float) -> None:
    count = 4000
    tracks = detected(gun(count, 211, 1, 50, eta))["EFlowTrack"]
    response = tracks.leaves["PT"] / 50
    assert is_about(len(response), efficiency, count)
    assert response.mean() == pytest.approx(1, abs=5 * resolution / np.sqrt(len(response)))
    assert response.std() == pytest.approx(resolution, rel=0.1)


def test_no_track_beyond_the_tracker_or_below_its_threshold() -> None:
    assert detected(gun(500, 211, 1, 50, 4.1))["EFlowTrack"].counts.sum() == 0
    assert detected(gun(500, 211, 1, 0.1, 1))["EFlowTrack"].counts.sum() == 0


@pytest.mark.parametrize(("kind", "pid", "efficiency"), [("Electron", 11, 0.95 * 0.93), ("MuonTight", 13, 0.95 * 0.96)])
def test_leptons_are_found_with_their_charge_and_their_tracks_pt(kind: str, pid: int, efficiency: float) -> None:
    found = detected(gun(4000, pid, -1, 40, 1.0))
    assert is_about(found[kind].counts.sum(), efficiency, 4000)
    assert set(found[kind].leaves["Charge"]) == {-1}
    assert set(found[kind].leaves["PT"]) <= set(found["EFlowTrack"].leaves["PT"])
    assert detected(gun(4000, pid, -1, 40, 2.6))[kind].counts.sum() == 0


def test_few_charged_hadrons_are_taken_for_leptons() -> None:
    found = detected(gun(50_000, 211, 1, 40, 1.0))
    assert is_about(found["Electron"].counts.sum(), 0.95 * detector.FAKE_ELECTRONS, 50_000)
    assert is_about(found["MuonTight"].counts.sum(), 0.95 * detector.FAKE_MUONS, 50_000)


@pytest.mark.parametrize(
    ("kind", "pid", "eta"), [("EFlowPhoton", 22, 1), ("EFlowNeutralHadron", 130, 1), ("EFlowPhoton", 22, 4)]
)
def test_neutral_particles_keep_their_energy_and_direction(kind: str, pid: int, eta: float) -> None:
    true = gun(3000, pid, 0, 30, eta)
    found = detected(true)[kind]
    assert is_about(found.counts.sum(), 0.999, 3000)
    energy = found.leaves["ET"] * np.cosh(found.leaves["Eta"])
    grid = next(g for g in (detector.ECAL if pid == 22 else detector.HCAL) if g.covers(np.array([eta]))[0])
    width = grid.resolution(true["energy"][0])
    assert energy.mean() == pytest.approx(true["energy"][0], abs=5 * width / np.sqrt(3000))
    assert energy.std() == pytest.approx(width, rel=0.1)
    assert np.abs(found.leaves["Eta"] - eta).max() <= grid.cell
    assert np.abs(detector.wrapped(found.leaves["Phi"] - true["phi"][found.counts > 0])).max() <= grid.cell


def test_energy_of_tracks_is_not_counted_twice() -> None:
    found = detected(gun(4000, 211, 1, 20, 0.3))
    with_track = found["EFlowTrack"].counts > 0
    neutral = np.zeros(4000)
    event = np.repeat(np.arange(4000), found["EFlowNeutralHadron"].counts)
    np.add.at(neutral, event, found["EFlowNeutralHadron"].leaves["ET"])
    assert neutral[~with_track].mean() == pytest.approx(20, rel=0.1)
    assert neutral[with_track].mean() < 4
    assert found["EFlowPhoton"].counts.sum() == 0


def test_the_field_turns_soft_particles_back_and_bends_others() -> None:
    eta, phi = detector.at_calorimeter(gun(1, 211, 1, 0.5, 0.0))
    assert np.isnan(eta[0])
    for charge, way in ((1, -1), (-1, 1), (0, 0)):
        true = gun(1, 211, charge, 10, 0.5)
        true["phi"] = 1.0
        eta, phi = detector.at_calorimeter(true)
        radius_m = 10 / (0.3 * detector.FIELD_T)
        assert phi[0] - 1.0 == pytest.approx(way * np.arcsin(1.29 / 2 / radius_m))
        assert eta[0] == pytest.approx(0.5, abs=0.01)


def test_missing_et_points_away_from_what_is_seen() -> None:
    found = detected(gun(200, 22, 0, 50, 0.7))
    photons, missing = found["EFlowPhoton"].leaves, found["MissingET"].leaves
    assert missing["MET"] == pytest.approx(photons["ET"])
    assert np.cos(missing["Phi"] - photons["Phi"]) == pytest.approx(-1)


def test_a_lone_lepton_is_no_jet_and_a_lone_hadron_is() -> None:
    muons = detected(gun(300, 13, -1, 60, 1.0))
    assert not (muons["MuonTight"].counts & muons["Jet"].counts).any()
    jets = detected(gun(300, 130, 0, 60, 1.0))["Jet"]
    assert jets.counts.sum() > 290
    assert jets.leaves["PT"].mean() == pytest.approx(60, rel=0.05)


@pytest.mark.parametrize(("pid", "flavor"), [(511, 5), (-421, 4), (0, 0)])
def test_jets_are_tagged_by_the_hadrons_in_them(pid: int, flavor: int) -> None:
    true = gun(4000, 130, 0, 80, 1.0)
    hadrons = true.copy()
    hadrons["pid"] = pid
    jets = detected(true, hadrons if pid else None)["Jet"].leaves
    assert set(jets["Flavor"]) == {flavor}
    expected = detector.tag_probability(jets["Flavor"], jets["PT"], jets["Eta"]).mean()
    assert is_about(jets["BTag"].sum(), expected, len(jets["BTag"]))
    assert {5: 0.5 < expected < 0.7, 4: 0.1 < expected < 0.2, 0: expected < 0.02}[flavor]


def test_pairs_near_each_other_are_found_across_pi_and_in_the_same_event_only() -> None:
    one = {"event": np.array([0, 0, 2]), "Eta": np.zeros(3), "Phi": np.array([3.1, 0.0, 3.1])}
    two = {"event": np.array([0, 1, 2, 2]), "Eta": np.zeros(4), "Phi": np.array([-3.1, 0.0, 1.0, 3.0])}
    i, j = detector.near(one, two, events=3, distance=0.4)
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == [(0, 0), (2, 3)]


def test_pile_up_comes_after_the_event_with_vertices_of_its_own() -> None:
    pool = np.concatenate([collisions.numbered(gun(3, 211, 1, 1.0, 0.1), number) for number in range(5)])
    hard = gun(2000, 13, 1, 50, 1.0)
    together = PileUp(pool=pool, mean=4).overlay(hard, 2000, np.random.default_rng(1))
    assert (np.diff(together["event"]) >= 0).all()
    first = np.searchsorted(together["event"], np.arange(2000))
    assert (together[first] == hard).all()
    added = np.delete(together, first)
    assert len(added) / 2000 == pytest.approx(3 * 4, abs=3 * 5 * np.sqrt(4 / 2000))
    assert added["z"].std() == pytest.approx(53, rel=0.05)
    assert (np.abs(added["phi"]) <= np.pi).all()


@pytest.mark.parametrize("bits", [6, 10, 23])
def test_rounded_values_differ_by_half_a_unit_of_the_last_bit_at_most(bits: int) -> None:
    values = np.random.default_rng(2).normal(0, 100, 10_000).astype(np.float32)
    found = delphes.rounded(values, bits)
    assert np.abs(found / values - 1).max() <= 2.0 ** -(bits + 1)
    assert (found.view(np.uint32) & ((1 << (23 - bits)) - 1) == 0).all()


def test_nothing_is_left_of_a_file_that_could_not_be_finished(tmp_path: Path) -> None:
    def batches():
        yield detected(gun(5, 13, -1, 40, 1.0))
        raise RuntimeError("out of events")

    with pytest.raises(RuntimeError, match="out of events"):
        delphes.write(tmp_path / "cut.root", batches())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("process", CLASSES)
def test_the_shipped_sample_is_what_its_record_says(example: Path, process: str) -> None:
    path = example / "sample" / f"{process}.root"
    record = json.loads(path.with_suffix(".json").read_text())
    tree = uproot.open(path)["Delphes"]
    assert record["bytes"] == path.stat().st_size
    assert record["kept"] == tree.num_entries
    assert tree["Event.Weight"].array().to_numpy().sum() == pytest.approx(record["sum_of_weights"], rel=1e-3)
    assert sum(part.stat().st_size for part in path.parent.iterdir()) < 5e6
