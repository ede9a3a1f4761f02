"""Something on the way may answer in an agent's place for a while: the agent is there all the same."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from false_agent import REPLICAS, FalseAgent, honest

from tfspawner.errors import NotTheAgent
from tfspawner.follow import agents, follower, judge
from tfspawner.follow.state import JobState, ReplicaState, Silent
from tfspawner.jobs.job import Job


@pytest.fixture
def false():
    found = FalseAgent()
    yield found
    found.close()


def lying_proofs(false: FalseAgent, times: float) -> list[str]:
    """Leaves the proof out of the agent's first answers, as many as `times`; the list gets the path of each request."""
    real, asked = false.proof, []

    def proof(request: Any, status: int) -> str:
        asked.append(request.path)
        return "" if len(asked) <= times else real(request, status)

    false.proof = proof
    false.lie = lambda kind, replica, wanted: honest(kind, replica, false.gang, wanted)
    return asked


def test_a_few_answers_without_a_proof_do_not_end_the_following(false):
    asked = lying_proofs(false, 3)
    state = Job("j", false, tuple(REPLICAS), 1.0).wait(timeout_s=20)
    assert (state.cause and state.cause.replica) == "worker-1", "as the true agent says"
    assert len(asked) == 4


def test_an_agent_whose_place_was_taken_is_told_after_some_seconds(false, monkeypatch):
    monkeypatch.setattr(judge, "FALSE_S", 0.5)
    asked = lying_proofs(false, float("inf"))
    state = Job("j", false, tuple(REPLICAS), 1.0).wait(timeout_s=20)
    assert (state.cause and state.cause.message) == NotTheAgent.what
    assert len(asked) >= judge.FALSE_ANSWERS


def test_a_few_answers_without_a_proof_leave_no_files_behind(false):
    lying_proofs(false, 2)
    lines = {replica: ReplicaState(replica=replica, state="succeeded") for replica in REPLICAS}
    began = time.monotonic()
    assert [*agents.reachable_agents(false, JobState(job="j", replicas=lines, result="succeeded"))] == REPLICAS
    assert time.monotonic() - began < agents.ANSWER_WITHIN_S


def test_a_coordinator_that_has_no_room_for_a_stream_is_asked_now_and_then_and_is_not_lost(false, monkeypatch):
    for module, name, value in ((follower, "BUSY_S", 0.3), (judge, "SILENCE_S", 0.2), (judge, "ANSWERS_S", 0.1)):
        monkeypatch.setattr(module, name, value)
    asked: list[str] = []
    gang = dict(false.gang.snapshot(), phase="running", result=None, cause=None)

    def lie(kind: str, replica: str, wanted: Any) -> Any:
        asked.append(kind)
        if asked.count("stream") > 8:
            return honest(kind, replica, false.gang, wanted)
        if kind == "stream":
            return 503, {}, b"9 streams are open here"
        return 200, {}, json.dumps(gang).encode()

    false.lie = lie
    notes: list[str] = []
    view = type("Shown", (Silent,), {"note": staticmethod(notes.append)})()
    state = Job("j", false, tuple(REPLICAS), 1.0).wait(view, timeout_s=60)
    assert (state.cause and state.cause.replica) == "worker-1", "as the agent says"
    assert [note for note in notes if "503" in note] == [
        "warning: worker-0's agent answered 503: 9 streams are open here; until then no output is shown here"
    ]
    assert asked.count("status") == 8
