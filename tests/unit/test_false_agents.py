"""Answers that no agent gives: each is refused in words that name the replica, within a time, and nothing else is touched."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from false_agent import LOGS, REPLICAS, Answer, FalseAgent, frame, honest

from tfspawner.backends.answers import listing
from tfspawner.backends.base import Observation
from tfspawner.cli.main import cli
from tfspawner.errors import ArtifactError, BadAnswer, ClusterError
from tfspawner.follow import agents, judge, listening
from tfspawner.follow import follower as follow
from tfspawner.follow.bringing import bring_home
from tfspawner.follow.state import Silent
from tfspawner.jobs.job import Job, summaries
from tfspawner.jobs.tensorboard import MOST_MISSES, EventFiles
from tfspawner.replica.keras_output import parse_progress
from tfspawner.replica.proofs import Key
from tfspawner.replica.protocol import LOST, PROOF_HEADER
from tfspawner.replica.reports import next_offset, report_of
from tfspawner.replica.stream import Stream
from tfspawner.views.plain import PlainView

MIB = 1 << 20


@pytest.fixture
def false(monkeypatch) -> Iterator[FalseAgent]:
    monkeypatch.setattr(follow, "AGAIN_S", 0.001)
    monkeypatch.setattr(agents, "ANSWER_WITHIN_S", 0.0)
    monkeypatch.setattr(agents, "SEE_WITHIN_S", 0.0)
    monkeypatch.setattr("tfspawner.backends.client.LOG_PAUSE_S", 0.001)
    monkeypatch.setattr("tfspawner.follow.collect.TRIES_WITHOUT_PROGRESS", 1)
    found = FalseAgent()
    yield found
    found.close()


def job_of(false: FalseAgent) -> Job:
    return Job("j", false, tuple(REPLICAS), 1.0)


def streaming(false: FalseAgent, *frames: bytes, honest_first: bool = True) -> None:
    """Makes the coordinator stream these frames behind the gang's news."""
    news = frame({"gang": dict(false.gang.snapshot(), phase="running", result=None)}) if honest_first else b""

    def lie(kind: str, replica: str, wanted: Any) -> Answer:
        return (200, {}, news + b"".join(frames)) if kind == "stream" else honest(kind, replica, false.gang, wanted)

    false.lie = lie


def everything(top: Path) -> set[str]:
    return {str(path.relative_to(top)) for path in top.rglob("*") if path.is_file()}


# ---- the stream ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../../x", "/tmp/x", "worker-2", "", "worker-0\x1b[2J", "worker-0/../x", None, 5, ["worker-0"]]
)
def test_output_of_what_is_no_replica_ends_the_connection_and_makes_no_file(false, tmp_path, name):
    streaming(false, frame({"replica": name, "offset": 0, "size": 3}, b"abc"))
    record = follow.Record(tmp_path / "runs/j", "1")
    out = io.StringIO()
    follower = follow.Follower(false, "j", REPLICAS, record, PlainView(out, out), start_timeout_s=None)
    with pytest.raises(BadAnswer, match=r"worker-0's agent sent no frame: (there is no|replica: )") as error:
        follower.follow(time.monotonic() + 10)
    assert error.value.hint == follow.NO_AGENT_HINT
    assert everything(tmp_path) <= {f"runs/j/{known}" for known in (".job-id", ".lock", "events.jsonl")}
    assert "\x1b" not in out.getvalue() + error.value.message
    record.close()


@pytest.mark.parametrize(
    "head",
    [
        {"replica": "worker-0", "offset": 7, "size": 3}, {"replica": "worker-0", "offset": 1 << 63, "size": 3},
        {"replica": "worker-0", "offset": 5 << 61, "size": 3}, {"replica": "worker-0", "offset": -1, "size": 3},
        {"replica": "worker-0", "offset": 0, "size": 0}, {"replica": "worker-0", "offset": 0, "size": 1 << 40},
        {"replica": "worker-0", "offset": 0}, {"replica": "worker-0", "size": 3}, {"replica": "worker-0", "offset": 0, "size": True},
        {"gang": 5}, {"gang": {}}, {"end": True}, {}, [], 5, None,
    ],
    ids=json.dumps,
)  # fmt: skip
def test_a_stream_with_a_frame_that_no_agent_sends_is_given_up_and_names_the_replica(false, head):
    streaming(false, frame(head, b"abc"))
    began = time.monotonic()
    with pytest.raises(BadAnswer, match=r"worker-0's agent (sent no|ended its stream)"):
        job_of(false).wait(timeout_s=10)
    assert time.monotonic() - began < 5
    assert false.asked == listening.MOST_BAD


