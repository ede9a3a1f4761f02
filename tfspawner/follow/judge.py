"""Judges whether and how a job has ended when its agents do not say so. Pure: facts and time in, a verdict out.

What the agents tell comes first: what the backend has seen counts only when they have had a moment to tell it better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from tfspawner.backends.base import Observation
from tfspawner.base.cause import Cause
from tfspawner.base.states import Phase, PodState, Result, State
from tfspawner.plan.plan import DEFAULT_START_TIMEOUT_S
from tfspawner.replica.protocol import LOST, STARTING, TERMINATED

from .facts import ENDED, Facts
from .state import NO_POD, JobState, which_pods_are_gone

AGENT_GRACE_S = 3.0  # how long the agents have to tell what the backend has seen
UNHEARD_GRACE_S = 1.0  # the same if the coordinator has ended without ever reporting
LOST_PATIENCE_S = 6.0  # how long the coordinator has to find out that a replica is lost
REASON_S = 3.0  # how long the backend has to say why a replica was lost
LAST_OUTPUT_S = 90.0  # how long nothing new may come once the gang has ended
SILENCE_S = 10.0  # how long the coordinator may be silent, on top of the stream's own time-out
ANSWERS_S = 15.0  # how long the backend must answer and the coordinator not: both may have just come back
FALSE_S, FALSE_ANSWERS = 5.0, 4  # an agent is gone after this many answers in a row without a proof, over this long


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What a replica's line in the table says once the job has ended; None: what it said before."""

    state: State | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The job has ended."""

    result: Result | None
    cause: Cause | None
    marks: Mapping[str, Mark] = field(default_factory=dict)
    gone: frozenset[str] = frozenset()  # replicas of which it is clear now that no agent answers there


class Step(Enum):
    """What has to be done before the job can be judged."""

    ASK_BACKEND = "ask the backend whether it answers"
    STOP_LISTENING = "take the coordinator's stream for ended"


class FalseAnswers:
    """Counts answers in a row without a proof: a proxy, say, may have given one instead of the agent."""

    def __init__(self) -> None:
        self.count, self.since = 0, math.inf

    def are_enough(self, now: float) -> bool:
        """Counts one more answer; returns whether it is clear that the agent is gone."""
        self.count += 1
        self.since = min(self.since, now)
        return self.count >= FALSE_ANSWERS and now - self.since >= FALSE_S


def judge(facts: Facts, now: float) -> End | Step | None:
    """The job's end, if it has ended; or what has to be done to know; else None."""
    if facts.impostor:
        return _failed(facts, facts.impostor, gone=frozenset({facts.coordinator}))
    if facts.stream_ended_at is not None:
        return _after_stream(facts, facts.stream_ended_at, now)
    if facts.state.phase == Phase.ENDED and now - facts.changed_at > LAST_OUTPUT_S:
        return Step.STOP_LISTENING
    if facts.succeeded_at is not None:
        is_settled = now - max(facts.succeeded_at, facts.changed_at) > AGENT_GRACE_S
        return _succeeded(facts) if is_settled else None
    return (
        _doomed_start(facts, now)
        or _late_start(facts, now)
        or _doomed_job(facts, now)
        or _lost_replica(facts, now)
        or _silent_coordinator(facts, now)
        or _ended_coordinator(facts, now)
    )


def conclude(facts: Facts) -> End | None:
    """The job's end according to its pods or processes, when no agent answers; None if they do not show it."""
    states = {seen.state for seen in facts.platform.values()}
    doom = facts.doomed.get(None)
    if facts.succeeded_at is not None:
        return _succeeded(facts)
    if not states <= set(ENDED):
        return None
    if facts.are_all_seen and states == {PodState.SUCCEEDED}:
        return End(result=Result.SUCCEEDED, cause=facts.state.cause)
    if facts.are_all_seen:
        failed = _first_failed(facts)
        return End(result=Result.FAILED, cause=_cause_of_pod(failed) if failed else facts.state.cause)
    if doom and doom.seen.state == PodState.FAILED:
        return _failed_job(facts, doom.seen)
    return None


# The rules, in the order in which they count


