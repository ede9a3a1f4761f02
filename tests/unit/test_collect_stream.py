"""Files as a hostile agent sends them, and as a folder with traps takes them: whole under their names, or not at all."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hostile import END, everything_below, frame, nothing
from hypothesis import given, settings
from hypothesis import strategies as st

from tfspawner.base.words import human_bytes
from tfspawner.errors import ArtifactError
from tfspawner.follow.collect import collect, collect_one

pytestmark = pytest.mark.usefixtures("impatient")


def whole_files(top: Path) -> list[str]:
    return [name for name in everything_below(top) if not name.startswith(".parts/")]


@pytest.mark.parametrize(
    "stream",
    [
        frame("a", b"x" * 100_003, offset=-100_000),  # ends where it should, and is a bomb
        frame("a", b"23", offset=1),
        frame("a", b"123", offset=None),
        frame("a", b"123", offset=0.5),
        frame("a", b"123", size=-3),
        frame("a", b"123", size="3"),
        frame("a", b"123", size=True),
        frame("a", b"123", size=1 << 70),
        frame("a", b"12"),
        frame(["a"], b"123"),
        frame("b", b"123"),  # was not asked for
        frame("../a", b"123"),
        frame("/a", b"123"),
        frame(None, b""),
        frame("a", b"12", size=3),  # a byte of the end's frame is taken for the file's
        b"{" * 200_000 + b"\n",
        b"[" * 200_000 + b"\n",
        b'{"path": "a", "size": ' + b"1" * 5_000 + b"}\n",
        b"\xff\n",
    ],
    ids=lambda stream: repr(stream[:60]),
)
def test_a_lie_about_a_file_writes_nothing_under_a_name_and_no_more_than_was_announced(hostile, tmp_path, stream):
    hostile.files = {"a": b"123"}
    hostile.stream = stream + END
    written: list[int] = []
    with pytest.raises(ArtifactError, match="worker-0's files could not be collected whole") as error:
        collect_one(hostile.client(), tmp_path / "worker-0", written.append)
    assert error.value.message.isprintable()
    assert whole_files(tmp_path) == []
    assert sum(written) <= 2 * 3  # of each try


def test_a_files_second_coming_and_one_not_asked_for_change_nothing(hostile, tmp_path):
    hostile.files = {"a": b"123", "b": b"456"}
    hostile.stream = frame("a", b"123") + frame("a", b"666") + frame("c", b"7") + frame("b", b"456") + END
    with suppress(ArtifactError):
        collect_one(hostile.client(), tmp_path / "worker-0", nothing)
    assert (tmp_path / "worker-0/a").read_bytes() == b"123"
    assert set(whole_files(tmp_path)) <= {"worker-0/a", "worker-0/b"}


@pytest.mark.parametrize("more", [b"", b"x"])
def test_bytes_after_the_end_are_left_unread(hostile, tmp_path, more):
    hostile.files = {"a": b"123"}
    hostile.stream = hostile.until_over(frame("a", b"123") + END + b"more", more)
    collect_one(hostile.client(), tmp_path / "worker-0", nothing)
    assert everything_below(tmp_path) == ["worker-0/a"]


def test_a_frame_without_an_end_is_broken_off(hostile, tmp_path):
    hostile.files = {"a": b"123"}
    hostile.stream = hostile.until_over(b'{"path": "', b"a" * 100_000, every_s=0)
    with pytest.raises(ArtifactError, match="worker-0's agent sent no frame"):
        collect_one(hostile.client(), tmp_path / "worker-0", nothing)


def test_a_stream_that_stops_is_broken_off_and_what_came_counts(hostile, tmp_path):
    data = os.urandom(200_000)
    hostile.files = {"a": data}
    hostile.stream = hostile.until_over(frame("a", data)[:150_000])
    with pytest.raises(ArtifactError, match="worker-0's files could not be collected whole"):
        collect_one(hostile.client(idle_s=1), tmp_path / "worker-0", nothing)
    assert whole_files(tmp_path) == []
    assert hostile.asked[1][0][1] > 149_000


@pytest.mark.parametrize("first", [b'{"path": ', frame("a", b"", size=100_000), frame("a", b"", size=0) + b'{"path"'])
def test_a_stream_that_trickles_is_broken_off_though_it_never_stops(hostile, tmp_path, first):
    hostile.files = {"a": b"x" * 100_000, "b": b"y" * 100_000}
    hostile.stream = hostile.until_over(first, b" ")
    with pytest.raises(ArtifactError, match="worker-0's files could not be collected whole"):
        collect_one(hostile.client(window_s=0.2), tmp_path / "worker-0", nothing)
    assert len(hostile.asked) == 2
    assert whole_files(tmp_path) == []


def test_one_small_file_a_request_is_no_progress_for_ever(hostile, tmp_path):
    hostile.files = {f"{number:03}": b"x" for number in range(100)}
    hostile.cuts = [len(frame("000", b"x"))] * 1000
    with pytest.raises(ArtifactError, match="worker-0's files could not be collected whole"):
        collect_one(hostile.client(), tmp_path / "worker-0", nothing)
    assert len(hostile.asked) == 2
    assert whole_files(tmp_path) == ["worker-0/000", "worker-0/001"]


@pytest.mark.parametrize("link", ["worker-0", "worker-0/a", ".parts", ".parts/worker-0"])
def test_a_link_on_the_way_is_told_before_a_byte_is_asked_for(hostile, tmp_path, link):
    outside, files = tmp_path / "outside", tmp_path / "files"
    outside.mkdir()
    (files / link).parent.mkdir(parents=True, exist_ok=True)
    (files / link).symlink_to(outside)
    hostile.files = {"a/b": b"1"}
    _, (error,) = collect([hostile.client()], files, nothing)
    assert f"{files / link} is a link" in error.message
    assert "worker-0" in error.message
    assert str(error.hint).startswith("remove the link")
    assert hostile.asked == []
    assert list(outside.iterdir()) == []


def test_the_files_of_a_run_whose_folder_of_files_is_a_link_stay_out_of_it(hostile, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "files").symlink_to(tmp_path / "outside")
    hostile.files = {"a": b"1"}
    _, (error,) = collect([hostile.client()], tmp_path / "files", nothing)
    assert "files is a link" in error.message
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize("inside", ["1", "another content", None])
def test_a_link_in_the_place_of_a_file_is_replaced_and_not_written_through(hostile, tmp_path, inside):
    target = tmp_path / "target"
    if inside is not None:
        target.write_text(inside)
    (tmp_path / "files/worker-0").mkdir(parents=True)
    (tmp_path / "files/worker-0/a").symlink_to(target)
    hostile.files = {"a": b"1"}
    collect_one(hostile.client(), tmp_path / "files/worker-0", nothing)
    assert not (tmp_path / "files/worker-0/a").is_symlink()
    assert (tmp_path / "files/worker-0/a").read_bytes() == b"1"
    assert (target.read_text() if target.exists() else None) == inside


def test_a_link_or_pipe_in_the_place_of_a_part_is_not_written_through(hostile, tmp_path):
    hostile.files = {"big": os.urandom(1000), "other": b"1"}
    hostile.cuts = [500, 0]
    with suppress(ArtifactError):
        collect_one(hostile.client(), tmp_path / "worker-0", nothing)
    (part,) = (tmp_path / ".parts/worker-0").iterdir()
    for trap in (lambda: part.symlink_to(tmp_path / "outside"), lambda: os.mkfifo(part)):
        part.unlink()
        trap()
        hostile.cuts = [500, 0]
        with suppress(ArtifactError):
            collect_one(hostile.client(), tmp_path / "worker-0", nothing)
        assert part.is_file()
        assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize(("here", "there"), [("a", "a/b"), ("a/b", "a"), ("a/b/c", "a/b")])
def test_a_file_in_the_place_of_a_folder_and_a_folder_in_that_of_a_file_are_told(hostile, tmp_path, here, there):
    hostile.files = {here: b"1"}
    collect_one(hostile.client(), tmp_path / "worker-0", nothing)
    hostile.files = {there: b"2"}
    hostile.asked.clear()
    with pytest.raises(ArtifactError, match=f"worker-0/{min(here, there)} is a f.* and at worker-0 a f") as error:
        collect_one(hostile.client(), tmp_path / "worker-0", nothing)
    assert "room" not in str(error.value.hint)
    assert hostile.asked == []
    assert everything_below(tmp_path) == [f"worker-0/{here}"]


def test_a_place_that_is_no_folder_is_told_with_the_replica(hostile, tmp_path):
    (tmp_path / "files").write_text("in the way")
    hostile.files = {"a": b"1"}
    _, (error,) = collect([hostile.client()], tmp_path / "files", nothing)
    assert error.exit_code == 5
    assert "worker-0" in error.message


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_files_that_fit_only_one_by_one_are_refused_with_what_they_need_and_what_is_free(hostile, small_disk):
    hostile.files = {"a": b"x" * 600_000, "b": b"y" * 600_000}
    _, (error,) = collect([hostile.client()], small_disk / "files", nothing)
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    assert f"worker-0's files take 1.1 MiB more, and {human_bytes(free)} are free" in error.message
    assert "tf-spawner fetch" in str(error.hint)
    assert hostile.asked == []
    assert everything_below(small_disk) == []


def test_two_replicas_files_that_do_not_fit_together_do_not_fill_the_disk(hostile, small_disk):
    hostile.files = {"a": b"x" * 600_000}
    agents = [hostile.client(), hostile.client("worker-1")]
    collected, (error,) = collect(agents, small_disk / "files", nothing)
    assert "585.9 KiB more" in error.message
    assert error.message.startswith("worker-")
    assert len(hostile.asked) == 1
    assert everything_below(small_disk) == [f"files/{collected[0].replica}/a"]


def test_what_is_here_in_part_needs_room_for_its_rest_alone(hostile, small_disk):
    data = os.urandom(700_000)
    hostile.files = {"a": data}
    hostile.cuts = [500_000, 0, 0]
    with pytest.raises(ArtifactError, match="could not be collected whole"):
        collect_one(hostile.client(), small_disk / "files/worker-0", nothing)
    hostile.cuts = []
    collect_one(hostile.client(), small_disk / "files/worker-0", nothing)
    assert (small_disk / "files/worker-0/a").read_bytes() == data


def test_a_disk_that_fills_meanwhile_is_told_and_once_there_is_room_the_files_come(hostile, small_disk):
    data = os.urandom(600_000)
    hostile.files = {"a": b"1", "model": data}

    def pieces():
        yield frame("a", b"1") + frame("model", data)[:100_000]
        while not (small_disk / "files/worker-0/a").exists():
            hostile.over.wait(0.01)
        with suppress(OSError):
            (small_disk / "filler").write_bytes(b"x" * (1 << 20))
        yield frame("model", data)[100_000:] + END

    hostile.stream = pieces
    _, (error,) = collect([hostile.client()], small_disk / "files", nothing)
    assert error.exit_code == 5
    assert "worker-0's file 'model' cannot be written" in error.message
    assert "No space left on device" in error.message
    assert "585.9 KiB" in error.message
    assert "make room" in str(error.hint)
    assert "tf-spawner fetch" in str(error.hint)
    assert everything_below(small_disk) == ["files/worker-0/a", "filler"]  # no part takes the last room
    (small_disk / "filler").unlink()
    hostile.stream = None
    _, errors = collect([hostile.client()], small_disk / "files", nothing)
    assert errors == []
    assert (small_disk / "files/worker-0/model").read_bytes() == data


def test_files_past_a_limit_of_the_process_are_told_and_no_part_of_them_has_a_name(hostile, tmp_path):
    """RLIMIT_FSIZE holds for a whole process; so it is another's that collects."""
    hostile.files = {"a": b"x" * 100_000}
    code = (
        "import sys, urllib3\nfrom pathlib import Path\nfrom tfspawner.backends.client import AgentClient\n"
        "from tfspawner.follow.collect import collect\n"
        "agent = AgentClient(replica='worker-0', url=sys.argv[1], token='t', pool=urllib3.PoolManager(), headers=dict)\n"
        "_, (error,) = collect([agent], Path(sys.argv[2]), lambda count: None)\nprint(error.message)\n"
    )
    command = ["bash", "-c", 'ulimit -f 10; exec "$@"', "bash", sys.executable, "-c", code]
    done = subprocess.run([*command, hostile.client().url, str(tmp_path / "files")], capture_output=True, text=True)
    assert "worker-0's file 'a' cannot be written: File too large" in done.stdout, done.stderr
    assert whole_files(tmp_path / "files") == []


