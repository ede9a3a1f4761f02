"""When a job ends that its agents do not end, and how: the judge's rules as tables, each with its bounds in time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from math import inf
from typing import Any

import pytest

from tfspawner.backends.base import Observation
from tfspawner.base.cause import Cause
from tfspawner.follow.facts import Doom, Facts
from tfspawner.follow.judge import End, FalseAnswers, Mark, Step, conclude, judge
from tfspawner.follow.state import NO_POD, JobState, ReplicaState
from tfspawner.plan.plan import DEFAULT_START_TIMEOUT_S
from tfspawner.replica.protocol import LOST, TERMINATED

REPLICAS = ("worker-0", "worker-1", "worker-2")
NOW = 10_000.0
TICK = 0.125  # exact in binary, as are all times here
DEFAULT_S = DEFAULT_START_TIMEOUT_S
Event = Callable[[Facts], None]


# What happened, and how long ago


def sees(replica: str | None, state: str, ago: float = 100.0, **values: Any) -> Event:
    """The backend saw this."""
    return lambda facts: facts.see(Observation(replica=replica, state=state, **values), NOW - ago)


def sees_all(state: str, ago: float = 100.0) -> Event:
    def apply(facts: Facts) -> None:
        for replica in REPLICAS:
            sees(replica, state, ago)(facts)

    return apply


def is_silent(for_s: float) -> Event:
    """The coordinator has not answered for so long."""
    return lambda facts: setattr(facts, "silent_since", NOW - for_s)


def answers(ago: float) -> Event:
    """The backend answered when it was asked."""
    return lambda facts: facts.hear_backend(NOW - ago)


def has(**values: Any) -> Event:
    """Any other fact."""

    def apply(facts: Facts) -> None:
        for name, value in values.items():
            setattr(facts, name, value)

    return apply


def job(*events: Event, phase: str = "running", heard: bool = True, result: Any = None, cause: Any = None,
        start_timeout_s: float | None = None, changed: float = 1000.0) -> Facts:  # fmt: skip
    """The facts of a job after these events, whose agents told this phase and result, and the last news so long ago."""
    lines = {replica: ReplicaState(replica=replica) for replica in REPLICAS}
    state = JobState(job="fit", replicas=lines, phase=phase, result=result, cause=cause)
    facts = Facts(state=state, heard=heard, start_timeout_s=start_timeout_s, changed_at=NOW - changed)
    for event in events:
        event(facts)
    return facts


def unheard(*events: Event, phase: str = "pending", **values: Any) -> Facts:
    """The facts of a job whose coordinator was never heard."""
    return job(*events, phase=phase, heard=False, **values)


def summary(verdict: End | Step | None) -> Any:
    """A verdict in short: a step, or the result with the cause's replica and message."""
    if not isinstance(verdict, End):
        return verdict
    cause = verdict.cause
    return verdict.result, cause and cause.replica, cause and cause.message


def failed(replica: str | None, message: str = "") -> tuple[str, str | None, str]:
    return "failed", replica, message


SUCCEEDED = ("succeeded", None, None)
EXIT_1, OOM, EVICTED, NO_IMAGE, LOST_1 = (
    failed("worker-1", message) for message in ("exit 1", "OOM", "evicted", "no image", LOST)
)


def table(**rows: tuple[Facts, Any]) -> Any:
    ids = [name.replace("_", " ") for name in rows]
    return pytest.mark.parametrize(("facts", "expected"), rows.values(), ids=ids)


def lost_by(replica: str | None = "worker-1", message: str = LOST, **more: Any) -> Cause:
    return Cause.of({"replica": replica, "message": message, "kind": "lost", **more})


# A job that goes on


@table(
    that_nobody_has_seen=(unheard(), None),
    that_runs=(job(sees_all("running")), None),
    whose_pods_wait=(unheard(sees_all("pending")), None),
    whose_agents_stop_it=(job(sees_all("running"), phase="stopping", result="failed", cause=lost_by()), None),
    that_has_ended_just_now=(job(sees_all("running"), phase="ended", result="succeeded", changed=0.0), None),
    of_which_two_replicas_have_succeeded=(job(sees("worker-1", "succeeded"), sees("worker-2", "succeeded")), None),
)
def test_a_job_goes_on(facts, expected):
    assert judge(facts, NOW) is expected


# The coordinator's stream has ended


def ended(*events: Event, ago: float = 0.0, cause: Any = None, result: Any = "failed") -> Facts:
    return job(*events, has(stream_ended_at=NOW - ago), phase="ended", result=result, cause=cause)


