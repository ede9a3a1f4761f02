"""A download checked against what is known of CERN's files; the known ones here are of a few bytes."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import manifest
import pytest

from tfspawner.errors import ConfigurationError

CONTENT = {"train.tfrecord/part-r-00000": b"one", "train.tfrecord/part-r-00001": b"another", "raw/qcd.root": b"root"}


@pytest.fixture
def known() -> list[manifest.Known]:
    return [
        manifest.Known(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())
        for path, data in CONTENT.items()
    ]


@pytest.fixture
def download(tmp_path: Path) -> Path:
    for path, data in CONTENT.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(data)
    return tmp_path


def test_a_whole_download_is_right(download: Path, known: list, capsys: pytest.CaptureFixture):
    assert manifest.check(str(download), known) == 0
    assert capsys.readouterr().out.splitlines() == [f"ok    {path}" for path in CONTENT]


def test_each_fault_is_told(download: Path, known: list, capsys: pytest.CaptureFixture):
    (download / "train.tfrecord/part-r-00000").unlink()
    (download / "train.tfrecord/part-r-00001").write_bytes(b"anothe")
    (download / "raw/qcd.root").write_bytes(b"toor")
    assert manifest.check(str(download), known) == 3
    digest = [hashlib.sha256(data).hexdigest() for data in (b"toor", b"root")]
    assert capsys.readouterr().out.splitlines() == [
        "WRONG train.tfrecord/part-r-00000 is missing",
        "WRONG train.tfrecord/part-r-00001 has 6 bytes, not 7: cut off",
        f"WRONG raw/qcd.root has the SHA-256 {digest[0]}, not {digest[1]}",
    ]


def test_a_set_that_was_not_downloaded_is_no_fault(download: Path, known: list, capsys: pytest.CaptureFixture):
    (download / "raw/qcd.root").unlink()
    assert manifest.check(str(download), known) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "-     raw was not downloaded"


def test_a_folder_without_any_is_refused(tmp_path: Path, known: list):
    with pytest.raises(ConfigurationError, match="holds no published file"):
        manifest.check(str(tmp_path), known)


def test_what_is_known_fits_the_published_records():
    sizes: dict[str, int] = {}
    for one in manifest.known_files():
        assert len(bytes.fromhex(one.sha256)) == 32
        if one.set.endswith(".tfrecord") and not one.path.endswith(".crc"):
            sizes[one.set] = sizes.get(one.set, 0) + one.size
    assert sizes == {
        "testUndersampled_HLF_features.tfrecord": 856_090 * 128,
        "trainUndersampled_HLF_features.tfrecord": 3_426_083 * 128,
    }


def test_the_command_exits_with_what_it_found(tmp_path: Path, example: Path):
    def run(*words: str | Path) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, example / "manifest.py", *words], capture_output=True, text=True)

    assert run(tmp_path).returncode == 2
    assert len(run("--list").stdout.splitlines()) == len(manifest.known_files())
    path = tmp_path / "rawData_sample/qcd_lepFilter_13TeV_2929.root"
    path.parent.mkdir()
    path.write_bytes(b"not all of it")
    done = run(tmp_path)
    assert done.returncode == 1
    assert f"WRONG {path.relative_to(tmp_path)} has 13 bytes, not 106,915,433: cut off" in done.stdout