GOOD = {"a": b"123", "d/b": b"x" * 3000, "empty": b""}


@settings(max_examples=200)
@given(st.data())
def test_whatever_a_stream_holds_a_file_is_here_whole_or_not_at_all(shared_hostile, tmp_path_factory, data):
    top = tmp_path_factory.mktemp("stream")
    good = b"".join(frame(name, body) for name, body in GOOD.items()) + END
    start = data.draw(st.integers(0, len(good)))
    length = data.draw(st.integers(0, 50))
    shared_hostile.files = GOOD
    shared_hostile.stream = good[:start] + data.draw(st.binary(max_size=50)) + good[start + length :]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tfspawner.follow.collect.TRIES_WITHOUT_PROGRESS", 1)
        _, errors = collect([shared_hostile.client()], top, nothing)
    names = whole_files(top)
    assert set(names) <= {f"worker-0/{name}" for name in GOOD}
    assert all((top / name).read_bytes() == GOOD[name.removeprefix("worker-0/")] for name in names)
    assert errors or len(names) == len(GOOD)


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "reply",
    [
        b"", b"\0" * 100, b"220 an FTP server\r\n", b"HTTP/1.1 999 \xff\r\n\r\n", OK + b"\r\n",
        OK + b"Content-Length: -1\r\n\r\n{}", OK + b"Content-Length: 1, 2\r\n\r\n{}", OK + b"Content-Length: 99\r\n\r\n{}",
        OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}", OK + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n{}",
        b"HTTP/1.1 500 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        OK + b"X: y\r\n" * 200 + b"\r\n", OK + b"X: " + b"y" * 70_000 + b"\r\n\r\n{}",
    ],
    ids=lambda reply: repr(reply[:60]),
)  # fmt: skip
def test_what_is_no_http_is_told(hostile, tmp_path, reply):
    hostile.raw = reply
    with pytest.raises(ArtifactError, match="worker-0's files could not be collected whole"):
        collect_one(hostile.client(), tmp_path / "worker-0", nothing)