@pytest.mark.parametrize("key", ["usage", "progress", "state", "since", "stored", "tail"])
def test_a_report_of_another_shape_is_no_status_whoever_passes_it_on(false, key):
    false.gang.reports["worker-1"][key] = {"cpu": "x", "memory": {}, "gpus": 5, "epoch": "1", "epochs": []}
    with pytest.raises(BadAnswer, match=rf"worker-0's agent sent no status: (cause|replicas): {key}: ") as error:
        false.agent("j", "worker-0").status(REPLICAS)
    assert error.value.message.isprintable()


def test_news_that_are_never_new_end_the_job_as_one_whose_agent_is_lost(false, monkeypatch):
    for module, name, value in ((listening, "STALE_S", 0.3), (judge, "SILENCE_S", 0.2), (judge, "ANSWERS_S", 0.1)):
        monkeypatch.setattr(module, name, value)
    news = frame({"gang": dict(false.gang.snapshot(), phase="running", result=None)})
    false.server.RequestHandlerClass.answer = dripping(false, news)
    state = job_of(false).wait(timeout_s=10)
    assert state.result == "failed"
    assert state.cause
    assert (state.cause.replica, state.cause.message) == ("worker-0", LOST)


def dripping(false: FalseAgent, data: bytes, every_s: float = 0.02) -> Any:
    """A handler's answer that never ends: the data again and again."""

    def answer(handler: BaseHTTPRequestHandler, *_: Any) -> None:
        handler.send_response(200)
        handler.send_header(PROOF_HEADER, false.proof(handler, 200))
        handler.end_headers()
        try:
            while not false.over.wait(every_s):
                handler.wfile.write(data)
        except OSError:
            pass

    return answer


def test_a_gang_that_has_ended_is_not_waited_for_when_nothing_more_comes(false, monkeypatch):
    monkeypatch.setattr(judge, "LAST_OUTPUT_S", 0.3)
    false.server.RequestHandlerClass.answer = dripping(false, frame({"gang": false.gang.snapshot()}))
    assert job_of(false).wait(timeout_s=10).result == "failed"


@pytest.mark.parametrize("data", [b"X", b"X: y\r\n"])
def test_a_head_that_trickles_is_broken_off(false, monkeypatch, data):
    monkeypatch.setattr("tfspawner.base.patience.HEAD_S", 0.2)

    def answer(handler: BaseHTTPRequestHandler, *_: Any) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        with suppress(OSError):
            while not false.over.wait(0.02):
                handler.wfile.write(data)

    false.server.RequestHandlerClass.answer = answer
    began = time.monotonic()
    with pytest.raises(ClusterError, match="worker-0's agent does not answer"):
        false.agent("j", "worker-0").ping(timeout_s=0.2)
    assert time.monotonic() - began < 1.5


def test_a_frame_that_trickles_is_broken_off(false, monkeypatch):
    monkeypatch.setattr("tfspawner.backends.client.LOG_S", 0.3)
    false.server.RequestHandlerClass.answer = dripping(false, b" ")
    with pytest.raises(ClusterError, match=r"worker-0's agent sent no whole frame in 0.3 s"):
        list(false.agent("j", "worker-0").stream({}, REPLICAS))


# ---- what the coordinator is told ---------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {}, {"X-Offset": "x", "X-End": "1"}, {"X-Offset": "5", "X-End": "1"}, {"X-Offset": str(1 << 70), "X-End": "1"},
        {"X-Offset": "0", "X-End": "0"}, {"X-Offset": "0"},
    ],
    ids=str,
)  # fmt: skip
def test_a_replica_whose_log_is_nonsense_or_never_ends_does_not_keep_the_stream_from_ending(
    false, monkeypatch, headers
):
    """Where it is, it says itself: it may name any agent as its own."""

    def begin(work: Callable[..., None], *args: Any) -> None:
        threading.Thread(target=work, args=args, daemon=True).start()

    monkeypatch.setattr("tfspawner.replica.stream.LOG_ENDS_S", 0.3)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header(PROOF_HEADER, Key("t").answer(self.headers[PROOF_HEADER], "worker-1", 200))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        false.gang.reports["worker-1"]["agent"] = f"127.0.0.1:{server.server_port}"
        around = SimpleNamespace(gang=false.gang, key=Key("t"), job=false.gang.job, begin=begin)
        stream = Stream(around, {"worker-1": 0}, lambda: True)
        began = time.monotonic()
        heads = [head for head, _ in itertools.takewhile(lambda _: time.monotonic() - began < 15, stream.frames())]
        assert heads[-1] == {"end": True}
        stream.close()
        server.shutdown()


