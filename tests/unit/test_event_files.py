"""Event files come over from where they were; the agent is a real server that sends what the test says."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from hostile import END, everything_below, frame

from tfspawner.errors import ArtifactError, ConfigurationError
from tfspawner.jobs import tensorboard
from tfspawner.jobs.tensorboard import HEAD, IN_TURN, EventFiles, Followed

NAME = "logs/events.out.tfevents.1.host"
FIRST, MORE = b"a" * 100, b"b" * 50


@pytest.fixture
def replica(hostile):
    """An agent whose event files are the test's."""
    hostile.reply = lambda: [
        json.dumps({**hostile.manifest, "files": [{"path": path, "size": len(data), "sha256": ""}
                                                  for path, data in hostile.files.items()]}).encode()]  # fmt: skip
    return hostile


@pytest.fixture
def events(tmp_path):
    return EventFiles(tmp_path / "logs")


def test_only_what_is_new_comes_and_the_beginning_to_know_the_file_again(replica, events):
    replica.files = {NAME: FIRST}
    assert events.bring(replica.client()) is True
    assert events.bring(replica.client()) is False
    replica.files[NAME] += MORE
    assert events.bring(replica.client()) is False
    assert replica.asked == [[[NAME, 0, 100]], [[NAME, 0, HEAD], [NAME, 100, 150]]]
    assert (events.folder / "worker-0" / NAME).read_bytes() == FIRST + MORE
    assert events.counted("worker-0") == "1 event file, 150 B"


def test_a_file_that_is_shorter_comes_anew_beside_what_was_here(replica, events):
    for data in (FIRST, MORE, MORE + MORE):
        replica.files = {NAME: data}
        events.bring(replica.client())
    assert (events.folder / "worker-0" / NAME).read_bytes() == FIRST
    assert (events.folder / "worker-0" / f"{NAME}.again1").read_bytes() == MORE + MORE


def test_a_file_that_grew_under_another_beginning_is_another_file(replica, events):
    for data in (FIRST, MORE * 3, MORE * 3, MORE * 4, FIRST * 3, FIRST * 3):
        replica.files = {NAME: data}
        events.bring(replica.client())
    folder = events.folder / "worker-0/logs"
    assert sorted(len(path.read_bytes()) for path in folder.iterdir()) == [100, 200, 300]
    assert (folder / "events.out.tfevents.1.host.again1").read_bytes() == MORE * 4


def test_a_short_file_is_known_again_by_all_of_it(replica, events):
    for data in (b"1", b"12"):
        replica.files = {NAME: data}
        events.bring(replica.client())
    assert replica.asked[1] == [[NAME, 0, 1], [NAME, 1, 2]]
    assert (events.folder / "worker-0" / NAME).read_bytes() == b"12"


def test_a_cut_stream_goes_on_where_it_was(replica, events):
    replica.files = {NAME: FIRST, "logs/events.out.tfevents.2.host": MORE}
    replica.cuts = [len(frame(NAME, FIRST)) - 30]
    with pytest.raises(tensorboard.AgentUnreachable):
        events.bring(replica.client())
    events.bring(replica.client())
    assert replica.asked[1][:2] == [[NAME, 0, HEAD], [NAME, 70, 100]]
    assert [(events.folder / "worker-0" / path).read_bytes() for path in replica.files] == [FIRST, MORE]


def test_a_file_that_is_gone_between_two_requests_is_left_as_it_is(replica, events):
    replica.files = {NAME: FIRST}
    events.bring(replica.client())
    replica.files[NAME] += MORE
    gone = json.dumps({"path": NAME, "missing": True}).encode() + b"\n"
    replica.stream = gone + gone + END
    events.bring(replica.client())
    assert (events.folder / "worker-0" / NAME).read_bytes() == FIRST


@pytest.mark.parametrize("stream", [frame("other", FIRST), frame(NAME, MORE), frame(NAME, FIRST, offset=7), b"junk\n"])
def test_what_was_not_asked_for_is_refused(replica, events, stream):
    replica.files = {NAME: FIRST}
    replica.stream = stream + END
    with pytest.raises(tensorboard.AgentUnreachable):
        events.bring(replica.client())
    assert everything_below(events.folder) == []


def test_no_name_leads_out_of_the_folder(replica, events, tmp_path):
    replica.files = {"../tfevents": b"1", "/tmp/tfevents": b"2", "a/../../tfevents": b"3", NAME: b"4"}
    events.bring(replica.client())
    assert everything_below(tmp_path) == [f"logs/worker-0/{NAME}"]


def test_a_disk_that_is_full_is_told(replica, events, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10))
    replica.files = {NAME: FIRST}
    with pytest.raises(ArtifactError, match="100 B more, and 10 B are free"):
        events.bring(replica.client())


def test_the_rest_is_taken_from_the_runs_record(replica, events, tmp_path):
    replica.files = {NAME: FIRST}
    events.bring(replica.client())
    record = tmp_path / "files"
    for path, data in ((f"worker-0/{NAME}", FIRST + MORE), ("worker-1/tfevents", MORE), ("worker-1/model", b"m")):
        (record / path).parent.mkdir(parents=True, exist_ok=True)
        (record / path).write_bytes(data)
    events.take(record)
    assert (events.folder / "worker-0" / NAME).read_bytes() == FIRST + MORE
    assert everything_below(events.folder) == [f"worker-0/{NAME}", "worker-1/tfevents"]


def test_of_many_replicas_those_with_event_files_and_some_others_are_asked_at_a_time():
    replicas = [f"worker-{n}" for n in range(1000)]
    job = SimpleNamespace(files=SimpleNamespace(tails={"worker-7": {NAME: 1}, "worker-8": {}}), waiting=replicas)
    asked = [Followed.next_ones(job) for _ in range(63)]
    assert all(len(names) <= IN_TURN + 1 and names[0] == "worker-7" for names in asked)
    assert {name for names in asked for name in names} == set(replicas)


def test_without_tensorboard_the_next_step_is_told(monkeypatch):
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigurationError) as error:
        tensorboard.program()
    assert error.value.hint == "pip install 'tf-spawner[tensorboard]'"


def test_a_tensorboard_that_ends_is_told_with_its_last_words(tmp_path):
    command = [sys.executable, "-c", "import sys; print('no such flag'); sys.exit(3)"]
    shown = tensorboard.tensorboard(command, tmp_path, tensorboard.free_port(None), "/path", 1.0)
    with pytest.raises(ConfigurationError, match="ended with exit code 3: no such flag"), shown:
        pass


def test_a_port_that_is_taken_is_told_and_another_is_found(monkeypatch):
    command = [
        "-c",
        "import socket, sys; s = socket.create_server(('', 0)); print(s.getsockname()[1], flush=True); sys.stdin.read()",
    ]
    with subprocess.Popen([sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        port = int(other.stdout.readline())
        with pytest.raises(ConfigurationError, match=f"port {port} is taken"):
            tensorboard.free_port(port)
        monkeypatch.setattr(tensorboard, "PORTS", range(port, port + 20))
        assert tensorboard.free_port(None) in range(port + 1, port + 20)
        other.stdin.close()