def _after_stream(facts: Facts, ended_at: float, now: float) -> End | None:
    """The coordinator has sent everything. The backend may know better why a replica was lost, and gets a moment."""
    replica = _replica_to_explain(facts)
    is_unexplained = replica is not None and not facts.has_ended(replica)
    if is_unexplained and now - ended_at <= REASON_S:
        return None
    return _as_agents_told(facts)


def _doomed_start(facts: Facts, now: float) -> End | None:
    """A replica that cannot start."""
    if not _is_starting(facts.state):
        return None
    for doom in facts.doomed.values():
        if doom.seen.fatal and now - doom.since >= _patience_s(doom.seen, facts.start_timeout_s):
            return _failed(facts, doom.seen)
    return None


def _patience_s(seen: Observation, start_timeout_s: float | None) -> float:
    """How long a replica may stay as it is before it counts as one that cannot start."""
    if seen.state == PodState.PENDING and seen.patience_s and start_timeout_s is not None:
        return start_timeout_s
    return seen.patience_s


def _late_start(facts: Facts, now: float) -> End | None:
    """A coordinator that never answered."""
    limit_s = DEFAULT_START_TIMEOUT_S if facts.start_timeout_s is None else facts.start_timeout_s
    if not _is_starting(facts.state) or facts.heard or facts.first_seen_at is None:
        return None
    if now - facts.first_seen_at <= limit_s + AGENT_GRACE_S:
        return None
    late = facts.platform.get(facts.coordinator) or next(iter(facts.platform.values()))
    why = late.message or f"it is {late.state}"
    return _failed(facts, replace(late, message=f"did not start within {limit_s:g} s: {why}"), Result.TIMEOUT)


def _doomed_job(facts: Facts, now: float) -> End | None:
    """The job as a whole has failed, or was removed."""
    doom = facts.doomed.get(None)
    if not doom or now - doom.since <= AGENT_GRACE_S:
        return None
    if doom.seen.state == PodState.GONE:
        return _failed(facts, doom.seen)
    if doom.seen.state == PodState.FAILED and not facts.is_ended_by_agents:
        return _failed_job(facts, doom.seen)
    return None


def _lost_replica(facts: Facts, now: float) -> End | None:
    """A replica's pod or process has failed, and the coordinator does not find out."""
    if facts.is_ended_by_agents:
        return None
    for replica, since in facts.lost_at.items():
        if now - since > LOST_PATIENCE_S:
            return _failed(facts, facts.platform[replica])
    return None


def _silent_coordinator(facts: Facts, now: float) -> End | Step | None:
    """A coordinator that stays silent is lost, if the backend itself answers."""
    silent_since = facts.silent_since
    if not facts.heard or silent_since is None or now - silent_since <= _silence_s(facts):
        return None
    if facts.first_answer_at <= silent_since:
        return Step.ASK_BACKEND
    if facts.last_answer_at - facts.first_answer_at >= ANSWERS_S:
        lost = Observation(replica=facts.coordinator, state=PodState.FAILED, message=LOST)
        return _failed(facts, lost, gone=frozenset({facts.coordinator}))
    return Step.ASK_BACKEND if now - facts.first_answer_at >= ANSWERS_S else None


def _silence_s(facts: Facts) -> float:
    """How long the coordinator may be silent; longer while another pod takes its place."""
    seen = facts.platform.get(facts.coordinator)
    if seen and seen.state in (PodState.PENDING, PodState.STARTING):
        return (facts.start_timeout_s or DEFAULT_START_TIMEOUT_S) + SILENCE_S
    return SILENCE_S


def _ended_coordinator(facts: Facts, now: float) -> End | None:
    """The coordinator's pod or process has ended. Its stream tells that first; what it did not tell, the pods do."""
    if not facts.has_ended(facts.coordinator):
        return None
    have_all_succeeded = facts.are_all_seen and all(
        seen.state == PodState.SUCCEEDED for seen in facts.platform.values()
    )
    if have_all_succeeded and not facts.heard:
        marks = dict.fromkeys(facts.state.replicas, Mark(state=State.SUCCEEDED))
        return End(result=Result.SUCCEEDED, cause=facts.state.cause, marks=marks)
    grace_s = AGENT_GRACE_S if facts.heard else UNHEARD_GRACE_S
    if now - facts.doomed[facts.coordinator].since <= grace_s:
        return None
    if facts.state.result:
        return _as_agents_told(facts)  # only the last output is missing
    return _failed(facts, _first_failed(facts) or facts.platform[facts.coordinator])


