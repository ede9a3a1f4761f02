"""Which agents of a job answer, which scripts still write, and which processes or pods still run."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping

from tfspawner.backends.base import Backend, KeepsFiles, Left
from tfspawner.backends.client import AgentClient, Holder
from tfspawner.base.states import Phase, PodState, Result, State
from tfspawner.base.threads import each
from tfspawner.errors import (
    AgentUnreachable,
    ArtifactError,
    ClusterError,
    Command,
    Hint,
    NotFoundError,
    NotTheAgent,
)
from tfspawner.replica.protocol import FINISHED, LOST

from .judge import FalseAnswers
from .state import JobState, ReplicaState, View, shortened

PARALLEL = 16  # how many agents are asked at the same time
ANSWER_WITHIN_S = 30.0  # how long an agent may be silent before its files are given up
SEE_WITHIN_S = 5.0  # how long the backend has to see that a silent replica has ended
UNKNOWN = "it cannot be known whether the script has ended"


def reachable_agents(backend: Backend, state: JobState) -> dict[str, AgentClient]:
    """The agents that answer. Those whose pods or processes have ended are not asked.

    A silent agent is waited for if its script was seen running; and each one where training succeeded, as all then have
    something to bring back.
    """

    def answering(replica: str) -> AgentClient | None:
        try:
            agent = backend.agent(state.job, replica)
            agent.ping()
        except AgentUnreachable as error:
            if isinstance(error, NotTheAgent) and false_answers[replica].are_enough(time.monotonic()):
                waited_for.discard(replica)
            return None
        return agent

    deadline = time.monotonic() + ANSWER_WITHIN_S
    candidates = [replica for replica in state.replicas if replica not in state.gone]
    waited_for = {
        replica
        for replica in candidates
        if state.result == Result.SUCCEEDED or state.replicas[replica].state in (State.RUNNING, *FINISHED)
    }
    agents: dict[str, AgentClient] = {}
    false_answers = {replica: FalseAnswers() for replica in candidates}
    while True:
        missing = [replica for replica in candidates if replica not in agents]
        agents |= {agent.replica: agent for agent in each(answering, missing, PARALLEL) if agent}
        if waited_for <= agents.keys() or time.monotonic() > deadline:
            return {replica: agents[replica] for replica in candidates if replica in agents}
        time.sleep(0.5)


def holders_of(backend: Backend, state: JobState, agents: Mapping[str, AgentClient]) -> dict[str, Holder]:
    """Who serves each replica's files: its agent, or else the files that its agent left behind."""
    return {**agents, **left_of(backend, state.job, [replica for replica in state.replicas if replica not in agents])}


def left_of(backend: Backend, job: str, replicas: Iterable[str]) -> dict[str, Left]:
    """The files that agents have left behind, for each replica that has some."""
    if not isinstance(backend, KeepsFiles):
        return {}
    return {replica: left for replica in replicas if (left := backend.left(job, replica))}


def busy(
    backend: Backend,
    holders: Mapping[str, Holder],
    state: JobState,
    view: View,
    ends_by: float,
    given_up: threading.Event | None,
) -> tuple[dict[str, ArtifactError], set[str]]:
    """Waits until ends_by for replicas of a job with a result that still write files, or still put them into a bucket.

    Returns an error for each that has not ended by then, and those whose agents have ended meanwhile. The gang's own
    end does not tell: the gang waits for its replicas only for a time, and may have lost its coordinator.
    """
    pending = [holder for r, holder in holders.items() if state.result and not _has_ended(state, state.replicas[r])]
    is_shown, gone, pause_s = False, set[str](), 0.3
    while True:
        doing = dict(zip(pending, each(lambda agent: _doing(agent, state), pending, PARALLEL), strict=True))
        silent = [agent.replica for agent in pending if doing[agent] == UNKNOWN]
        if silent:
            gone.update(set(silent) - seen_running(backend, state.job, silent))
        pending = [agent for agent in pending if doing[agent] and agent.replica not in gone]
        if not pending or time.monotonic() > ends_by:
            break
        if not is_shown:
            view.note(f"waiting for {shortened([agent.replica for agent in pending])} to end")
            is_shown = True
        time.sleep(pause_s)
        pause_s = min(3.0, 1.5 * pause_s)
        if given_up and given_up.is_set():
            raise KeyboardInterrupt
    whose: dict[str, list[str]] = {}
    for agent in pending:
        whose.setdefault(doing[agent], []).append(agent.replica)
    hint = Hint("once that has ended: ", Command("fetch"))
    errors = {what: ArtifactError(f"{shortened(replicas)}: {what}", hint=hint) for what, replicas in whose.items()}
    return {replica: errors[what] for what, replicas in whose.items() for replica in replicas}, gone


def _has_ended(state: JobState, line: ReplicaState) -> bool:
    """Whether the replica has reported its end, and the gang has ended, too."""
    return state.phase == Phase.ENDED and line.state in FINISHED and line.message != LOST and not line.storing


def _doing(agent: Holder, state: JobState) -> str:
    """What a replica is still doing with its files; "" if it has ended."""
    try:
        report = agent.report(list(state.replicas))
    except AgentUnreachable:
        return UNKNOWN
    if report and report["state"] == "running":
        return "the script has not ended, and may still write"
    uri = report and report.get("storing")
    return f"still puts its files into {uri}" if uri else ""


def still_running(backend: Backend, job: str, silent: list[str]) -> set[str]:
    """The silent replicas whose process or pod still runs; the backend gets a moment to see those that just ended."""
    deadline = time.monotonic() + SEE_WITHIN_S
    while True:
        alive = seen_running(backend, job, silent)
        if not alive or time.monotonic() > deadline:
            return alive
        time.sleep(0.5)


def seen_running(backend: Backend, job: str, replicas: list[str]) -> set[str]:
    """The replicas whose process or pod runs, according to the backend; all of them if it cannot be asked."""
    states: dict[str | None, str] = {}
    stop = threading.Event()
    try:
        for seen in backend.watch(job, stop):
            if seen is None:
                break
            states[seen.replica] = seen.state
    except NotFoundError:
        return set()
    except ClusterError:
        return set(replicas)
    finally:
        stop.set()
    return {replica for replica in replicas if states.get(replica) == PodState.RUNNING}