@table(
    ends_with_it=(ended(result="succeeded"), SUCCEEDED),
    ends_with_the_cause_that_was_told=(ended(cause=lost_by(message="exit 1")), EXIT_1),
    ends_at_once_where_the_lost_replica_is_unknown=(ended(cause=lost_by()), LOST_1),
    ends_at_once_where_the_loss_is_no_replicas=(ended(cause=lost_by(replica=None)), failed(None, LOST)),
    waits_for_the_reason_of_a_loss=(ended(sees("worker-1", "running"), cause=lost_by(), ago=3.0), None),
    does_not_wait_for_it_long=(ended(sees("worker-1", "running"), cause=lost_by(), ago=3.0 + TICK), LOST_1),
    waits_where_it_was_terminated=(ended(sees("worker-1", "running"), cause=lost_by(message=TERMINATED)), None),
    does_not_wait_for_other_replicas=(ended(sees("worker-2", "running"), cause=lost_by()), LOST_1),
    ends_with_the_reason=(ended(sees("worker-1", "failed", message="OOM"), cause=lost_by()), OOM),
    ends_with_where_the_pod_went=(ended(sees("worker-1", "gone", message="evicted"), cause=lost_by()), EVICTED),
    takes_no_reason_from_a_success=(ended(sees("worker-1", "succeeded", message="done"), cause=lost_by()), LOST_1),
    takes_no_reason_for_a_known_one=(
        ended(sees("worker-1", "failed", message="OOM"), cause=lost_by(message="exit 1")), EXIT_1,
    ),
)  # fmt: skip
def test_once_the_stream_has_ended_the_job(facts, expected):
    assert summary(judge(facts, NOW)) == expected


def test_the_reason_of_a_loss_takes_the_place_of_the_agents_words_and_of_nothing_else():
    told = lost_by(exit_code=None, hint="h", tail=["line"])
    end = judge(ended(sees("worker-1", "failed", message="OOM", hint="--memory 4Gi"), cause=told), NOW)
    cause = told.but(message="OOM", hint="--memory 4Gi")
    assert end == End(result="failed", cause=cause, marks={"worker-1": Mark(message="OOM")})
    assert list(end.cause.as_json()) == list(told.as_json()), "report.json has it in this order"


@table(
    is_listened_to_for_a_while=(job(phase="ended", result="succeeded", changed=90.0), None),
    is_listened_to_no_longer=(job(phase="ended", result="succeeded", changed=90.0 + TICK), Step.STOP_LISTENING),
    is_listened_to_while_it_stops=(job(phase="stopping", result="failed", changed=1000.0), None),
)
def test_a_gang_that_has_ended(facts, expected):
    assert judge(facts, NOW) is expected


# The backend says that the whole job has succeeded


@table(
    waits_for_the_agents=(job(sees(None, "succeeded", ago=3.0)), None),
    ends_the_job=(job(sees(None, "succeeded", ago=3.0 + TICK)), SUCCEEDED),
    waits_while_output_comes=(job(sees(None, "succeeded", ago=100.0), changed=3.0), None),
    ends_the_job_after_the_last_output=(job(sees(None, "succeeded", ago=100.0), changed=3.0 + TICK), SUCCEEDED),
    counts_for_more_than_a_failed_pod=(
        job(sees("worker-1", "failed"), sees(None, "succeeded", ago=4.0)), SUCCEEDED
    ),
    waits_although_a_pod_has_failed=(job(sees("worker-1", "failed"), sees(None, "succeeded", ago=3.0)), None),
    leaves_the_agents_result=(
        job(sees(None, "succeeded"), result="failed", cause=lost_by(message="exit 1")), EXIT_1
    ),
)  # fmt: skip
def test_the_word_that_the_job_has_succeeded(facts, expected):
    assert summary(judge(facts, NOW)) == expected


def test_a_success_marks_all_replicas_and_says_which_have_no_pod():
    facts = job(sees("worker-0", "succeeded"), sees("worker-1", "gone"), sees(None, "succeeded"))
    assert judge(facts, NOW) == End(
        result="succeeded",
        cause=None,
        gone=frozenset({"worker-1", "worker-2"}),
        marks={
            "worker-0": Mark(state="succeeded"),
            "worker-1": Mark(state="succeeded", message=NO_POD),
            "worker-2": Mark(state="succeeded", message=NO_POD),
        },
    )


def test_a_success_that_the_agents_contradict_marks_only_what_has_no_pod():
    facts = job(sees("worker-0", "succeeded"), sees(None, "succeeded"), has(reported={"worker-1"}), result="timeout")
    assert judge(facts, NOW) == End(
        result="timeout",
        cause=None,
        gone=frozenset({"worker-1", "worker-2"}),
        marks={"worker-2": Mark(state="gone", message=NO_POD)},  # worker-1's agent has said better
    )


