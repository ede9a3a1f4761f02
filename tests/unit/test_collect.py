"""Collecting from an agent that is broken, or means harm: a real server that sends what the test says."""

import os

import pytest
from hostile import entry, everything_below, nothing

from tfspawner.errors import ArtifactError
from tfspawner.follow.collect import collect, collect_one
from tfspawner.follow.landing import Landing

pytestmark = pytest.mark.usefixtures("impatient")


def test_files_and_empty_folders_come(hostile, tmp_path):
    hostile.files = {"a/b": b"x" * 100_000, "empty": b"", "größe": b"1", "nb\u00a0sp": b"2", "back\\slash": b"3"}
    hostile.manifest["folders"] = ["model/assets"]
    collected = collect_one(hostile.client(), tmp_path / "worker-0", nothing)
    assert {name: (tmp_path / "worker-0" / name).read_bytes() for name in hostile.files} == hostile.files
    assert (tmp_path / "worker-0/model/assets").is_dir()
    assert collected.refused == []
    assert everything_below(tmp_path) == sorted(f"worker-0/{name}" for name in hostile.files)


@pytest.mark.parametrize(
    "name", ["..", "../x", "/abs", "a/../b", "", "a//b", "./a", "a\nb", "nul\0", "x" * 300, "\x1b[2J", None, 7]
)
def test_a_name_that_leads_astray_is_refused_and_the_good_files_are_there(hostile, tmp_path, name):
    hostile.files = {"good": b"1"}
    hostile.entries = [entry("good", b"1"), entry(name, b"2")]
    collected, errors = collect([hostile.client()], tmp_path / "files", nothing)
    assert collected[0].refused == [str(name)]
    assert errors[0].exit_code == 5
    assert everything_below(tmp_path) == ["files/worker-0/good"]
    assert [path for path, *_ in hostile.asked[0]] == ["good"]


def test_a_folder_of_such_a_name_is_not_made(hostile, tmp_path):
    hostile.manifest["folders"] = ["../out", "/tmp/out"]
    collect_one(hostile.client(), tmp_path / "files/worker-0", nothing)
    assert not (tmp_path / "files/out").exists()


@pytest.mark.parametrize("cut", [0, 10, 60, 5_000, 99_000])
def test_a_cut_stream_goes_on_where_it_was(hostile, tmp_path, cut):
    data = os.urandom(100_000)
    hostile.files = {"first": b"1", "big": data}
    hostile.cuts = [cut]
    collect_one(hostile.client(), tmp_path / "worker-0", nothing)
    assert (tmp_path / "worker-0/big").read_bytes() == data
    whole = hostile.frames([["first", 0, 1], ["big", 0, len(data)]])
    had = max(0, cut - whole.index(data)) if cut > whole.index(data) else 0
    assert hostile.asked[1][-1] == ["big", had, len(data)]


def test_what_was_had_counts_for_the_next_launcher(hostile, tmp_path):
    data = os.urandom(50_000)
    hostile.files = {"big": data}
    hostile.cuts = [20_000, 0, 0]
    with pytest.raises(ArtifactError):
        collect_one(hostile.client(), tmp_path / "worker-0", nothing)
    assert not (tmp_path / "worker-0/big").exists()
    hostile.asked.clear()
    collect_one(hostile.client(), tmp_path / "worker-0", nothing)
    assert hostile.asked[0][0][1] > 19_000
    assert (tmp_path / "worker-0/big").read_bytes() == data


def test_a_file_that_is_here_already_is_not_asked_for(hostile, tmp_path):
    hostile.files = {"a": b"1"}
    for _ in range(2):
        collect_one(hostile.client(), tmp_path / "worker-0", nothing)
    assert len(hostile.asked) == 1


