"""What the table says of a replica, from the backend's word and the agents', in whichever order they come."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tfspawner.backends.base import Observation
from tfspawner.follow.bookkeeping import Bookkeeper
from tfspawner.follow.state import JobState, ReplicaState, Silent


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

    def hear(state: str | None = None, *, phase: str = "running", restarts: int = 0) -> None:
        report = {"state": state, "since": 1.0, "progress": {"epoch": 5, "epochs": 9}}
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