# The start


def stuck(ago: float = 0.0, *, state: str = "pending", fatal: bool = True, patience_s: float = 0.0,
          replica: str | None = "worker-1") -> Event:  # fmt: skip
    return sees(replica, state, ago, message="no image", fatal=fatal, patience_s=patience_s)


@table(
    ends_the_job=(unheard(stuck()), NO_IMAGE),
    may_wait=(unheard(stuck(fatal=False, patience_s=0.0)), None),
    may_wait_although_it_did_so_for_long=(unheard(stuck(500.0, fatal=False, patience_s=20.0)), None),
    has_its_patience=(unheard(stuck(20.0 - TICK, patience_s=20.0)), None),
    has_no_more_than_its_patience=(unheard(stuck(20.0, patience_s=20.0)), NO_IMAGE),
    has_the_start_timeout_instead=(unheard(stuck(50.0 - TICK, patience_s=20.0), start_timeout_s=50.0), None),
    has_no_more_than_the_start_timeout=(
        unheard(stuck(50.0, patience_s=20.0), start_timeout_s=50.0), NO_IMAGE
    ),
    has_a_shorter_start_timeout=(unheard(stuck(5.0, patience_s=20.0), start_timeout_s=5.0), NO_IMAGE),
    without_patience_has_no_start_timeout=(unheard(stuck(0.0), start_timeout_s=50.0), NO_IMAGE),
    that_starts_has_no_start_timeout=(
        unheard(stuck(20.0, state="starting", patience_s=20.0), start_timeout_s=50.0), NO_IMAGE
    ),
    is_judged_while_the_gang_forms=(job(stuck(), phase="forming"), NO_IMAGE),
    is_judged_while_the_gang_meets=(job(stuck(), phase="meeting"), NO_IMAGE),
    is_the_agents_business_later=(job(stuck(), phase="running"), None),
    ends_the_job_as_a_whole=(unheard(stuck(replica=None)), failed(None, "no image")),
    counts_behind_one_that_may_wait=(
        unheard(stuck(9.0, replica="worker-0", patience_s=20.0), stuck(8.0, replica="worker-2", patience_s=5.0)),
        failed("worker-2", "no image"),
    ),
)  # fmt: skip
def test_a_replica_that_cannot_start(facts, expected):
    assert summary(judge(facts, NOW)) == expected


def late(ago: float, replica: str = "worker-0", **values: Any) -> Event:
    return sees(replica, "pending", ago, **values)


def too_late(limit_s: float, replica: str = "worker-0", why: str = "it is pending") -> tuple[str, str, str]:
    return "timeout", replica, f"did not start within {limit_s:g} s: {why}"


@table(
    has_the_default=(unheard(late(DEFAULT_S + 3.0)), None),
    has_no_more_than_the_default=(unheard(late(DEFAULT_S + 3.0 + TICK)), too_late(DEFAULT_S)),
    has_the_start_timeout=(unheard(late(53.0), start_timeout_s=50.0), None),
    has_no_more_than_the_start_timeout=(
        unheard(late(53.0 + TICK), start_timeout_s=50.0), too_late(50)
    ),
    may_have_no_time_at_all=(
        unheard(late(3.0 + TICK), start_timeout_s=0.0), too_late(0)
    ),
    says_why=(
        unheard(late(100.0, message="no node has 9 GPUs"), start_timeout_s=50.0),
        too_late(50, why="no node has 9 GPUs"),
    ),
    is_waited_for_by_another_replica=(
        unheard(late(100.0, "worker-2"), start_timeout_s=50.0),
        too_late(50, "worker-2"),
    ),
    counts_before_another_replica=(
        unheard(late(100.0, "worker-2"), late(0.0), start_timeout_s=50.0),
        too_late(50),
    ),
    has_its_time_from_the_first_sight_on=(unheard(late(53.0), late(10.0, message="pulls"), start_timeout_s=50.0), None),
    was_heard=(job(late(1000.0), phase="forming", start_timeout_s=50.0), None),
    was_never_seen=(unheard(start_timeout_s=50.0), None),
    is_past_its_start=(unheard(late(1000.0), phase="running", start_timeout_s=50.0), None),
)  # fmt: skip
def test_a_coordinator_that_is_late(facts, expected):
    assert summary(judge(facts, NOW)) == expected


def test_a_late_start_is_a_timeout_whose_cause_keeps_the_hint():
    end = judge(unheard(late(1000.0, hint="fewer GPUs"), start_timeout_s=50.0), NOW)
    assert (end.cause.hint, end.cause.never_ran, end.marks) == (
        "fewer GPUs",
        False,
        {"worker-0": Mark(state="failed")},
    )