def test_after_a_cut_only_what_did_not_come_whole_is_asked_for(hostile, tmp_path):
    hostile.files = {"first": b"1" * 3000, "second": b"2" * 3000, "third": b"3" * 3000}
    whole = hostile.frames([[name, 0, 3000] for name in hostile.files])
    hostile.cuts = [whole.index(b"2222") + 1000]
    collect_one(hostile.client(), tmp_path / "worker-0", nothing)
    assert hostile.asked == [
        [["first", 0, 3000], ["second", 0, 3000], ["third", 0, 3000]],
        [["second", 1000, 3000], ["third", 0, 3000]],
    ]


def test_of_files_that_are_here_in_part_the_next_launcher_asks_for_the_others_alone(hostile, tmp_path):
    hostile.files = {"a": b"1", "b": b"2", "c": b"3"}
    collect_one(hostile.client(), tmp_path / "worker-0", nothing)
    (tmp_path / "worker-0/b").unlink()
    (tmp_path / "worker-0/c").write_bytes(b"x")
    collect_one(hostile.client(), tmp_path / "worker-0", nothing)
    assert hostile.asked[1] == [["b", 0, 1], ["c", 0, 1]]
    assert (tmp_path / "worker-0/c").read_bytes() == b"3"


@pytest.mark.parametrize(("size", "had"), [(4999, 4999), (5000, 5000), (5001, 0)])
def test_of_a_part_as_long_as_its_file_no_byte_is_asked_for_and_a_longer_one_counts_for_nothing(
    hostile, tmp_path, size, had
):
    data = os.urandom(5000)
    hostile.files = {"big": data}
    landing = Landing(tmp_path, "worker-0")
    with landing.writing(landing.part(entry("big", data))) as part:
        part.write((data + b"x")[:size])
    came = []
    collect_one(hostile.client(), tmp_path / "worker-0", came.append)
    assert hostile.asked == [[["big", had, 5000]]]
    assert sum(came) == 5000 - had
    assert (tmp_path / "worker-0/big").read_bytes() == data


@pytest.mark.parametrize(
    "stream",
    [
        b'{"path": "a", "offset": 0, "size": 3}\nbad{"end": true}\n',  # another content
        b'{"path": "a", "offset": 0, "size": 9}\n123456789{"end": true}\n',  # another size
        b'{"path": "b", "offset": 0, "size": 3}\n123{"end": true}\n',  # another file
        b'{"path": "a", "missing": true}\n{"end": true}\n',
        b'{"end": true}\n',
        b"[1]\n",
        b"no json\n",
        b'{"path": "a", "offset": 0, "size": 3',  # no end of the line
    ],
)
def test_what_was_not_announced_never_gets_a_files_name(hostile, tmp_path, stream):
    hostile.files = {"a": b"123"}
    hostile.stream = stream
    with pytest.raises(ArtifactError, match="worker-0's files could not be collected whole"):
        collect_one(hostile.client(), tmp_path / "worker-0", nothing)
    assert not (tmp_path / "worker-0/a").exists()


@pytest.mark.parametrize("changes", [{"size": -1}, {"size": "1"}, {"sha256": "short"}, {"sha256": None}])
def test_a_wrong_description_is_told(hostile, tmp_path, changes):
    hostile.entries = [entry("a", b"1", **changes)]
    with pytest.raises(ArtifactError, match="describes its file 'a' wrongly"):
        collect_one(hostile.client(), tmp_path / "worker-0", nothing)


def test_more_than_the_disk_holds_is_told_before_a_byte_is_asked_for(hostile, tmp_path):
    hostile.entries = [entry("bomb", b"", size=1 << 60)]
    with pytest.raises(ArtifactError, match=r"1073741824\.0 GiB more"):
        collect_one(hostile.client(), tmp_path / "worker-0", nothing)
    assert hostile.asked == []


def test_nothing_is_written_through_a_link(hostile, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "worker-0").mkdir()
    (tmp_path / "worker-0/a").symlink_to(tmp_path / "outside")
    hostile.files = {"a/b": b"1"}
    with pytest.raises(ArtifactError, match="is a link"):
        collect_one(hostile.client(), tmp_path / "worker-0", nothing)
    assert everything_below(tmp_path / "outside") == []
