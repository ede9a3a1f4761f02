"""What the table says of a replica, from the backend's word and the agents', in whichever order they come."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from tfspawner.backends.base import Observation
from tfspawner.base.cause import Cause
from tfspawner.errors import ClusterError, TimedOut
from tfspawner.follow.bookkeeping import Bookkeeper
from tfspawner.follow.follower import Follower
from tfspawner.follow.judge import End, Mark
from tfspawner.follow.state import JobState, ReplicaState, Silent
from tfspawner.replica.protocol import LOST


@pytest.fixture
def following() -> SimpleNamespace:
    """A job's books, kept by hand, and the states of worker-1 in the order in which they were shown."""
    lines = {replica: ReplicaState(replica=replica) for replica in ("worker-0", "worker-1")}
    books = Bookkeeper(JobState(job="job", replicas=lines), None, Silent())
    shown: list[str] = []

    def look() -> None:
        state = lines["worker-1"].state
        if [state] != shown[-1:]:
            shown.append(state)

    def see(state: str) -> None:
        books.observe(Observation(replica="worker-1", state=state, message=f"it is {state}"))
        look()

    def hear(state: str | None = None, *, phase: str = "running", restarts: int = 0, message: str = "") -> None:
        report = {"state": state, "since": 1.0, "progress": {"epoch": 5, "epochs": 9}, "message": message}
        told: dict[str, Any] = {"phase": phase, "result": None, "cause": None, "times": {}, "behind": {},
                                "restarts_allowed": 1, "replicas": {"worker-1": report} if state else {}}  # fmt: skip
        cause = {"replica": "worker-1", "message": "was lost", "kind": "lost", "time": 1.0}
        told["restarts"] = [{**cause, "generation": n + 1} for n in range(restarts)]
        books.hear(told)
        look()

    return SimpleNamespace(books=books, see=see, hear=hear, shown=shown)


def test_a_pod_that_is_gone_does_not_run_again_by_an_old_report(following):
    following.see("running")
    following.hear("running")
    following.see("gone")
    following.hear("running")
    following.hear("failed", phase="stopping")
    assert following.shown == ["starting", "running", "gone", "failed"]


def test_a_restarted_replica_is_shown_as_its_pod_is_until_its_agent_speaks_anew(following):
    following.see("running")
    following.hear("running")
    following.hear("failed", phase="stopping")
    following.see("pending")
    following.hear(phase="forming", restarts=1)
    line = following.books.state.replicas["worker-1"]
    assert (line.state, line.message, line.progress) == ("pending", "it is pending", {})
    following.see("running")
    following.hear("ready", phase="meeting", restarts=1)
    following.hear("running", restarts=1)
    assert following.shown == ["starting", "running", "failed", "pending", "starting", "ready", "running"]


def test_a_replica_that_is_lost_to_its_coordinator_is_gone_until_it_reports_again(following):
    gone = following.books.state.gone
    following.see("running")
    following.hear("failed", message=LOST)
    assert gone == {"worker-1"}
    following.hear("running")
    assert gone == set()
    following.see("failed")
    following.hear("failed")
    assert gone == {"worker-1"}, "the backend has seen it end"


def test_the_end_marks_what_it_says_and_leaves_the_rest(following):
    following.see("running")
    following.hear("running", message="saves")
    cause = Cause.of({"replica": "worker-1", "message": "OOM"})
    following.books.end(
        End(result="failed", cause=cause, marks={"worker-1": Mark(state="failed")}, gone=frozenset({"worker-0"}))
    )
    state, line = following.books.state, following.books.state.replicas["worker-1"]
    assert (state.result, state.cause, state.gone) == ("failed", cause, {"worker-0"})
    assert (line.state, line.message) == ("failed", "saves")
    following.books.end(End(result="failed", cause=cause, marks={"worker-1": Mark(message="OOM")}))
    assert (line.state, line.message) == ("failed", "OOM")


class Answering:
    """A backend that sees nothing; `find` says whether it answers at all."""

    def __init__(self, find: Callable[[], None]) -> None:
        self.find = lambda job: find()

    def watch(self, job: str, stop: threading.Event) -> Iterator[None]:
        stop.wait()
        yield None


def follow_a_silent_coordinator(find: Callable[[], None], for_s: float) -> Follower:
    """Follows a job whose coordinator was heard, and has been silent for long; the facts are judged once at least."""
    follower = Follower(Answering(find), "j", ["worker-0"], None, Silent(), start_timeout_s=None)
    follower.facts.heard, follower.facts.silent_since = True, time.monotonic() - 100
    with suppress(TimedOut):
        follower.follow(deadline=time.monotonic() + for_s)
    return follower


def test_a_silent_coordinator_is_lost_once_the_backend_has_answered_for_a_while(monkeypatch):
    monkeypatch.setattr("tfspawner.follow.judge.ANSWERS_S", 0.25)
    asked: list[None] = []
    state = follow_a_silent_coordinator(lambda: asked.append(None), for_s=30.0).state
    assert (state.result, state.cause and state.cause.message, state.gone) == ("failed", LOST, {"worker-0"})
    assert len(asked) == 2


def test_a_silent_coordinator_is_not_lost_while_the_backend_is_silent_too():
    def find() -> None:
        raise ClusterError("no route to host")

    follower = follow_a_silent_coordinator(find, for_s=0.0)
    assert (follower.state.result, follower.finished) == (None, False)
    assert follower.facts.silent_since > time.monotonic(), "a stream opened meanwhile may hang as long"