# The job as a whole


def whole(state: str, ago: float = 3.0 + TICK, **values: Any) -> Event:
    return sees(None, state, ago, message="the job is over", **values)


PODS_GONE = "the job is over; its pods are gone"


@table(
    and_was_removed=(job(whole("gone")), failed(None, "the job is over")),
    and_was_removed_just_now=(job(whole("gone", 3.0)), None),
    and_was_removed_while_it_stopped=(job(whole("gone"), phase="stopping"), failed(None, "the job is over")),
    and_has_failed=(job(sees_all("running"), whole("failed")), failed(None, "the job is over")),
    and_has_failed_just_now=(job(sees_all("running"), whole("failed", 3.0)), None),
    and_the_agents_will_say_why=(job(sees_all("running"), whole("failed"), phase="stopping"), None),
    and_the_agents_have_said_why=(job(sees_all("running"), whole("failed"), phase="ended", changed=9.0), None),
    and_no_agent_was_heard_to_stop_it=(
        unheard(sees_all("running"), whole("failed"), phase="stopping"), failed(None, "the job is over")
    ),
    by_a_pod_that_has_failed=(
        job(sees_all("running"), sees("worker-1", "failed", 1.0, message="OOM"), whole("failed")), OOM
    ),
    and_its_pods_are_gone=(job(sees_all("gone", 1.0), whole("failed")), failed(None, PODS_GONE)),
    and_it_never_had_pods=(job(whole("failed")), failed(None, PODS_GONE)),
    and_cannot_go_on=(job(sees_all("running"), whole("pending", 1000.0, fatal=True)), None),
)  # fmt: skip
def test_a_job_that_has_failed_as_a_whole(facts, expected):
    assert summary(judge(facts, NOW)) == expected


@pytest.mark.parametrize(("hint", "expected"), [
    (None, "what it printed, if it was followed or fetched: runs/fit/logs"), ("raise the quota", "raise the quota"),
])  # fmt: skip
def test_a_failed_job_says_which_pods_are_gone_and_where_their_output_may_be(hint, expected):
    facts = job(sees("worker-0", "running"), sees("worker-1", "gone", 1.0), whole("failed", hint=hint))
    end = judge(facts, NOW)
    assert summary(end) == failed(None, "the job is over; the pods of worker-1, worker-2 are gone")
    assert (end.cause.hint, end.gone) == (expected, {"worker-1", "worker-2"})
    assert end.marks == dict.fromkeys(("worker-1", "worker-2"), Mark(state="gone", message=NO_POD))


def test_a_failed_job_does_not_say_that_pods_are_gone_whose_agents_have_reported():
    facts = job(whole("failed"), has(reported=set(REPLICAS)))
    end = judge(facts, NOW)
    assert (summary(end), end.marks, end.gone) == (failed(None, "the job is over"), {}, set(REPLICAS))
    facts.state.replicas["worker-1"].message = NO_POD  # as it was marked before
    assert summary(judge(facts, NOW)) == failed(None, "the job is over; the pods of worker-1 are gone")


# A replica that is lost


@table(
    is_the_agents_business_at_first=(job(sees("worker-1", "failed", 6.0, message="OOM")), None),
    ends_the_job=(job(sees("worker-1", "failed", 6.0 + TICK, message="OOM")), OOM),
    ends_the_job_where_its_pod_is_gone=(job(sees("worker-1", "gone", 7.0, message="evicted")), EVICTED),
    ends_the_job_before_it_runs=(unheard(sees("worker-1", "failed", 6.0 + TICK, message="OOM")), OOM),
    is_the_agents_business_while_they_stop=(job(sees("worker-1", "failed", 1000.0), phase="stopping"), None),
    is_no_other_than_the_one_that_is_late=(
        job(sees("worker-2", "failed", 6.0), sees("worker-1", "failed", 7.0, message="OOM")), OOM
    ),
    came_back=(job(sees("worker-1", "failed", 1000.0), sees("worker-1", "running", 1.0)), None),
    was_seen_lost_twice=(
        job(sees("worker-1", "failed", 7.0), sees("worker-1", "gone", 1.0, message="evicted")), EVICTED
    ),
    has_succeeded=(job(sees("worker-1", "succeeded", 1000.0)), None),
)  # fmt: skip
def test_a_replica_that_is_lost(facts, expected):
    assert summary(judge(facts, NOW)) == expected


# A coordinator that is silent


def silent(*events: Event, for_s: float, **values: Any) -> Facts:
    return job(sees_all("running"), is_silent(for_s), *events, **values)


SECOND_COORDINATOR_S = DEFAULT_S + 10.0


