"""Folders that others may write to, /tmp among them: nothing of theirs is read as data, and nothing of ours is written there."""

import os

import pytest

from tfspawner.data.cache import Cache
from tfspawner.data.copying import copy_all, plan
from tfspawner.data.files import File
from tfspawner.data.filesystems import LocalFiles, list_files
from tfspawner.errors import ConfigurationError, DataError

ANOTHER_USER = 12345
BOUND = 1 << 30
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's files")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_bytes(bytes(range(256)) * 40)
    return list_files(str(path))[0]


@pytest.fixture
def shared(tmp_path):
    """A folder that all may write to, as /tmp is."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def blocks(folder):
    return list((folder / "blocks").iterdir())


def test_a_cache_in_a_folder_that_all_may_write_to_is_ours_alone(source, shared):
    cache = Cache(shared, BOUND, [source])
    assert cache.read(source, 0, source.size) == cache.read(source, 0, source.size)
    assert [path.stat().st_mode & 0o777 for path in (shared / "blocks", shared / "locks")] == [0o700, 0o700]
    assert [path.stat().st_mode & 0o777 for path in blocks(shared)] == [0o600]


@needs_root
@pytest.mark.parametrize("part", ["blocks", "locks"])
def test_a_cache_that_another_user_made_first_is_refused(source, shared, part):
    (shared / part).mkdir(mode=0o777)
    os.chown(shared / part, ANOTHER_USER, ANOTHER_USER)
    with pytest.raises(ConfigurationError, match=f"{part} belongs to user {ANOTHER_USER}"):
        Cache(shared, BOUND, [source])


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_a_cache_whose_blocks_others_may_write_is_refused(source, shared, mode):
    (shared / "blocks").mkdir()
    (shared / "blocks").chmod(mode)
    with pytest.raises(ConfigurationError, match=r"others may write to .*/blocks"):
        Cache(shared, BOUND, [source])


def test_a_link_in_the_cache_s_place_is_refused_and_nothing_is_written_behind_it(source, shared, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (shared / "blocks").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match=r"blocks is a link"):
        Cache(shared, BOUND, [source])
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_cache_that_is_moved_away_and_replaced_goes_on_in_its_own_folder(source, shared):
    cache = Cache(shared, BOUND, [source])
    expected = cache.read(source, 0, source.size)
    (name,) = [path.name for path in blocks(shared)]
    (shared / "blocks").rename(shared / "moved")
    (shared / "blocks").mkdir()
    (shared / "blocks" / name).write_bytes(bytes(source.size))
    assert cache.read(source, 0, source.size) == expected


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes() + b"x"),
        lambda path: path.write_bytes(b"x" + path.read_bytes()[1:]),
        lambda path: path.write_bytes(bytes(path.stat().st_size - 4)),
        lambda path: (path.unlink(), path.symlink_to("/etc/passwd")),
    ],
)
def test_a_block_that_is_not_what_its_name_says_is_fetched_anew(source, shared, harm):
    expected = Cache(shared, BOUND, [source]).read(source, 0, source.size)
    (path,) = blocks(shared)
    good = path.read_bytes()
    harm(path)
    assert Cache(shared, BOUND, [source]).read(source, 100, 1000) == expected[100:1100]
    assert (path.is_symlink(), path.read_bytes()) == (False, good)


def test_a_block_under_another_s_name_is_fetched_anew(source, shared, tmp_path):
    (tmp_path / "other").write_bytes(b"y" * source.size)
    (other,) = list_files(str(tmp_path / "other"))
    cache = Cache(shared, BOUND, [source, other])
    expected = cache.read(source, 0, source.size)
    (path,) = blocks(shared)
    cache.read(other, 0, other.size)
    (another,) = set(blocks(shared)) - {path}
    another.replace(path)
    assert Cache(shared, BOUND, [source, other]).read(source, 0, source.size) == expected


def test_a_counter_that_is_damaged_makes_the_cache_full_and_not_fail(source, shared):
    cache = Cache(shared, BOUND, [source])
    (shared / "locks/size").write_bytes(b"\xff-1e9")
    assert len(cache.read(source, 0, source.size)) == source.size
    assert blocks(shared) == []


# ---- copies


def copied(source: File, target) -> bytes:
    list(copy_all(plan([source], str(target), into=False), lambda _: None, overwrite=False))
    return target.read_bytes()


def test_a_link_in_the_place_of_an_unfinished_copy_is_refused_and_its_target_left_alone(source, shared, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (shared / ".copy.part").symlink_to(precious)
    with pytest.raises(DataError, match=r"\.copy\.part: "):
        copied(source, shared / "copy")
    (shared / ".copy.part").unlink()
    os.link(precious, shared / ".copy.part")
    with pytest.raises(DataError, match="no file of yours alone"):
        copied(source, shared / "copy")
    assert precious.read_text() == "precious"


@needs_root
def test_another_user_s_unfinished_copy_is_refused(source, shared):
    part = shared / ".copy.part"
    part.touch()
    os.chown(part, ANOTHER_USER, ANOTHER_USER)
    part.chmod(0o666)
    # in a folder like /tmp the kernel refuses that by itself, where protected_regular is set
    with pytest.raises(DataError, match=r"no file of yours alone|Permission denied"):
        copied(source, shared / "copy")


def test_one_s_own_unfinished_copy_is_taken_over(source, shared):
    (shared / ".copy.part").write_bytes(b"of one that was killed")
    assert len(copied(source, shared / "copy")) == source.size


@pytest.mark.parametrize("uri", ["s3://bucket/a/..", "s3://bucket/a/x\x1b[2J", "s3://bucket/a/b\0c", "s3://bucket/a/"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, uri):
    with pytest.raises(DataError, match="cannot be copied into a folder: its name is"):
        plan([File(uri, 1), File("s3://bucket/a/good", 1)], str(tmp_path), into=True)


def test_a_file_that_comes_from_another_disk_is_whole_before_it_has_its_name(tmp_path, monkeypatch):
    source, target = tmp_path / "source", tmp_path / "folder/target"
    source.write_text("new")
    stat = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **more: os.stat_result([*range(2), path == str(source), *range(7)])
                        if path in (str(source), str(target.parent)) else stat(path, **more))  # fmt: skip
    LocalFiles().put(str(source), str(target))
    assert target.read_text() == "new"
    assert [path.name for path in target.parent.iterdir()] == ["target"]
