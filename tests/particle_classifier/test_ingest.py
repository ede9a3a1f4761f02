"""From ROOT to selected events: both engines, CERN's layout, and files that are not as they should be."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import awkward as ak
import ingest
import numpy as np
import pyarrow.parquet as pq
import pytest
import selected
from delphes_files import arrays_of, random_arrays, write
from events import read_events
from physics import select

from tfspawner.data.filesystems import list_files
from tfspawner.errors import ConfigurationError, DataError, SpawnerError

LAST = {"EFlowTrack": (1.0, 2, 0, 0, 0, 0, 211), "EFlowPhoton": (2, 2, 0), "EFlowNeutralHadron": (2, 2, 0)}
COFFEA = "coffea==2026.9.0"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three files, of each class one."""
    folder = tmp_path_factory.mktemp("root")
    write(folder / "qcd_lepFilter_13TeV" / "1.root", random_arrays(1, 60))
    write(folder / "ttbar.root", random_arrays(2, 40))
    write(folder / "Wlnu_lepFilter_13TeV_819.root", random_arrays(3, 30))
    return folder


@pytest.fixture(scope="module")
def delphes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real file of Delphes', 25 events, out of coffea's source package."""
    folder = tmp_path_factory.mktemp("coffea")
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "coffea", "-d", folder, COFFEA]
    done = subprocess.run(pip, capture_output=True)
    packages = list(folder.glob("*.tar.gz"))
    if not packages:
        pytest.skip(f"{COFFEA} cannot be downloaded: {done.stderr.decode()[-200:]}")
    with tarfile.open(packages[0]) as package:
        member = next(name for name in package.getnames() if name.endswith("/samples/delphes.root"))
        with package.extractfile(member) as source, open(folder / "delphes.root", "wb") as target:
            shutil.copyfileobj(source, target)
    packages[0].unlink()
    return folder / "delphes.root"


def call(*words: str | Path) -> None:
    """The command, in this process."""
    sys.argv = ["ingest.py", *map(str, words)]
    ingest.main()


def sources(root: Path) -> list[Path]:
    return [root / "qcd_lepFilter_13TeV", root / "ttbar.root", root / "Wlnu*.root"]


def rows(path: Path) -> tuple[np.ndarray, np.ndarray]:
    batches = list(selected.read_selected(list_files(str(path))[0]))
    return np.concatenate([b.features for b in batches]), np.concatenate([b.particles for b in batches])


def test_both_engines_write_the_same_bytes_of_the_sample(example: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    call(example / "sample", "--output", tmp_path / "local", "--jobs", 2)
    first = capsys.readouterr().out
    call(example / "sample", "--output", tmp_path / "spark", "--engine", "spark", "--master", "local[2]")
    names = ["qcd.parquet", "ttbar.parquet", "wjets.parquet"]
    for folder in (tmp_path / "local", tmp_path / "spark"):
        assert sorted(path.name for path in folder.iterdir()) == names
    for name in names:
        assert (tmp_path / "local" / name).read_bytes() == (tmp_path / "spark" / name).read_bytes()
    for line in first.splitlines()[1:]:
        _, files, read, lepton, kept, *_ = line.split()
        assert files == "1"
        assert 100 < int(kept) < int(lepton) < int(read)


def test_files_of_folders_and_patterns_get_names_that_tell_their_class(root: Path, tmp_path: Path):
    call(*sources(root), "--output", tmp_path, "--jobs", 1)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["Wlnu_lepFilter_13TeV_819.parquet", "qcd-1.parquet", "ttbar.parquet"]
    assert [set(pq.read_table(tmp_path / name)["label"].to_pylist()) for name in files] == [{2}, {0}, {1}]


def test_what_is_written_is_what_was_selected(root: Path, tmp_path: Path):
    call(root / "ttbar.root", "--output", tmp_path, "--jobs", 1)
    (events,) = read_events(root / "ttbar.root")
    kept = select(events)
    table = pq.read_table(tmp_path / "ttbar.parquet")
    assert table.schema.equals(selected.SCHEMA)
    assert table["label"].to_pylist() == [1] * len(kept)
    assert table["hfeatures"].to_pylist() == kept.features.tolist()
    ends = np.cumsum(kept.counts)
    assert table["lfeatures"].to_pylist() == [rows.tolist() for rows in np.split(kept.particles, ends[:-1])]


def test_padded_is_the_published_801_rows_and_reads_back_equal(root: Path, tmp_path: Path):
    call(root / "ttbar.root", "--output", tmp_path / "short", "--jobs", 1)
    call(root / "ttbar.root", "--output", tmp_path / "long", "--jobs", 1, "--padded")
    assert set(map(len, pq.read_table(tmp_path / "long/ttbar.parquet")["lfeatures"].to_pylist())) == {801}
    for one, other in zip(rows(tmp_path / "short/ttbar.parquet"), rows(tmp_path / "long/ttbar.parquet"), strict=True):
        assert (one == other).all()


def test_how_many_events_are_read_at_once_changes_nothing(root: Path):
    by_seven = [select(events) for events in read_events(root / "ttbar.root", at_once=7)]
    (at_once,) = (select(events) for events in read_events(root / "ttbar.root"))
    assert len(by_seven) == 6
    assert (np.concatenate([some.particles for some in by_seven]) == at_once.particles).all()
    assert (np.concatenate([some.features for some in by_seven]) == at_once.features).all()


def test_a_second_call_goes_on_and_refuses_what_was_made_otherwise(root: Path, tmp_path: Path):
    target = tmp_path / "ttbar.parquet"
    call(root / "ttbar.root", "--output", tmp_path)
    written = target.stat().st_mtime_ns
    call(root / "ttbar.root", "--output", tmp_path)
    assert target.stat().st_mtime_ns == written
    with pytest.raises(DataError, match="made of something else or in another way"):
        call(root / "ttbar.root", "--output", tmp_path, "--correct", "phi")
    call(root / "ttbar.root", "--output", tmp_path, "--correct", "phi", "--overwrite")
    assert target.stat().st_mtime_ns != written


@pytest.mark.parametrize("name", ["lepton", "mass", "charge", "all"])
def test_corrections_change_the_features(root: Path, tmp_path: Path, name: str):
    call(root / "ttbar.root", "--output", tmp_path / "published", "--jobs", 1)
    call(root / "ttbar.root", "--output", tmp_path / "right", "--jobs", 1, "--correct", name)
    before, after = rows(tmp_path / "published/ttbar.parquet"), rows(tmp_path / "right/ttbar.parquet")
    assert any(not np.array_equal(one, other) for one, other in zip(before, after, strict=True))


def test_classes_are_told_by_names():
    assert ingest.label_of("/eos/Wlnu_lepFilter_13TeV/part.root") == 2
    assert ingest.label_of("s3://events/qcd/ttbar_964.root") == 1
    assert ingest.label_of("/data/wjets/QCD_1.root") == 0
    assert ingest.label_of("qcd_and_ttbar.root") is None
    assert ingest.label_of("/data/1.root") is None


def test_delphes_own_file_is_read(delphes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    import uproot

    (events,) = read_events(delphes_root, muons="Muon")
    tree = uproot.open(delphes_root)["Delphes"]
    assert events["track"].counts.tolist() == ak.num(tree["EFlowTrack.PT"].array()).tolist()
    assert events["jet"]["PT"].tolist() == ak.flatten(tree["Jet.PT"].array()).tolist()
    call(delphes_root, "--output", tmp_path, "--label", 1, "--muons", "Muon")
    assert capsys.readouterr().out.splitlines()[2].split()[:5] == ["ttbar", "1", "25", "1", "1"]
    features, particles = rows(tmp_path / "ttbar-delphes.parquet")
    assert features.shape == (1, 14)
    assert features[0, 6] == pytest.approx(particles[0, 4])
    assert features[0, 6] > 23


def test_a_card_without_tight_muons_is_told_the_flag(delphes_root: Path, tmp_path: Path):
    with pytest.raises(DataError, match=r"no branch MuonTight\.PT") as caught:
        call(delphes_root, "--output", tmp_path, "--label", 1)
    assert caught.value.hint == "--muons Muon"
    assert list(tmp_path.iterdir()) == []


def truncated(path: Path) -> None:
    write(path, random_arrays(1, 2000, particles=100))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def damaged(path: Path) -> None:
    write(path, random_arrays(1, 500))
    data = bytearray(path.read_bytes())
    for at in range(4000, 24000, 64):
        data[at] ^= 0xFF
    path.write_bytes(data)


def without_jets(path: Path) -> None:
    write(path, arrays_of([{"MissingET": [(1, 0)], **{name: [one] for name, one in LAST.items()}}], skip="Jet"))


def not_finite(path: Path) -> None:
    arrays = random_arrays(1, 3)
    arrays["MissingET"] = ak.unflatten(
        ak.zip({"MET": np.array([1, np.nan, 2], "f4"), "Phi": np.zeros(3, "f4")}), [1, 1, 1]
    )
    write(path, arrays)


def without_missing_energy(path: Path) -> None:
    write(path, arrays_of([{"MissingET": [(1, 0)]}, {"Jet": [(50, 1, 0)]}]))


BAD = {
    "another-tree": (lambda path: write(path, random_arrays(1, 2), tree="Events"), "no tree Delphes; there is Events"),
    "no-root": (lambda path: path.write_text("HTTP 404: not found\n" * 99), "cannot be read as a ROOT file"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read as a ROOT file"),
    "truncated": (truncated, "as a ROOT file"),
    "damaged": (damaged, "as a ROOT file"),
    "no-branch": (without_jets, r"no branch Jet\.PT"),
    "nan": (not_finite, r"event 1: MissingET\.MET is not a finite number"),
    "no-met": (without_missing_energy, "event 1 has 0 MissingET, not 1"),
    "none-selected": (lambda path: write(path, arrays_of([{"MissingET": [(1, 0)]}])), "none of 1 events was selected"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_bad_files_are_one_line_and_leave_nothing(tmp_path: Path, kind: str):
    make, message = BAD[kind]
    path = tmp_path / "in" / "qcd.root"
    path.parent.mkdir()
    make(path)
    with pytest.raises(SpawnerError, match=message) as caught:
        call(path, "--output", tmp_path / "out", "--jobs", 1)
    assert "\n" not in caught.value.message
    left = [file.name for file in (tmp_path / "out").iterdir()]
    assert left == (["qcd.parquet"] if kind == "none-selected" else [])


def test_sources_that_are_not_there_or_of_no_class_are_refused(root: Path, tmp_path: Path):
    for words, error, message in [
        ([tmp_path / "none"], DataError, r"there is no \.root file"),
        ([write(tmp_path / "a" / "1.root", random_arrays(1, 2))], ConfigurationError, "its name tells no class"),
        ([root / "ttbar.root", shutil.copy(root / "ttbar.root", tmp_path)], ConfigurationError, "would both become"),
        ([root / "ttbar.root", "--jobs", 0], ConfigurationError, "at least 1 process"),
    ]:
        with pytest.raises(error, match=message):
            call(*words, "--output", tmp_path / "out")


def test_an_error_on_spark_is_the_same_line(tmp_path: Path, example: Path):
    (tmp_path / "qcd.root").write_text("not found")
    words = [str(tmp_path / "qcd.root"), "--output", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, example / "ingest.py", *words], capture_output=True, text=True)
    assert done.returncode == DataError.exit_code
    with pytest.raises(DataError, match="cannot be read as a ROOT file") as caught:
        call(*words, "--engine", "spark", "--master", "local[2]")
    assert done.stderr.splitlines() == [f"error: {caught.value.message}", f"hint: {caught.value.hint}"]