@table(
    is_given_some_time=(silent(for_s=10.0), None),
    is_looked_into=(silent(for_s=10.0 + TICK), Step.ASK_BACKEND),
    answers_again=(job(sees_all("running")), None),
    was_never_heard=(unheard(sees_all("running", 1.0), is_silent(1000.0), answers(30.0), answers(1.0)), None),
    may_have_come_back_with_the_backend=(silent(answers(15.0 - TICK), for_s=100.0), None),
    is_looked_into_again=(silent(answers(15.0), for_s=100.0), Step.ASK_BACKEND),
    is_lost=(silent(answers(20.0), answers(5.0), for_s=100.0), failed("worker-0", LOST)),
    is_not_lost_by_two_answers_at_once=(silent(answers(14.0), answers(0.0), for_s=100.0), None),
    is_not_lost_by_an_answer_from_before=(silent(answers(12.0), is_silent(12.0), for_s=100.0), Step.ASK_BACKEND),
    is_given_more_time_where_its_pod_waits=(silent(sees("worker-0", "pending"), for_s=SECOND_COORDINATOR_S), None),
    is_looked_into_where_its_pod_waits=(
        silent(sees("worker-0", "pending"), for_s=SECOND_COORDINATOR_S + TICK), Step.ASK_BACKEND
    ),
    is_given_more_time_where_its_pod_starts=(silent(sees("worker-0", "starting"), for_s=SECOND_COORDINATOR_S), None),
    is_given_the_start_timeout=(silent(sees("worker-0", "pending"), for_s=60.0, start_timeout_s=50.0), None),
    is_given_no_more_than_the_start_timeout=(
        silent(sees("worker-0", "pending"), for_s=60.0 + TICK, start_timeout_s=50.0), Step.ASK_BACKEND
    ),
    is_given_the_default_where_the_timeout_is_zero=(
        silent(sees("worker-0", "pending"), for_s=SECOND_COORDINATOR_S, start_timeout_s=0.0), None
    ),
    is_given_no_time_for_another_pod=(silent(sees("worker-1", "pending"), for_s=10.0 + TICK), Step.ASK_BACKEND),
    is_looked_into_where_the_backend_has_not_seen_it=(job(is_silent(10.0 + TICK)), Step.ASK_BACKEND),
)  # fmt: skip
def test_a_coordinator_that_is_silent(facts, expected):
    assert summary(judge(facts, NOW)) == expected


def test_answers_of_the_backend_count_anew_when_the_coordinator_falls_silent_again():
    facts = silent(answers(80.0), answers(60.0), is_silent(50.0), for_s=100.0)
    assert judge(facts, NOW) is Step.ASK_BACKEND
    facts.hear_backend(NOW)
    assert (facts.first_answer_at, judge(facts, NOW)) == (NOW, None)
    facts.silent_since = NOW  # and an answer in the same moment is none since
    facts.hear_backend(NOW + TICK)
    assert facts.first_answer_at == NOW + TICK


def test_each_answer_of_the_backend_is_a_first_one_while_the_coordinator_is_not_silent():
    facts = job(answers(30.0), answers(20.0))
    assert (facts.first_answer_at, facts.last_answer_at) == (NOW - 20.0, NOW - 20.0)


def test_a_second_answer_of_the_backend_leaves_the_first():
    facts = silent(answers(30.0), answers(20.0), for_s=100.0)
    assert (facts.first_answer_at, facts.last_answer_at) == (NOW - 30.0, NOW - 20.0)


def test_a_coordinator_that_is_lost_is_gone():
    end = judge(silent(answers(20.0), answers(5.0), for_s=100.0), NOW)
    assert (end.gone, end.marks) == ({"worker-0"}, {"worker-0": Mark(state="failed")})


# A coordinator whose pod or process has ended


def over(state: str, ago: float, **values: Any) -> Event:
    return sees("worker-0", state, ago, **values)


