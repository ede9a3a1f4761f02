"""tf-keras's wheel runs in each replica: it is taken only with the SHA-256 that stands in the project."""

import hashlib
import re
import time
import zipfile
from pathlib import Path

import pytest

from tfspawner.backends import tf_keras as keras
from tfspawner.backends.tf_keras import WHEELS, wheel, wheel_for


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What pip takes for all packages that there are."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def make_wheel(folder: Path, version: str, text: str = "") -> str:
    """A wheel of that version; its SHA-256."""
    path = folder / f"tf_keras-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        info = f"tf_keras-{version}.dist-info"
        archive.writestr("tf_keras/__init__.py", text)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tf-keras\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_wheel_with_the_known_hash_is_taken_and_kept(index, monkeypatch):
    monkeypatch.setitem(WHEELS, "2.21", ("2.21.0", make_wheel(index, "2.21.0")))
    path = wheel("2.21.3")
    assert path.name == "tf_keras-2.21.0-py3-none-any.whl"
    assert [item.name for item in path.parent.iterdir()] == [path.name]
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    assert wheel("2.21.3") == path == wheel_for("tensorflow/tensorflow:2.21.0-gpu")


def test_another_file_under_its_name_is_refused_and_not_kept(index, tmp_path):
    make_wheel(index, "2.21.0", "import os")
    with pytest.raises(OSError, match="SHA-256 is not the one that tf-spawner knows"):
        wheel("2.21.0")
    assert list((tmp_path / "cache/tf-spawner").iterdir()) == []


def test_a_cache_that_somebody_changed_is_not_believed(index, monkeypatch):
    monkeypatch.setitem(WHEELS, "2.21", ("2.21.0", make_wheel(index, "2.21.0")))
    path = wheel("2.21.0")
    good = path.read_bytes()
    path.write_bytes(b"other")
    assert wheel("2.21.0").read_bytes() == good


def test_a_version_that_nobody_has_read_is_not_fetched(index):
    began = time.monotonic()
    with pytest.raises(OSError, match=r"knows tf-keras for TensorFlow 2\.15, .* and this is 2\.99"):
        wheel("2.99.0")
    assert time.monotonic() - began < 1


def test_each_minor_version_has_its_own_wheel_and_the_last_one_is_the_newest():
    assert list(WHEELS) == sorted(WHEELS, key=lambda minor: int(minor.split(".")[1]))
    for minor, (version, sha256) in WHEELS.items():
        assert version.startswith(f"{minor}.")
        assert re.fullmatch("[0-9a-f]{64}", sha256)
    assert keras.DEFAULT_IMAGE.rpartition(":")[2].rpartition(".")[0] in WHEELS
