"""A replica's list of its files is checked whole before anything is asked for or written."""

import gzip
import json
import os
from pathlib import Path

import pytest
from hostile import Hostile, entry, everything_below, nothing
from hypothesis import given, settings
from hypothesis import strategies as st

from tfspawner.errors import ArtifactError
from tfspawner.follow.collect import collect, collect_one

pytestmark = pytest.mark.usefixtures("impatient")

LONG = "/".join(["x" * 250] * 17)


@pytest.mark.parametrize(
    "name",
    [
        "a/..",
        "a/",
        "a/.",
        "\x7f",
        "\x9b2J",
        "\udcff",
        "ü" * 200,
        "d/" * 64 + "a",
        LONG,
        ["a"],
        {"a": 1},
        True,
    ],
    ids=lambda name: ascii(name)[:20],
)
def test_a_name_that_no_file_here_may_have_is_refused_and_the_good_files_are_there(hostile, tmp_path, name):
    hostile.files = {"good": b"1"}
    hostile.entries = [entry("good", b"1"), entry(name, b"2")]
    collected, errors = collect([hostile.client()], tmp_path / "files", nothing)
    assert collected[0].refused == [str(name)]
    assert errors[0].exit_code == 5
    assert len(errors[0].message) < 400
    assert errors[0].message.isprintable()
    assert everything_below(tmp_path) == ["files/worker-0/good"]
    assert [path for path, *_ in hostile.asked[0]] == ["good"]


def test_of_two_files_of_one_name_the_first_comes_and_the_second_is_refused(hostile, tmp_path):
    hostile.files = {"a": b"1"}
    hostile.entries = [entry("a", b"1"), entry("a", b"2")]
    collected, errors = collect([hostile.client()], tmp_path / "files", nothing)
    assert collected[0].refused == ["a"]
    assert errors[0].exit_code == 5
    assert (tmp_path / "files/worker-0/a").read_bytes() == b"1"


@pytest.mark.parametrize("names", [["a", "a/b"], ["a/b", "a"], ["x/a/b/c", "x/a"]])
def test_a_file_that_is_a_folder_too_is_refused_and_the_folders_files_come(hostile, tmp_path, names):
    hostile.files = dict.fromkeys(names, b"1")
    file, inside = sorted(names)
    collected, errors = collect([hostile.client()], tmp_path / "files", nothing)
    assert collected[0].refused == [file]
    assert errors[0].exit_code == 5
    assert everything_below(tmp_path) == [f"files/worker-0/{inside}"]


def test_where_names_that_differ_in_case_are_the_same_the_second_is_refused(hostile, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "tfspawner.follow.landing.Landing.folds_case", lambda self: True
    )  # no such file system is at hand
    hostile.files = {
        "Model": b"1",
        "model": b"2",
        "Stra\u00dfe": b"3",
        "STRASSE": b"4",
        "e\u0301": b"5",
        "\u00e9": b"6",
    }
    collected, _ = collect([hostile.client()], tmp_path / "files", nothing)
    assert collected[0].refused == ["model", "STRASSE", "\u00e9"]


def test_an_empty_folder_of_a_bad_name_is_told_and_not_made(hostile, tmp_path):
    hostile.files = {"file": b"1"}
    hostile.manifest["folders"] = ["../out", "/tmp/out", "two\nlines", 7, "file", "file/inside", "good"]
    collected, _ = collect([hostile.client()], tmp_path / "files", nothing)
    assert collected[0].refused == ["../out", "/tmp/out", "two\nlines", "file", "file/inside", "7"]
    assert sorted(path.name for path in (tmp_path / "files/worker-0").iterdir()) == ["file", "good"]
    assert not (tmp_path / "files/out").exists()


@pytest.mark.parametrize("kind", ["files", "folders"])
def test_more_files_or_folders_than_can_be_told_a_bound_are_refused(hostile, tmp_path, monkeypatch, kind):
    monkeypatch.setattr("tfspawner.backends.listing.MOST_ENTRIES", 10)
    hostile.manifest["folders"] = [str(number) for number in range(11)]
    if kind == "files":
        hostile.files, hostile.manifest["folders"] = {str(number): b"" for number in range(11)}, []
    with pytest.raises(
        ArtifactError, match="worker-0 lists more than 10 files and folders, the most that can be collected"
    ):
        collect_one(hostile.client(), tmp_path / "worker-0", nothing)
    assert everything_below(tmp_path) == []
    assert hostile.asked == []


@pytest.mark.parametrize(
    "changes",
    [
        {"size": True}, {"size": 1.0}, {"size": None}, {"size": [1]}, {"sha256": "g" * 64}, {"sha256": "\ud800" * 64},
        {"sha256": "A" * 64}, {"sha256": ["a"] * 64}, {"sha256": "a" * 63 + "\n"},
    ],
)  # fmt: skip
def test_a_description_of_another_kind_is_told(hostile, tmp_path, changes):
    hostile.entries = [entry("a", b"1", **changes)]
    with pytest.raises(ArtifactError, match="worker-0 describes its file 'a' wrongly"):
        collect_one(hostile.client(), tmp_path / "worker-0", nothing)
    assert everything_below(tmp_path) == []


@pytest.mark.parametrize("one", ["text\x1b[2J" * 100, 7, None, [], {}, {"path": "a"}, {"path": "a", "size": 1}])
def test_what_describes_no_file_is_told(hostile, tmp_path, one):
    hostile.entries = [one]
    with pytest.raises(ArtifactError, match="worker-0 describes a file wrongly") as error:
        collect_one(hostile.client(), tmp_path / "worker-0", nothing)
    assert error.value.message.isprintable()
    assert len(error.value.message) < 400