@table(
    has_a_moment_to_be_heard=(job(over("succeeded", 3.0)), None),
    ends_the_job=(job(over("succeeded", 3.0 + TICK, message="exit 0")), failed("worker-0", "exit 0")),
    ends_a_job_that_was_not_heard_sooner=(unheard(over("succeeded", 1.0 + TICK)), failed("worker-0")),
    has_a_moment_although_it_was_not_heard=(unheard(over("succeeded", 1.0)), None),
    has_failed=(job(over("failed", 3.0 + TICK, message="OOM")), failed("worker-0", "OOM")),
    is_gone=(job(over("gone", 3.0 + TICK, message="evicted")), failed("worker-0", "evicted")),
    ends_the_job_by_a_replica_that_has_failed=(
        job(over("gone", 4.0), sees("worker-1", "failed", 4.0, message="OOM")), OOM
    ),
    leaves_the_agents_result=(
        job(over("succeeded", 3.0 + TICK), phase="ended", result="succeeded", changed=9.0), SUCCEEDED
    ),
    leaves_the_agents_cause=(
        job(over("failed", 4.0, message="x"), phase="stopping", result="failed", cause=lost_by(message="exit 1")),
        EXIT_1,
    ),
    explains_a_loss=(
        job(over("failed", 4.0, message="OOM"), phase="stopping", result="failed", cause=lost_by("worker-0")),
        failed("worker-0", "OOM"),
    ),
    has_succeeded_with_all_others=(unheard(sees_all("succeeded", 0.0)), SUCCEEDED),
    has_succeeded_with_all_others_and_was_heard=(job(sees_all("succeeded", 3.0)), None),
    has_succeeded_before_the_others=(
        unheard(sees_all("running", 50.0), over("succeeded", 1.0)), None
    ),
    has_succeeded_and_others_were_never_seen=(unheard(over("succeeded", 0.0)), None),
    came_back=(job(over("failed", 1000.0), over("running", 1.0)), None),
)  # fmt: skip
def test_a_coordinator_that_has_ended(facts, expected):
    assert summary(judge(facts, NOW)) == expected


def test_a_job_all_of_whose_pods_have_succeeded_unheard_marks_all():
    end = judge(unheard(sees_all("succeeded", 0.0)), NOW)
    assert end == End(result="succeeded", cause=None, marks=dict.fromkeys(REPLICAS, Mark(state="succeeded")))


# Which rule counts first


IMPOSTOR = Observation(replica="worker-0", state="failed", message="was lost", hint="h")


@table(
    impostor_before_all=(ended(has(impostor=IMPOSTOR), result="succeeded"), failed("worker-0", "was lost")),
    stream_before_the_backends_success=(ended(sees(None, "succeeded"), cause=lost_by(message="exit 1")), EXIT_1),
    stream_before_the_wait_for_output=(ended(result="succeeded"), SUCCEEDED),
    wait_for_output_before_success=(job(sees(None, "succeeded"), phase="ended", changed=91.0), Step.STOP_LISTENING),
    doomed_before_late=(
        unheard(late(1000.0), stuck(replica="worker-1"), start_timeout_s=50.0), NO_IMAGE
    ),
    late_before_the_whole_job=(
        unheard(late(1000.0), whole("failed"), start_timeout_s=50.0),
        too_late(50),
    ),
    whole_job_before_a_lost_replica=(job(sees("worker-1", "failed"), whole("gone")), failed(None, "the job is over")),
    lost_replica_before_silence=(silent(sees("worker-1", "failed", message="OOM"), for_s=100.0), OOM),
    silence_before_an_ended_coordinator=(
        job(over("succeeded", 100.0), is_silent(90.0), answers(80.0), answers(10.0)), failed("worker-0", LOST)
    ),
)  # fmt: skip
def test_of_two_rules_counts_the(facts, expected):
    assert summary(judge(facts, NOW)) == expected


def test_an_impostor_leaves_no_agent_in_the_coordinators_place():
    end = judge(job(has(impostor=IMPOSTOR)), NOW)
    assert (end.gone, end.marks, end.cause.hint) == ({"worker-0"}, {"worker-0": Mark(state="failed")}, "h")


# What the cause says


@pytest.mark.parametrize(("facts", "expected"), [
    (unheard(sees_all("pending"), stuck()), (True, True, False)),
    (unheard(stuck()), (True, True, True)),
    (unheard(sees_all("pending"), stuck(state="starting")), (True, False, False)),
    (unheard(stuck(state="starting")), (True, False, True)),
    (job(sees("worker-1", "failed", 7.0)), (False, False, False)),
    (job(sees_all("running"), sees("worker-1", "failed", 7.0)), (False, False, False)),
    (unheard(late(1000.0), start_timeout_s=50.0), (False, False, False)),
], ids=["no room", "no room, no pods", "no image", "no image, no pods", "lost", "lost of all", "late"])  # fmt: skip
def test_the_cause_says_whether_the_script_ever_ran(facts, expected):
    cause = judge(facts, NOW).cause
    assert (cause.never_ran, cause.no_room, cause.never_whole) == expected
    assert list(cause.as_json()) == ["replica", "message", "hint", "exit_code", "never_ran", "no_room", "never_whole"]
    assert cause.as_json()["exit_code"] is None


@pytest.mark.parametrize(("facts", "expected"), [
    (unheard(stuck()), {}),
    (job(whole("gone")), {}),
    (job(sees("worker-1", "failed", 7.0)), {"worker-1": Mark(state="failed")}),
], ids=["not where it never ran", "not where it is the whole job", "where it ran"])  # fmt: skip
def test_a_replica_is_marked_as_failed(facts, expected):
    assert judge(facts, NOW).marks == expected


