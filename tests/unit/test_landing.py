"""Where a replica's files land: what is kept, what is replaced, and how much space is reserved."""

import hashlib
import os
import shutil
import stat
from collections import namedtuple
from contextlib import suppress

import pytest

from tfspawner.errors import ArtifactError
from tfspawner.follow.landing import PARTS, FreeSpace, Landing

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def landing(tmp_path):
    return Landing(tmp_path / "run/files", "worker-0")


def write(landing: Landing, name: str, data: bytes, **options: bool) -> None:
    with landing.writing(name, **options) as file:
        file.write(data)


def described(path: str, data: bytes) -> dict:
    return {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_file_is_written_anew_or_behind_what_it_has(landing):
    write(landing, "worker-0/a/b/c", b"12")
    assert (landing.top / "worker-0/a/b/c").read_bytes() == b"12"
    write(landing, "worker-0/a/b/c", b"345", behind=True)
    assert landing.size("worker-0/a/b/c") == 5
    write(landing, "worker-0/a/b/c", b"6")
    assert (landing.top / "worker-0/a/b/c").read_bytes() == b"6"
    assert landing.sha256("worker-0/a/b/c").digest() == hashlib.sha256(b"6").digest()


def test_a_new_file_takes_the_place_of_one_that_others_may_hold_open(landing):
    write(landing, "worker-0/a", b"old")
    with (landing.top / "worker-0/a").open("rb") as former:
        write(landing, "worker-0/a", b"new")
        assert former.read() == b"old"


def test_the_umask_says_who_may_read_what_is_written(landing):
    before = os.umask(0o022)
    try:
        write(landing, "worker-0/a", b"")
        assert stat.S_IMODE((landing.top / "worker-0/a").stat().st_mode) == 0o644
        os.umask(0)
        write(landing, "worker-0/b", b"")
        assert stat.S_IMODE((landing.top / "worker-0/b").stat().st_mode) == 0o666
    finally:
        os.umask(before)


@pytest.mark.parametrize(
    ("here", "holds"), [(b"123", True), (b"124", False), (b"1234", False), (b"12", False), (b"", False), (None, False)]
)
def test_a_file_is_held_if_it_has_the_size_and_the_content(landing, here, holds):
    if here is not None:
        write(landing, "worker-0/a", here)
    assert landing.holds(described("a", b"123")) is holds


def test_what_is_of_another_size_is_not_read(landing, monkeypatch):
    write(landing, "worker-0/a", b"12")
    monkeypatch.setattr(Landing, "sha256", lambda self, name: pytest.fail("it was read"))
    assert not landing.holds(described("a", b"123"))


def test_a_part_is_of_one_file_with_one_content(landing):
    names = {landing.part(described(path, data)) for path, data in (("a", b"1"), ("a", b"2"), ("b", b"1"))}
    assert len(names) == 3
    assert all(name.startswith(f"{PARTS}/worker-0/") for name in names)
    assert landing.place(described("a/b", b"")) == "worker-0/a/b"


@pytest.mark.parametrize("name", ["worker-0/a", "worker-0/x/a"])
def test_of_a_file_that_is_not_there_there_is_no_size_and_no_folder_is_made(landing, name):
    assert landing.size(name) is None
    landing.remove(name)
    assert not landing.top.exists()
    landing.make_folder()
    assert landing.size(name) is None


def test_what_is_no_file_has_no_size_and_a_folder_in_its_place_is_told(landing):
    landing.make_folder("folder")
    os.mkfifo(landing.top / "worker-0/pipe")
    write(landing, "worker-0/file", b"1")
    (landing.top / "worker-0/link").symlink_to("file")
    assert (landing.size("worker-0/pipe"), landing.size("worker-0/link")) == (None, None)
    with pytest.raises(ArtifactError, match=r"run/files/worker-0/folder is a folder, and at worker-0 a file"):
        landing.size("worker-0/folder")


def test_a_file_in_the_place_of_a_folder_is_told_with_its_path(landing):
    write(landing, "worker-0/a/b", b"")
    with pytest.raises(ArtifactError, match=r"run/files/worker-0/a/b is a file, and at worker-0 a folder"):
        write(landing, "worker-0/a/b/c/d", b"")


@pytest.mark.parametrize("link", ["run/files", "run/files/worker-0", "run/files/worker-0/a"])
def test_no_step_of_a_path_may_be_a_link(landing, tmp_path, link):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / link).parent.mkdir(parents=True)
    (tmp_path / link).symlink_to(tmp_path / "elsewhere")
    for work in (lambda: write(landing, "worker-0/a/b", b"1"), lambda: landing.size("worker-0/a/b")):
        with pytest.raises(ArtifactError, match=f"{link} is a link, and worker-0's files would be written through it"):
            work()
    assert os.listdir(tmp_path / "elsewhere") == []