def test_a_report_that_names_no_address_is_refused_and_the_others_stand():
    gang_report = {"replica": "worker-1", "state": "running", "since": 1.0, "message": "", "address": "a:1", "agent": "a:2", "life": "x",
                   "generation": 0, "met": 0}  # fmt: skip
    assert report_of(gang_report, REPLICAS, 0) == gang_report
    for changes in ({"agent": 5}, {"agent": "a"}, {"agent": "a:99999"}, {"agent": "a/../b:1"}, {"generation": 1}, {"met": -2},
                    {"usage": {"cpu": "x", "memory": 1, "gpus": []}}, {"usage": {"cpu": 1.0}}, {"progress": {"epoch": 1}},
                    {"state": "dancing"}, {"state": "failed"}, {"replica": "worker-9"}, {"since": float("nan")}, {"since": 10**400},
                    {"message": None}, {"tail": "x"}, {"stands": [1]}):  # fmt: skip
        with pytest.raises(ValueError, match=r"\w"):
            report_of(gang_report | changes, REPLICAS, 0)


def test_a_script_that_prints_numbers_of_hundreds_of_digits_is_not_lost_for_that():
    digits = "9" * 500
    assert parse_progress(f"Epoch {digits}/{digits}") is None
    assert parse_progress(f"{digits}/{digits} [====] - 1s - loss: 1") is None


# ---- logs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Offset": "0", "X-End": "0", "X-Size": "9"}, {"X-Offset": "900", "X-End": "0", "X-Size": "999"},
        {"X-Offset": str(1 << 63), "X-End": "0", "X-Size": "9"}, {"X-Offset": "1" + "0" * 30, "X-End": "0", "X-Size": "9"},
        {"X-Offset": "\u0663", "X-End": "0", "X-Size": "9"}, {"X-End": "0", "X-Size": "9"},
        {"X-Offset": "asked", "X-Size": "99999"}, {"X-Offset": "asked", "X-End": "0"}, {"X-Offset": "asked", "X-End": "0", "X-Size": "-1"},
        {"X-Offset": "asked", "X-End": "0", "X-Size": str(10**17)},
    ],
    ids=str,
)  # fmt: skip
def test_a_log_that_is_not_where_it_was_asked_for_ends_with_what_the_backend_has(false, tmp_path, headers):
    """Among them the one that never ends: data, and X-End: 0, whatever is asked for."""

    def lie(kind: str, replica: str, wanted: Any) -> Answer:
        if kind != "log":
            return honest(kind, replica, false.gang, wanted)
        given = {name: wanted if value == "asked" else value for name, value in headers.items()}
        return 200, {name: value.encode().decode("latin-1") for name, value in given.items()}, b"x" * 100

    false.lie = lie
    assert job_of(false).logs() == dict.fromkeys(REPLICAS, b"what the backend has")
    out = io.StringIO()
    with pytest.raises(ArtifactError, match="'secret'"):
        job_of(false).fetch(tmp_path, PlainView(out, out))
    assert "warning: worker-0's log could not be fetched whole: worker-0's agent " in out.getvalue()
    assert (tmp_path / "j/logs/worker-0.log").stat().st_size < 500
    assert false.asked < 30


def test_a_log_that_promises_more_than_it_sends_is_told(false):
    false.lie = lambda kind, replica, wanted: (200, {"X-Offset": wanted, "X-End": "0", "X-Size": "900"}, b"")
    with pytest.raises(BadAnswer, match="worker-1's agent sent none of 900 bytes of its log"):
        list(false.agent("j", "worker-1").rest_of_log(0, MIB))