def test_the_cause_has_the_backends_words():
    end = judge(job(sees("worker-1", "failed", 7.0, message="OOM", hint="--memory 4Gi")), NOW)
    assert (end.cause.message, end.cause.hint, end.gone) == ("OOM", "--memory 4Gi", frozenset())


# Where no agent answers at all


@table(
    of_nothing=(unheard(), None),
    of_pods_that_run=(unheard(sees_all("running")), None),
    of_pods_that_succeeded=(unheard(sees_all("succeeded")), SUCCEEDED),
    of_pods_that_ended_in_every_way=(
        unheard(sees("worker-0", "gone"), sees("worker-1", "failed", message="OOM"), sees("worker-2", "succeeded")),
        OOM,
    ),
    of_the_jobs_failure_with_pods_that_ended_in_every_way=(
        unheard(
            sees_all("gone"), sees("worker-1", "failed", message="OOM"), sees("worker-2", "succeeded"), whole("failed")
        ),
        OOM,
    ),
    of_some_pods_that_succeeded=(unheard(sees("worker-0", "succeeded")), None),
    of_a_pod_that_failed=(
        unheard(sees_all("succeeded"), sees("worker-1", "failed", message="OOM")),
        OOM,
    ),
    of_a_pod_that_failed_beside_one_that_runs=(unheard(sees_all("running"), sees("worker-1", "failed")), None),
    of_pods_that_are_gone=(unheard(sees_all("gone")), ("failed", None, None)),
    of_pods_that_are_gone_beside_a_success=(
        unheard(sees_all("gone"), sees("worker-1", "succeeded")),
        ("failed", None, None),
    ),
    of_the_jobs_success=(unheard(sees(None, "succeeded", 0.0)), SUCCEEDED),
    of_the_jobs_success_above_a_failed_pod=(
        unheard(sees_all("failed"), sees(None, "succeeded", 0.0)),
        SUCCEEDED,
    ),
    of_the_jobs_failure=(unheard(whole("failed", 0.0)), failed(None, PODS_GONE)),
    of_the_jobs_failure_by_a_pod=(
        unheard(sees("worker-1", "failed", message="OOM"), whole("failed")),
        OOM,
    ),
    of_the_jobs_failure_beside_one_that_runs=(unheard(sees("worker-1", "running"), whole("failed")), None),
    of_the_jobs_removal=(unheard(whole("gone")), None),
    of_a_job_that_cannot_start=(unheard(whole("pending", fatal=True)), None),
)
def test_the_conclusion(facts, expected):
    assert summary(conclude(facts)) == expected


def test_a_conclusion_from_pods_has_a_cause_of_three_words_and_marks_nothing():
    end = conclude(unheard(sees_all("failed"), sees("worker-0", "failed", message="OOM", hint="h")))
    assert end == End(result="failed", cause=Cause.of({"replica": "worker-0", "message": "OOM", "hint": "h"}))


@pytest.mark.parametrize("state", ["succeeded", "gone"])
def test_a_conclusion_leaves_the_cause_that_was_told(state):
    cause = lost_by(message="exit 1")
    assert conclude(unheard(sees_all(state), cause=cause)).cause == cause


# What the facts remember


def test_a_replica_that_cannot_start_has_its_patience_from_the_first_time_on():
    facts = unheard(
        stuck(20.0, patience_s=20.0), sees("worker-1", "pending", 5.0, message="no node", fatal=True, patience_s=20.0)
    )
    assert facts.doomed == {"worker-1": Doom(NOW - 20.0, facts.platform["worker-1"])}
    assert summary(judge(facts, NOW)) == failed("worker-1", "no node")


@pytest.mark.parametrize(("state", "is_forgotten"), [
    ("pending", True), ("running", True), ("succeeded", True), ("failed", False), ("gone", False),
])  # fmt: skip
def test_what_kept_a_replica_from_starting_is_forgotten_unless_it_is_lost(state, is_forgotten):
    facts = unheard(stuck(), sees("worker-1", state, 0.0))
    assert ("worker-1" not in facts.doomed) is is_forgotten


@pytest.mark.parametrize(("patience_s", "others", "is_forgotten"), [
    (20.0, REPLICAS[1:], True), (20.0, REPLICAS[2:], False), (0.0, REPLICAS[1:], False),
])  # fmt: skip
def test_a_refusal_is_forgotten_once_all_pods_are_there(patience_s, others, is_forgotten):
    refusal = stuck(replica=None, patience_s=patience_s)
    facts = unheard(refusal, *[sees(replica, "pending") for replica in ("worker-0", *others)])
    assert (None not in facts.doomed) is is_forgotten