@pytest.mark.parametrize("behind", [False, True])
def test_nothing_is_written_or_read_through_a_link_in_a_files_place(landing, tmp_path, behind):
    (tmp_path / "elsewhere").write_bytes(b"kept")
    landing.make_folder()
    (landing.top / "worker-0/a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"):
        landing.sha256("worker-0/a")
    if behind:
        with pytest.raises(OSError, match="symbolic link"):
            write(landing, "worker-0/a", b"1", behind=True)
    else:
        write(landing, "worker-0/a", b"1")
        assert not (landing.top / "worker-0/a").is_symlink()
    assert (tmp_path / "elsewhere").read_bytes() == b"kept"


def test_a_move_makes_the_folders_and_replaces_what_is_there(landing):
    write(landing, f"{PARTS}/worker-0/x", b"new")
    write(landing, "worker-0/a/b", b"old")
    landing.move(f"{PARTS}/worker-0/x", "worker-0/a/b")
    assert (landing.top / "worker-0/a/b").read_bytes() == b"new"
    write(landing, f"{PARTS}/worker-0/x", b"more")
    landing.move(f"{PARTS}/worker-0/x", "worker-0/c/d/e")
    assert (landing.top / "worker-0/c/d/e").read_bytes() == b"more"
    assert landing.size(f"{PARTS}/worker-0/x") is None


def test_folders_are_made_and_parts_removed(landing):
    landing.make_folder("a/b")
    assert (landing.top / "worker-0/a/b").is_dir()
    landing.make_folder("a/b")
    landing.remove_parts()  # of which there are none
    write(landing, f"{PARTS}/worker-0/x", b"1")
    write(landing, f"{PARTS}/worker-1/x", b"1")
    landing.remove_parts()
    assert os.listdir(landing.top / PARTS) == ["worker-1"]
    write(landing, "worker-0/a/c", b"1")
    landing.remove("worker-0/a/c")
    assert os.listdir(landing.top / "worker-0/a") == ["b"]


def test_parts_that_cannot_be_removed_are_left(landing):
    write(landing, f"{PARTS}/worker-0", b"no folder")
    landing.remove_parts()
    assert landing.size(f"{PARTS}/worker-0") == 9


def test_the_folders_above_are_made_with_the_first_file_and_only_for_writing(tmp_path):
    landing = Landing(tmp_path / "a/b/c/files", "worker-0")
    assert landing.size("worker-0/x") is None
    assert not (tmp_path / "a").exists()
    write(landing, "worker-0/x", b"1")
    assert landing.size("worker-0/x") == 1


def test_the_probe_for_names_that_differ_in_case_leaves_nothing(landing):
    assert landing.folds_case() is (landing.top.parent / "FILES").exists()
    assert os.listdir(landing.top / PARTS / "worker-0") == []
    (landing.top / PARTS / "worker-0/CASE").touch()  # as a file system would show it that takes them for the same
    assert landing.folds_case() is True


def test_no_folder_stays_open(landing):
    write(landing, "worker-0/a/b", b"1")
    write(landing, "worker-0/file", b"1")
    before = open_files()
    for _ in range(3):
        landing.size("worker-0/a/b")
        landing.sha256("worker-0/a/b")
        landing.holds(described("a/b", b"1"))
        with suppress(OSError):
            landing.sha256("worker-0/none/b")
        with suppress(ArtifactError):
            landing.size("worker-0/file/b")
    assert open_files() == before


@pytest.fixture
def free(tmp_path, monkeypatch):
    """What shutil says is free: a list of one number, which a test may change."""
    number = [1000]
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(9999, 9999 - number[0], number[0]))
    return number


def test_all_that_is_free_can_be_taken_and_not_a_byte_more(tmp_path, free):
    disk = FreeSpace(tmp_path)
    with disk.taken(1000, "worker-0"):
        assert disk.promised == 1000
    with pytest.raises(ArtifactError, match=r"worker-0's files take .* more, and .* are free at") as error, disk.taken(1001, "worker-0"):  # fmt: skip
        pass
    assert "for other replicas' files" not in error.value.message
    assert disk.promised == 0


def test_what_others_have_been_promised_is_not_free(tmp_path, free):
    disk = FreeSpace(tmp_path)
    with disk.taken(600, "worker-0") as wrote:
        with pytest.raises(ArtifactError, match="600 B of them for other replicas' files"), disk.taken(401, "worker-1"):
            pass
        with disk.taken(400, "worker-1"):
            assert disk.promised == 1000
        wrote(500)
        free[0] -= 500
        assert disk.promised == 100
        with disk.taken(400, "worker-1"):
            pass
        with pytest.raises(ArtifactError), disk.taken(401, "worker-1"):
            pass
    assert disk.promised == 0


def test_what_was_not_written_is_given_back(tmp_path, free):
    disk = FreeSpace(tmp_path)

    def write_some() -> None:
        with disk.taken(600, "worker-0") as wrote:
            wrote(100)
            wrote(150)
            assert disk.promised == 350
            raise ValueError("cut")

    with pytest.raises(ValueError, match="cut"):
        write_some()
    assert disk.promised == 0