@pytest.mark.parametrize(
    "reply",
    [
        b"", b"no json", b"\xff\xfe", b"[]", b"7", b"null", b'{"files": []}', b'{"files": {}, "folders": []}',
        b"[" * 200_000, b'{"files": ' * 100_000, b'{"files": [' + b"1" * 10_000, b'{"files": [{"size": 1',
    ],
    ids=lambda reply: repr(reply[:12]),
)  # fmt: skip
def test_what_is_no_list_of_files_is_told(hostile, tmp_path, reply):
    hostile.reply = reply
    with pytest.raises(ArtifactError, match="worker-0's files could not be collected whole") as error:
        collect_one(hostile.client(), tmp_path / "worker-0", nothing)
    assert "tf-spawner fetch" in str(error.value.hint)


def test_a_list_of_files_without_an_end_is_broken_off(hostile, tmp_path, monkeypatch):
    monkeypatch.setattr("tfspawner.backends.client.LONGEST_MANIFEST", 1 << 20)
    hostile.reply = hostile.until_over(b'{"files": [', b" " * 100_000, every_s=0)
    with pytest.raises(ArtifactError, match="sent more than 1,048,576 bytes"):
        collect_one(hostile.client(), tmp_path / "worker-0", nothing)


def test_a_compressed_bomb_is_not_unpacked(hostile, tmp_path):
    hostile.headers = {"Content-Encoding": "gzip"}
    hostile.reply = gzip.compress(hostile.listing() + b" " * (1 << 26), compresslevel=1)
    with pytest.raises(ArtifactError, match="sent no JSON"):
        collect_one(hostile.client(), tmp_path / "worker-0", nothing)


def test_a_list_of_files_that_trickles_is_broken_off(hostile, tmp_path):
    hostile.reply = hostile.until_over(b'{"files": [', b" ")
    with pytest.raises(ArtifactError, match=r"worker-0's agent sent no whole answer in 1 s"):
        collect_one(hostile.client(manifest_s=1), tmp_path / "worker-0", nothing)


def test_a_refusal_that_is_cut_off_is_told_as_one(hostile, tmp_path):
    hostile.status, hostile.headers, hostile.reply = 500, {"Content-Length": "300"}, b"no \x1b[2J"
    with pytest.raises(ArtifactError, match="worker-0's agent answered 500"):
        collect_one(hostile.client(), tmp_path / "worker-0", nothing)


def test_no_other_address_is_asked_for_an_agent_that_names_one(hostile, tmp_path):
    elsewhere = Hostile()
    elsewhere.files = {"a": b"1"}
    hostile.status, hostile.headers = 302, {"Location": elsewhere.client().url + "/files"}
    with pytest.raises(ArtifactError, match="worker-0's agent answered 302"):
        collect_one(hostile.client(), tmp_path / "worker-0", nothing)
    assert everything_below(tmp_path) == []
    elsewhere.close()


NAMES = st.text(alphabet="ab./\\\0\n~-é\udcff", max_size=12) | st.text(st.characters(codec=None), max_size=40)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@pytest.mark.parametrize("half", [1, 2])
@settings(max_examples=100)
@given(names=st.lists(NAMES, max_size=6), folders=st.lists(NAMES, max_size=3))
def test_whatever_the_names_all_is_written_inside_the_folder_or_refused(
    shared_hostile, tmp_path_factory, half, names, folders
):
    top = tmp_path_factory.mktemp("names")
    content = {name: os.fsencode(ascii(name)) for name in names}
    shared_hostile.files = content
    shared_hostile.entries = [entry(name, content[name]) for name in names]
    shared_hostile.manifest["folders"] = folders
    collected, errors = collect([shared_hostile.client()], top / "files", nothing)
    came = {file["path"] for file in collected[0].files}
    assert everything_below(top) == sorted(f"files/worker-0/{name}" for name in came)
    assert all((top / "files/worker-0" / name).read_bytes() == content[name] for name in came)
    assert came | set(collected[0].refused) >= set(names)
    assert bool(errors) == bool(collected[0].refused)
    assert [path.name for path in top.iterdir()] == ["files"]


@settings(max_examples=100)
@given(
    ANYTHING
    | st.fixed_dictionaries(
        {"folders": ANYTHING, "skipped": ANYTHING, "unreadable": ANYTHING, "files": st.lists(ANYTHING, max_size=3)}
    )
    | st.fixed_dictionaries(
        {
            "folders": st.lists(ANYTHING, max_size=2), "skipped": st.lists(ANYTHING, max_size=2),
            "unreadable": st.lists(ANYTHING, max_size=2),
            "files": st.lists(st.fixed_dictionaries({"path": ANYTHING, "size": ANYTHING, "sha256": ANYTHING}), max_size=2),
        }
    )
)  # fmt: skip
def test_whatever_the_list_of_files_says_it_is_taken_or_told(shared_hostile, tmp_path_factory, manifest):
    top = tmp_path_factory.mktemp("lists")
    shared_hostile.reply = json.dumps(manifest).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tfspawner.follow.collect.TRIES_WITHOUT_PROGRESS", 1)
        _, errors = collect([shared_hostile.client()], top / "files", nothing)
    shared_hostile.reply = None
    assert all(error.exit_code == 5 and "worker-0" in error.message for error in errors)
    assert files_of(top) == []


def files_of(top: Path) -> list[str]:
    return [name for name in everything_below(top) if "/.parts/" not in f"/{name}"]