@pytest.mark.parametrize(("event", "is_kept"), [
    (sees(None, "failed"), True), (sees(None, "gone"), True), (sees(None, "pending", fatal=True), True),
    (sees(None, "pending"), False), (sees(None, "running"), False), (sees(None, "succeeded"), False),
], ids=["failed", "gone", "fatal", "pending", "running", "succeeded"])  # fmt: skip
def test_only_what_may_end_the_job_is_remembered_of_the_whole_job(event, is_kept):
    facts = unheard(event)
    assert (None in facts.doomed, facts.platform, facts.first_seen_at) == (is_kept, {}, None)


def test_what_was_seen_of_the_whole_job_first_counts():
    facts = unheard(whole("failed", 9.0), sees(None, "gone", 1.0))
    assert facts.doomed[None] == Doom(NOW - 9.0, Observation(replica=None, state="failed", message="the job is over"))


@pytest.mark.parametrize(("state", "is_gone"), [
    ("pending", False), ("starting", False), ("running", False), ("succeeded", True), ("failed", True), ("gone", True),
])  # fmt: skip
def test_a_replica_is_gone_whose_pod_or_process_has_ended(state, is_gone):
    facts = job(sees("worker-1", "running" if is_gone else "failed"), sees("worker-1", state))
    assert facts.state.gone == ({"worker-1"} if is_gone else set())
    assert facts.has_ended("worker-1") is is_gone
    assert not facts.has_ended("worker-2")


def test_of_a_job_that_was_just_launched_nothing_is_known():
    facts = Facts(state=JobState(job="fit", replicas={"worker-0": ReplicaState(replica="worker-0")}), changed_at=NOW)
    assert (facts.heard, facts.silent_since, facts.first_answer_at, facts.last_answer_at) == (False, None, -inf, -inf)


def test_the_first_sight_of_a_replica_is_kept():
    assert unheard(late(9.0), late(5.0, "worker-1")).first_seen_at == NOW - 9.0


@pytest.mark.parametrize(("events", "is_forgiven"), [
    ([sees("worker-0", "failed"), is_silent(5.0), sees("worker-0", "running")], True),
    ([sees("worker-0", "running"), is_silent(5.0), sees("worker-0", "running")], False),
    ([sees("worker-0", "failed"), is_silent(5.0), sees("worker-0", "pending")], False),
    ([is_silent(5.0), sees("worker-0", "running")], False),
    ([sees("worker-1", "failed"), is_silent(5.0), sees("worker-1", "running")], False),
], ids=["runs again", "still runs", "waits", "is seen first", "is another replica"])  # fmt: skip
def test_a_coordinators_silence_is_forgotten_when_another_pod_takes_its_place(events, is_forgiven):
    assert (job(*events).silent_since is None) is is_forgiven


def test_a_coordinator_has_ended_since_it_was_seen_so_first():
    facts = job(over("failed", 9.0), over("gone", 1.0))
    assert facts.doomed["worker-0"].since == NOW - 9.0
    assert "worker-1" not in job(sees("worker-1", "succeeded")).doomed


@pytest.mark.parametrize(("phase", "heard", "expected"), [
    ("stopping", True, True), ("ended", True, True), ("running", True, False), ("stopping", False, False),
])  # fmt: skip
def test_a_gang_ends_by_its_agents(phase, heard, expected):
    assert job(phase=phase, heard=heard).is_ended_by_agents is expected


def test_judging_changes_no_fact():
    for facts in (silent(answers(20.0), answers(5.0), for_s=100.0), ended(sees("worker-1", "failed"), cause=lost_by())):
        before = copy.deepcopy(facts)
        judge(facts, NOW)
        conclude(facts)
        assert facts == before


# Answers without a proof


@pytest.mark.parametrize(("times", "expected"), [
    ((0.0, 1.0, 2.0, 5.0), [False, False, False, True]),
    ((0.0, 1.0, 2.0, 5.0 - TICK), [False] * 4),
    ((0.0, 50.0, 100.0), [False] * 3),
    ((0.0, 0.0, 0.0, 0.0, 5.0), [False] * 4 + [True]),
    ((100.0, 101.0, 102.0, 105.0, 106.0), [False] * 3 + [True] * 2),
    ((100.0, 101.0, 102.0, 105.0 - TICK), [False] * 4),
])  # fmt: skip
def test_answers_without_a_proof_are_enough_after_four_of_them_and_five_seconds(times, expected):
    false_answers = FalseAnswers()
    assert [false_answers.are_enough(at) for at in times] == expected
