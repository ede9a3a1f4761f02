"""A job's cause is read once from JSON, and written as it was: every word, in its order."""

from __future__ import annotations

import json

import pytest
from false_agent import REPLICAS, an_ended_gang

from tfspawner.backends import answers
from tfspawner.base.cause import Cause
from tfspawner.cli.printing import state_json
from tfspawner.follow.state import JobState
from tfspawner.record.causes import explained

TOLD = {
    "replica": "worker-1", "state": "failed", "message": "ended with exit code 1", "since": 5.0, "exit_code": 1,
    "kind": "failed", "hint": None, "tail": ["Traceback", "ValueError: no events"], "usage": {"cpu": 0.5},
}  # fmt: skip


def test_a_cause_has_the_words_that_were_told():
    cause = Cause.of({**TOLD, "stands": ["fit (a.py:3)"], "never_ran": True, "no_room": True, "never_whole": True})
    assert (cause.replica, cause.message, cause.hint, cause.kind) == ("worker-1", TOLD["message"], None, "failed")
    assert (cause.tail, cause.stands) == (("Traceback", "ValueError: no events"), ("fit (a.py:3)",))
    assert (cause.never_ran, cause.no_room, cause.never_whole) == (True, True, True)
    assert cause.text == "worker-1 ended with exit code 1"


@pytest.mark.parametrize("told", [{}, {"message": None, "tail": None, "replica": None}, {"tail": "x", "stands": 5}])
def test_a_cause_of_which_little_was_told_has_nothing_else(told):
    cause = Cause.of(told)
    assert (cause.text, cause.tail, cause.stands, cause.hint) == ("", (), (), None)
    assert (cause.never_ran, cause.no_room, cause.never_whole) == (False, False, False)


@pytest.mark.parametrize("told", [TOLD, {}, {"message": "m", "replica": None}, {"tail": [], "odd": {"a": 1}}])
def test_its_json_is_what_was_told_in_the_same_order(told):
    assert json.dumps(Cause.of(told).as_json()) == json.dumps(told)


def test_other_words_stand_where_the_old_ones_stood_and_new_ones_behind():
    told = {"message": "was lost", "replica": "worker-1"}
    assert json.dumps(Cause.of(told).but(message="OOM", hint="h").as_json()) == json.dumps(
        {"message": "OOM", "replica": "worker-1", "hint": "h"}
    )
    assert told == {"message": "was lost", "replica": "worker-1"}


def test_an_explained_cause_has_its_exception_and_keeps_what_else_was_told():
    cause = explained(Cause.of(TOLD))
    assert cause.as_json() == {**TOLD, "message": "ended with exit code 1: ValueError: no events"}


def test_the_coordinators_cause_is_read_where_its_answer_is():
    told = json.loads(json.dumps(an_ended_gang().snapshot()))
    cause = answers.gang(told, REPLICAS)["cause"]
    assert isinstance(cause, Cause)
    assert (cause.replica, cause.as_json()) == (told["cause"]["replica"], told["cause"])
    assert answers.gang({**told, "cause": None}, REPLICAS)["cause"] is None


def test_status_prints_a_cause_as_it_was_told():
    state = JobState(job="j", replicas={}, cause=Cause.of(TOLD))
    assert json.dumps(state_json(state)["cause"]) == json.dumps(TOLD)
    assert state_json(JobState(job="j", replicas={}))["cause"] is None
