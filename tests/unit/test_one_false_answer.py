"""Something on the way may answer in an agent's place for a while: the agent is there all the same."""

from __future__ import annotations

import time
from typing import Any

import pytest
from false_agent import REPLICAS, FalseAgent, honest

from tfspawner import follow
from tfspawner.errors import NotTheAgent
from tfspawner.job import Job


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
    assert (state.cause or {}).get("replica") == "worker-1", "as the true agent says"
    assert len(asked) == 4


def test_an_agent_whose_place_was_taken_is_told_after_some_seconds(false, monkeypatch):
    monkeypatch.setattr(follow, "FALSE_S", 0.5)
    asked = lying_proofs(false, float("inf"))
    state = Job("j", false, tuple(REPLICAS), 1.0).wait(timeout_s=20)
    assert (state.cause or {}).get("message") == NotTheAgent.what
    assert len(asked) >= follow.FALSE_ANSWERS


def test_a_few_answers_without_a_proof_leave_no_files_behind(false):
    lying_proofs(false, 2)
    lines = {replica: follow.ReplicaState(replica=replica, state="succeeded") for replica in REPLICAS}
    began = time.monotonic()
    assert [*follow.reachable_agents(false, follow.JobState(job="j", replicas=lines, result="succeeded"))] == REPLICAS
    assert time.monotonic() - began < follow.ANSWER_WITHIN_S