# What an end consists of


def _failed(facts: Facts, seen: Observation, result: Result = Result.FAILED, gone: frozenset[str] = frozenset()) -> End:
    """The job has ended by what was seen. What is fatal has kept the replica from starting."""
    cause = {
        "replica": seen.replica,
        "message": seen.message,
        "hint": seen.hint,
        "exit_code": None,
        "never_ran": seen.fatal,
        "no_room": seen.fatal and seen.state == PodState.PENDING,
        "never_whole": seen.fatal and not facts.are_all_seen,
    }
    marks = {seen.replica: Mark(state=State.FAILED)} if seen.replica and not seen.fatal else {}
    return End(result=result, cause=Cause.of(cause), marks=marks, gone=gone)


def _cause_of_pod(failed: Observation) -> Cause:
    return Cause.of({"replica": failed.replica, "message": failed.message, "hint": failed.hint})


def _failed_job(facts: Facts, job: Observation) -> End:
    """The whole job has failed: by a replica that is seen to have failed, or else as the backend tells of the job."""
    failed = _first_failed(facts)
    if failed:
        return _failed(facts, failed)
    gone, marks = _without_pods(facts)
    lines = facts.state.replicas.values()
    podless = [line.replica for line in lines if line.replica in marks or line.message == NO_POD]
    if podless:
        where = f"what it printed, if it was followed or fetched: runs/{facts.state.job}/logs"
        message = f"{job.message}; {which_pods_are_gone(podless, len(lines))}"
        job = replace(job, message=message, hint=job.hint or where)
    return replace(_failed(facts, job), marks=marks, gone=gone)


def _succeeded(facts: Facts) -> End:
    """The backend says that all replicas have succeeded. What they left is gone with their pods."""
    gone, marks = _without_pods(facts)
    result = facts.state.result or Result.SUCCEEDED
    if result == Result.SUCCEEDED:
        marks = {
            replica: replace(marks.get(replica, Mark()), state=State.SUCCEEDED) for replica in facts.state.replicas
        }
    return End(result=result, cause=facts.state.cause, marks=marks, gone=gone)


def _without_pods(facts: Facts) -> tuple[frozenset[str], dict[str, Mark]]:
    """The replicas of an ended job whose pods are gone, and a mark for each whose agent has not reported."""
    gone = [r for r in facts.state.replicas if r not in facts.platform or facts.platform[r].state == PodState.GONE]
    marks = {replica: Mark(state=State.GONE, message=NO_POD) for replica in gone if replica not in facts.reported}
    return frozenset(gone), marks


def _as_agents_told(facts: Facts) -> End:
    """The agents' own result; the backend may know better why a replica's agent fell silent."""
    state, replica = facts.state, _replica_to_explain(facts)
    if not state.cause or not replica or facts.platform[replica].state not in (PodState.FAILED, PodState.GONE):
        return End(result=state.result, cause=state.cause)
    seen = facts.platform[replica]
    cause = state.cause.but(message=seen.message, hint=seen.hint)
    return End(result=state.result, cause=cause, marks={replica: Mark(message=seen.message)})


def _replica_to_explain(facts: Facts) -> str | None:
    """The replica by whose loss the job has ended, if it has, and the backend knows the replica."""
    cause = facts.state.cause
    if not cause or cause.message not in (LOST, TERMINATED) or cause.replica not in facts.platform:
        return None
    return cause.replica


def _first_failed(facts: Facts) -> Observation | None:
    return next((seen for seen in facts.platform.values() if seen.state == PodState.FAILED), None)


def _is_starting(state: JobState) -> bool:
    return state.phase in (Phase.PENDING, *STARTING)
