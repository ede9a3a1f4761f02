"""What travels with the script."""

import os
import tarfile

import pytest

from tfspawner.code import mentions, pack
from tfspawner.errors import ConfigurationError


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "project"
    for name in ("train.py", "lib/a.py", "data/x.bin", "runs/old/report.json", ".git/config", "lib/__pycache__/a.pyc"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def names(code):
    """The archive's names; the code is kept alive meanwhile, since its file has no other name."""
    with tarfile.open(code.path) as archive:
        return sorted(archive.getnames())


def packed(folder, **options):
    return pack(folder, **{"out": folder / "runs", "asked": False, **options})


def test_all_but_what_is_never_code_travels(folder):
    assert names(packed(folder)) == ["data/x.bin", "lib/a.py", "train.py"]


def test_tfspawnerignore_is_in_gitignores_notation(folder):
    (folder / ".tfspawnerignore").write_text("# data\n/data/\n*.tmp\n!keep.tmp\n")
    (folder / "a.tmp").touch()
    (folder / "keep.tmp").touch()
    assert names(packed(folder)) == [".tfspawnerignore", "keep.tmp", "lib/a.py", "train.py"]


def test_a_virtual_environment_stays_here(folder):
    (folder / "env/lib").mkdir(parents=True)
    (folder / "env/pyvenv.cfg").touch()
    (folder / "env/lib/big.so").touch()
    assert not [name for name in names(packed(folder)) if name.startswith("env")]


def test_links_are_followed_and_loops_end(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/shared.py").write_text("x")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    (folder / "broken").symlink_to("nowhere")
    assert names(packed(folder)) == ["data/x.bin", "lib/a.py", "linked/shared.py", "train.py"]


def test_a_folder_and_a_link_to_it_both_travel(folder):
    (folder / "current").symlink_to("lib")
    (folder / "z-link").symlink_to("lib")
    assert {"current/a.py", "lib/a.py", "z-link/a.py"} <= set(names(packed(folder)))


def test_links_in_a_ring_end(folder):
    for one, other in (("a", "b"), ("b", "a")):
        (folder / one).mkdir()
        (folder / one / f"{one}.py").touch()
        (folder / one / "link").symlink_to(folder / other)
    assert {"a/a.py", "a/link/b.py", "b/b.py", "b/link/a.py"} <= set(names(packed(folder)))


def test_code_that_lies_where_the_runs_go_travels_without_them(folder):
    (folder / "old-job").mkdir()
    (folder / "old-job/.job-id").touch()
    (folder / "old-job/report.json").touch()
    found = names(packed(folder, out=folder))
    assert "train.py" in found
    assert not [name for name in found if name.startswith("old-job")]


def test_the_same_files_make_the_same_bytes(folder):
    first = packed(folder)
    os.utime(folder / "train.py", (1, 1))
    assert packed(folder).sha256 == first.sha256
    (folder / "train.py").write_text("other")
    assert packed(folder).sha256 != first.sha256


def test_an_executable_stays_one(folder):
    (folder / "train.py").chmod(0o755)
    code = packed(folder)
    with tarfile.open(code.path) as archive:
        assert {member.name: member.mode for member in archive}["train.py"] == 0o755
        assert archive.getmember("lib/a.py").mode == 0o644


def test_a_huge_folder_travels_only_when_it_was_named(folder):
    with open(folder / "huge", "wb") as file:
        file.truncate(513 * 1024**2)
    with pytest.raises(ConfigurationError, match=r"holds 0\.5 GiB") as error:
        packed(folder)
    assert ".tfspawnerignore" in error.value.hint
    (folder / ".tfspawnerignore").write_text("huge\n")
    assert "huge" not in names(packed(folder))


def test_wheels_travel_in_a_folder_of_their_own(folder, tmp_path):
    wheel = tmp_path / "x-1-py3-none-any.whl"
    wheel.touch()
    assert ".tfspawner/x-1-py3-none-any.whl" in names(packed(folder, wheels=(wheel,)))


def test_an_archive_leaves_nothing_in_tmp(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    code = packed(folder)
    assert code.path.read_bytes()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_files_that_mention_a_word_are_found(folder):
    (folder / "lib/model.py").write_text("import keras")
    (folder / "data/x.bin").write_text("keras")
    assert mentions(folder, "keras", out=folder / "runs") == [folder / "lib/model.py"]