def test_a_log_that_breaks_off_goes_on_and_not_with_the_less_that_the_backend_has(false, tmp_path):
    """A container's log has none of the agent's own lines, and of a long one the kubelet keeps the end alone."""
    tries: list[tuple[str, str]] = []
    failing = 1

    def lie(kind: str, replica: str, wanted: Any) -> Answer:
        if kind != "log":
            return honest(kind, replica, false.gang, wanted)
        tries.append((replica, wanted))
        if tries.count((replica, wanted)) <= failing:
            return 502, {}, b"EOF"
        data, size = LOGS[replica][int(wanted) :][:4], len(LOGS[replica])
        return 200, {"X-Offset": wanted, "X-End": str(int(int(wanted) + len(data) == size)), "X-Size": str(size)}, data

    false.lie = lie
    assert job_of(false).logs() == LOGS
    tries.clear()
    failing = 4
    with pytest.raises(ArtifactError, match="'secret'"):  # a file that the agent cannot read
        job_of(false).fetch(tmp_path, Silent())
    assert {r: (tmp_path / f"j/logs/{r}.log").read_bytes() for r in REPLICAS} == LOGS


def test_a_log_comes_as_far_as_it_was_there_when_it_was_asked_for(false):
    """One that grows as fast as it is read would never end."""

    def lie(kind: str, replica: str, wanted: Any) -> Answer:
        return 200, {"X-Offset": wanted, "X-End": "0", "X-Size": str(int(wanted) + 200)}, b"x" * 100

    false.lie = lie
    pieces = list(false.agent("j", "worker-0").rest_of_log(0, MIB))
    assert [offset for offset, _ in pieces] == [0, 100]


def test_a_log_goes_on_at_the_base_of_a_pod_that_took_the_place_of_another():
    base = int(time.time()) << 32
    assert next_offset("7", 7) == 7
    assert next_offset(str(base), 7) == base
    for lie in (base + 1, base + (10**8 << 32), 6, 8):
        with pytest.raises(ValueError, match=f"its log at {lie} came, and at 7 was asked for"):
            next_offset(str(lie), 7)


def test_a_log_of_a_pod_that_may_be_replaced_comes_whole_with_its_places_of_19_digits(false):
    base, data = int(time.time()) << 32, b"restart 1 of 1\n"

    def lie(kind: str, replica: str, wanted: Any) -> Answer:
        begins = max(int(wanted), base)
        return 200, {"X-Offset": str(begins), "X-End": "1", "X-Size": str(base + len(data))}, data[begins - base :]

    false.lie = lie
    assert job_of(false).logs() == dict.fromkeys(REPLICAS, data)
    assert list(false.agent("j", "worker-0").rest_of_log(base + 8, MIB)) == [(base + 8, data[8:])]


def test_of_a_job_that_was_never_whole_no_files_are_missed(false, tmp_path):
    """Its one pod runs, its agent does not answer yet, and the other pod cannot be created."""

    def watch(job: str, stop: threading.Event) -> Iterator[Observation | None]:
        yield Observation(replica="worker-0", state="running")
        yield Observation(replica=None, state="pending", message="exceeded quota", fatal=True)
        yield None
        stop.wait()

    false.watch = watch
    false.lie = lambda kind, replica, wanted: (400, {}, b"address not allowed")
    record, view = follow.Record(tmp_path / "j", "1"), Silent()
    state = follow.Follower(false, "j", REPLICAS, record, view, start_timeout_s=5).follow(time.monotonic() + 10)
    outcome, missing = bring_home(false, state, record, view)
    record.close()
    assert (outcome.result, missing) == ("failed", None)


# ---- list, status, redirects --------------------------------------------------------------------


def test_a_job_whose_coordinator_answers_nonsense_is_listed_as_the_backend_sees_it_and_named(false):
    false.lie = lambda kind, replica, wanted: (200, {}, b'{"phase": "\x1b[2J"}')
    (job,) = summaries(false)
    assert (job.state, job.brief) == ("running", {})
    assert job.warning.startswith("job j: worker-0's agent sent no ")
    assert job.warning.isprintable()
    state = job_of(false).status()
    assert state.replicas["worker-0"].state == "starting"
    assert state.replicas["worker-0"].message.startswith("worker-0's agent sent no ")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_refused_whatever_was_asked_for(false, status):
    other = FalseAgent()
    target = f"http://127.0.0.1:{other.server.server_port}/worker-0/status"
    false.lie = lambda kind, replica, wanted: (status, {"Location": target}, b"")
    asked = false.agent("j", "worker-0")
    for ask in (
        lambda: asked.status(REPLICAS), lambda: asked.brief(REPLICAS), lambda: asked.order(1, 0), asked.ping, asked.manifest,
        lambda: asked.log(0), lambda: list(asked.stream({}, REPLICAS)), lambda: list(asked.files([("a", 0, 1)])),
    ):  # fmt: skip
        with pytest.raises(ClusterError, match=f"worker-0's agent answered {status}"):
            ask()
    assert other.asked == 0
    other.close()


# ---- files --------------------------------------------------------------------------------------


def test_an_event_file_that_never_has_the_size_that_is_told_is_given_up(false, tmp_path):
    asked = []

    def lie(kind: str, replica: str, wanted: Any) -> Answer:
        if kind == "files" and wanted is None:
            entries = [{"path": "a.tfevents", "size": 1 << 20, "sha256": ""}]
            return 200, {}, json.dumps({"files": entries, "folders": [], "skipped": [], "unreadable": []}).encode()
        asked.append(wanted)
        return 200, {}, frame({"path": "a.tfevents", "missing": True}) + frame({"end": True})

    false.lie = lie
    files = EventFiles(tmp_path / "events")
    for _ in range(2 * MOST_MISSES):
        files.bring(false.agent("j", "worker-0"))
    assert len(asked) == MOST_MISSES


def test_a_list_of_files_is_read_in_pieces_of_any_size():
    manifest = {
        "files": [{"path": '\u00e9\\"]}', "size": 12}, {}],
        "folders": ["a", "b"],
        "skipped": [],
        "unreadable": [5, 1.25],
    }
    for text in (json.dumps(manifest), json.dumps(manifest, ensure_ascii=False, indent=1)):
        data = text.encode()
        for size in (1, 2, 3, 7, 1000):
            found: dict[str, list] = {}
            for kind, entry in listing(data[at : at + size] for at in range(0, len(data), size)):
                found.setdefault(kind, []).append(entry)
            assert found == {kind: entries for kind, entries in manifest.items() if entries}


PEAK = """
import json, sys, urllib3
from tfspawner.backends.client import AgentClient
from tfspawner.follow.collect import checked
from tfspawner.errors import SpawnerError
def peak():
    return next(int(line.split()[1]) >> 10 for line in open("/proc/self/status") if line.startswith("VmHWM:"))
before = peak()
agent = AgentClient(replica="worker-0", url=sys.argv[1], token="t", pool=urllib3.PoolManager(), headers=dict)
try:
    eval(sys.argv[2])
    print("taken", peak() - before)
except SpawnerError as error:
    print(error.message, peak() - before)
"""


@pytest.mark.parametrize(
    "asked", ["agent.status(['worker-0'])", "agent.manifest()", "list(agent.stream({}, ['worker-0']))"]
)
def test_an_answer_of_millions_of_values_is_refused_before_it_fills_the_memory(false, asked):
    """Python's own reader makes 2.9 GB of these 60 MB."""
    body = b"[" + b"[]," * (20 * MIB) + b"[]]\n"
    false.lie = lambda kind, replica, wanted: (200, {}, body)
    url = f"http://127.0.0.1:{false.server.server_port}/worker-0"
    done = subprocess.run([sys.executable, "-c", PEAK, url, asked], capture_output=True, text=True, timeout=60)
    words, _, mib = done.stdout.strip().rpartition(" ")
    assert words.startswith("worker-0's agent sent "), done.stderr
    assert int(mib) < 300


def test_list_and_top_show_the_other_jobs_and_name_the_one_whose_coordinator_answers_nonsense(false, monkeypatch):
    true = FalseAgent()
    false.lie = lambda kind, replica, wanted: (200, {}, b"[]")
    true.jobs = lambda: [dataclasses.replace(job, job="good") for job in FalseAgent.jobs(true)]
    monkeypatch.setattr(
        "tfspawner.backends.choice.backend_for", lambda name, **_: {"local": false, "kubernetes": true}[name]
    )
    for command in ("list", "top"):
        done = CliRunner().invoke(cli, [command])
        assert done.exit_code == 0
        assert "warning: job j: worker-0's agent sent no status: [] is not an object" in done.stderr
        assert ("good" in done.stdout, "running" in done.stdout) == (command == "list", True)
    true.close()
