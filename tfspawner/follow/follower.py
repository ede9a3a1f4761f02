"""Follows a job to its end: what the backend sees and what the agents tell, in one state and one record."""

from __future__ import annotations

import math
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

from tfspawner.agent import FINISHED, LOST, STARTING, TERMINATED
from tfspawner.backends.answers import Gang
from tfspawner.backends.base import Backend, Observation
from tfspawner.backends.client import STREAM_IDLE_S, AgentClient
from tfspawner.base.threads import each
from tfspawner.errors import AgentBusy, AgentUnreachable, BadAnswer, ClusterError, NotTheAgent, TimedOut
from tfspawner.plan.code import Code
from tfspawner.plan.plan import DEFAULT_START_TIMEOUT_S
from tfspawner.record.writing import Record

from .listening import Listener
from .state import NO_POD, JobState, ReplicaState, Result, View

ENDED = ("succeeded", "failed", "gone")  # a pod's or process's states in which no agent can answer
PARALLEL = 16
LOST_PATIENCE_S = 6.0  # so long the coordinator has to find out by itself that a replica is lost
REASON_S = 3.0  # so long the backend may take to say why a replica was lost
SILENCE_S = 10.0  # on top of the stream's own time-out
ANSWERS_S = 15.0  # so long the backend has to answer, and the coordinator not: it may have come back just now
USAGE_OF, USAGE_EVERY_S = 16, 2.0  # so many replicas' processors and memory are recorded, so often at first
ANSWER_WITHIN_S = 30.0  # for which an agent may be silent before its files are given up
NO_AGENT_HINT = "something else may have taken the agent's place: trust nothing that comes from there"
AGAIN_S = 0.2  # until a stream that broke off is begun again
BUSY_S = 5.0  # and one for which the coordinator has no room
FALSE_S, FALSE_ANSWERS = 5.0, 4  # an agent is called gone after this many answers without a proof, over this long
LAST_OUTPUT_S = 90.0  # so long the last output may take once the gang has ended
AGENT_GRACE_S = 3.0  # what the backend sees counts so long after, if the agents have not told it better


class FalseAnswers:
    """Counts answers without a proof, one after the other: something on the way may have given one in the agent's place."""

    def __init__(self) -> None:
        self.count, self.since = 0, time.monotonic()

    def are_enough(self) -> bool:
        """Counts one more; whether it is clear that the agent is gone."""
        self.since = self.since if self.count else time.monotonic()
        self.count += 1
        return self.count >= FALSE_ANSWERS and time.monotonic() - self.since >= FALSE_S


class Follower:
    """Runs two threads, the backend's watch and the coordinator's stream, and reads both from one queue."""

    def __init__(self, backend: Backend, job: str, replicas: list[str], record: Record | None, view: View, *,
                 start_timeout_s: float | None, upload: Code | None = None, launched: float | None = None,
                 logs: bool = True) -> None:  # fmt: skip
        self.backend, self.record, self.view, self.upload = backend, record, view, upload
        self.state = JobState(job=job, replicas={r: ReplicaState(replica=r, since=time.time()) for r in replicas})
        if launched:
            self.state.times["launched"] = launched
        self.start_timeout_s = start_timeout_s
        self.coordinator = replicas[0]
        self.stop = threading.Event()
        self.news: queue.Queue[tuple[str, Any]] = queue.Queue(256)
        self.doomed: dict[str | None, tuple[float, Observation]] = {}  # since when a replica cannot come, and why
        self.platform: dict[str, Observation] = {}
        self.seen_at: float | None = None  # when the first replica was there to be seen
        self.usage_at = dict.fromkeys(replicas[:USAGE_OF], (time.monotonic(), -math.inf))  # the start, the last record
        self.succeeded_at: float | None = None  # when the backend said that the whole job has succeeded
        self.lost_at: dict[str, float] = {}  # when a replica's pod or process was seen to have failed
        self.silent_since: float | None = None  # since when the coordinator, heard before, does not answer
        self.answered_at = -math.inf  # when the backend answered first while the coordinator was silent
        self.heard = False  # the coordinator's stream has spoken
        self.warned: set[str] = set()
        self.told: set[str] = set()  # replicas whose agents have reported
        self.ended_at: float | None = None  # when the coordinator's stream ended
        self.finished = False
        self.moved_at = time.monotonic()  # when the phase changed, or output came, last
        offsets = {r: record.log_end(r) if record else 0 for r in replicas} if logs else None
        self.listener = Listener(replicas, offsets)
        self.reachable = threading.Event()  # the coordinator is seen running

    def follow(self, deadline: float | None = None) -> JobState:
        """Returns when the job has ended and its output is here; TimedOut is raised at the (monotonic) deadline."""
        began = time.monotonic()
        for work in (self._watch, self._stream):
            threading.Thread(target=self._raising, args=(work,), daemon=True).start()
        try:
            while not self.finished:
                self._take_all()
                if not self.finished:
                    self._judge()
                self.view.show(self.state)
                if deadline and time.monotonic() > deadline and not self.finished:
                    took = round(time.monotonic() - began)
                    raise TimedOut(f"{self.state.job} is still {self.state.phase} after {took}s")
        finally:
            self.stop.set()
        return self.state

    # -- the two sources

    def _put(self, kind: str, value: Any) -> None:
        while not self.stop.is_set():
            try:
                return self.news.put((kind, value), timeout=0.5)
            except queue.Full:
                continue

    def _raising(self, work: Callable[[], None]) -> None:
        """Runs what a thread does; what goes wrong in it, and be it a bug, is raised where follow() was called."""
        try:
            work()
        except Exception as error:
            self._put("error", error)

    def _watch(self) -> None:
        for observation in self.backend.watch(self.state.job, self.stop):
            if observation:
                self._put("seen", observation)

    def _stream(self) -> None:
        """Keeps a stream to the coordinator open, each time from the bytes that are here already."""
        false = FalseAnswers()
        while not self.stop.is_set():
            if not self.reachable.wait(0.2):
                continue
            try:
                agent = self.backend.agent(self.state.job, self.coordinator)
                if self.upload:  # another pod in the coordinator's place needs it again
                    agent.send_code(self.upload)
                for kind, value in self.listener.listen(agent):
                    self.silent_since, false = None, FalseAnswers()
                    self._put(kind, value)
                self._put("end", None)
                return
            except AgentBusy as error:
                self.silent_since = None
                self._do_without_stream(error)
            except AgentUnreachable as error:
                if isinstance(error, NotTheAgent) and false.are_enough():
                    self._put("impostor", error)
                    return
                if isinstance(error, BadAnswer) and self.listener.is_hopeless():
                    error.hint = NO_AGENT_HINT
                    self._put("error", error)
                    return
                self.silent_since = self.silent_since or time.monotonic()
                self.stop.wait(AGAIN_S)

    def _do_without_stream(self, error: AgentBusy) -> None:
        """Asks for the gang's news alone, until there may be room for a stream."""
        self._put("note", f"warning: {error.message}; until then no output is shown here")
        with suppress(AgentUnreachable):
            agent = self.backend.agent(self.state.job, self.coordinator)
            self._put("gang", agent.status(self.state.replicas))
        self.stop.wait(BUSY_S)

    # -- the one reader

    def _take_all(self) -> None:
        """What has come meanwhile, in one go: to judge and show after each would cost replicas times news."""
        with suppress(queue.Empty):
            self._take(*self.news.get(timeout=0.25))
            for _ in range(self.news.maxsize):
                if self.finished:
                    return
                self._take(*self.news.get_nowait())

    def _take(self, kind: str, value: Any) -> None:
        if kind == "seen":
            self.observe(value)
        elif kind == "log":
            self._log(*value)
        elif kind == "gang":
            self.hear(value)
        elif kind == "end":
            self.ended_at = time.monotonic()
            self._finish()
        elif kind == "impostor":
            self.state.gone.add(self.coordinator)
            seen = Observation(replica=self.coordinator, state="failed", message=value.what, hint=value.hint)
            self._end("failed", seen, self.coordinator)
        elif kind == "note" and "stream" not in self.warned:
            self.warned.add("stream")
            self.view.note(value)
        elif kind == "error":
            raise value

    def _finish(self) -> None:
        """The stream has ended: so has the job, once the backend has said why a replica was lost, or does not soon."""
        replica = self._lost_replica()
        unexplained = replica is not None and self.platform[replica].state not in ENDED
        if not unexplained or time.monotonic() - (self.ended_at or 0.0) > REASON_S:
            self.finished = True
            self._explain_lost()

    def _log(self, replica: str, offset: int, data: bytes) -> None:
        self.moved_at = time.monotonic()
        if self.record:
            data = self.record.append_log(replica, offset, data)
        self.view.log(replica, data)

    def hear(self, gang: Gang) -> None:
        """Takes over what the coordinator tells of the gang and of replicas with news."""
        self.heard = True
        state = self.state
        self._hear_of_restarts(gang)
        if state.phase != gang["phase"]:
            self.moved_at = time.monotonic()
            if self.record:
                self.record.event("phase", phase=gang["phase"], result=gang["result"])
        state.phase, state.result = gang["phase"], cast(Result | None, gang["result"])
        state.cause, state.times = gang["cause"], state.times | gang["times"]
        for replica, report in gang["replicas"].items():
            line = state.replicas[replica]
            if report["state"] not in FINISHED and replica in self.platform and self.platform[replica].state in ENDED:
                continue  # said before its pod or process ended
            self.told.add(replica)
            if line.state != report["state"] and self.record:
                self.record.event("replica", replica=replica, state=report["state"], message=report.get("message"),
                                  exit_code=report.get("exit_code"))  # fmt: skip
            line.state, line.since = report["state"], report["since"]
            line.message = report.get("message", "")
            line.progress = report.get("progress") or {}
            self._hear_of_usage(line, report.get("usage") or {})
            line.exit_code = report.get("exit_code")
            line.unkept = report.get("unkept") or {}
            self._warn_of_output(line)
            line.storing, line.stored = report.get("storing", ""), report.get("stored")
            if line.message == LOST:
                self.state.gone.add(replica)
            elif replica not in self.platform or self.platform[replica].state not in ENDED:
                self.state.gone.discard(replica)
        for line in state.replicas.values():
            line.behind_s = gang["behind"].get(line.replica, 0.0)

    def _hear_of_usage(self, line: ReplicaState, usage: dict[str, Any]) -> None:
        """Takes over what the script uses. Of many replicas the first are recorded, and the less often the longer they run."""
        if self.record and usage and usage != line.usage and line.replica in self.usage_at:
            began, last = self.usage_at[line.replica]
            now = time.monotonic()
            if now - last >= max(USAGE_EVERY_S, (now - began) / 300):
                self.usage_at[line.replica] = (began, now)
                gpus, filled = (
                    [gpu[key] for gpu in usage["gpus"] if gpu[key] is not None] for key in ("use", "memory")
                )
                self.record.event("usage", replica=line.replica, cpu=usage["cpu"], memory=usage["memory"],
                                  gpus=gpus or None, gpu_memory=sum(filled) if filled else None)  # fmt: skip
        line.usage = usage

    def _hear_of_restarts(self, gang: Gang) -> None:
        """Tells each restart once; a coordinator that is new knows of its own alone."""
        known = {restart["generation"] for restart in self.state.restarts}
        for restart in gang["restarts"]:
            if restart["generation"] in known:
                continue
            self.state.restarts.append(dict(restart))
            self.view.note(f"restart {restart['generation']} of {gang['restarts_allowed']}: "
                           f"{restart['replica']} {restart['message']}")  # fmt: skip
            if self.record:
                self.record.event("restart", **restart)
            self._begin_again()

    def _begin_again(self) -> None:
        """What the agents told of the former scripts counts no more: until they report anew, the backend's word does."""
        self.told.clear()
        for line in self.state.replicas.values():
            line.state, line.since, line.progress, line.usage = "pending", time.time(), {}, {}
            if line.replica in self.platform:
                self._show_platform(self.platform[line.replica])

    def observe(self, seen: Observation) -> None:
        """Takes over what the backend sees of a replica, or of the whole job."""
        if seen.replica is None:
            if seen.state == "succeeded":
                self.succeeded_at = time.monotonic()
            elif seen.state in ("failed", "gone") or seen.fatal:
                self.doomed.setdefault(None, (time.monotonic(), seen))
            return
        self.seen_at = self.seen_at or time.monotonic()
        before = self.platform.get(seen.replica)
        self.platform[seen.replica] = seen
        if len(self.platform) == len(self.state.replicas):
            self._forget_refusal()
        if seen.state in ("failed", "gone"):
            self.lost_at.setdefault(seen.replica, time.monotonic())
        else:
            self.lost_at.pop(seen.replica, None)
        (self.state.gone.add if seen.state in ENDED else self.state.gone.discard)(seen.replica)
        if self.record and (before is None or (before.state, before.message) != (seen.state, seen.message)):
            self.record.event("pod", replica=seen.replica, state=seen.state, message=seen.message, node=seen.node)
        if seen.fatal:
            first = self.doomed.get(seen.replica)
            self._warn(seen)
            self.doomed[seen.replica] = (first[0] if first else time.monotonic(), seen)
        elif seen.state not in ("gone", "failed"):
            self.doomed.pop(seen.replica, None)
        if seen.replica == self.coordinator and seen.state == "running":
            self.reachable.set()
            if before and before.state != "running":
                self.silent_since = None
        self._show_platform(seen)

    def _forget_refusal(self) -> None:
        """All pods are there: what kept some of them from being created has passed."""
        if None in self.doomed and self.doomed[None][1].patience_s:
            del self.doomed[None]

    def _warn(self, seen: Observation) -> None:
        """Tells what keeps a replica from coming, once for all that it keeps."""
        if seen.message not in self.warned:
            self.warned.add(seen.message)
            self.view.note(f"warning: {seen.replica} {seen.message}")

    def _warn_of_output(self, line: ReplicaState) -> None:
        """Tells once that a replica has no room for its output."""
        if line.unkept and line.replica not in self.warned:
            self.warned.add(line.replica)
            self.view.note(f"warning: {line.replica}'s output cannot all be kept: {line.unkept['why']}")

    def _show_platform(self, seen: Observation) -> None:
        """The backend's word counts in the table until the replica's agent has spoken, and after it is gone."""
        line = self.state.replicas[seen.replica or ""]
        line.node = seen.node or line.node
        ended = line.state in ("succeeded", "failed", "stopped")
        if ended or (line.replica in self.told and seen.state not in ("failed", "gone")):
            return
        shown = "starting" if seen.state == "running" else seen.state
        if line.state != shown:
            line.state, line.since = shown, time.time()
        line.message = seen.message

    def conclude(self) -> None:
        """Where no agent answers, the job's end is what its pods or processes say."""
        states = {seen.state for seen in self.platform.values()}
        whole = self.doomed[None][1] if None in self.doomed else None
        if self.succeeded_at is not None:
            self._succeed()
        elif len(self.platform) == len(self.state.replicas) and states <= {"succeeded", "failed", "gone"}:
            self.state.result = "succeeded" if states == {"succeeded"} else "failed"
            failed = self._first_failed()
            if failed and self.state.result == "failed":
                self.state.cause = {"replica": failed.replica, "message": failed.message, "hint": failed.hint}
        elif whole and whole.state == "failed" and states <= set(ENDED):
            self._end("failed", self._first_failed() or self._without_pods(whole), None)

    def _succeed(self) -> None:
        """The backend's word that all replicas have succeeded; what they left is gone with their pods."""
        self.state.result, self.finished = self.state.result or "succeeded", True
        self._mark_gone()
        for line in self.state.replicas.values():
            if self.state.result == "succeeded":
                line.state = "succeeded"

    def _mark_gone(self) -> None:
        """Marks the replicas of an ended job that have no pod any more."""
        for line in self.state.replicas.values():
            if line.replica not in self.platform or self.platform[line.replica].state == "gone":
                self.state.gone.add(line.replica)
                if line.replica not in self.told:
                    line.state, line.message = "gone", NO_POD

    def _without_pods(self, whole: Observation) -> Observation:
        """Why the job failed, as far as the backend knows it without the pods that could tell more."""
        self._mark_gone()
        if not self.state.without_pods:
            return whole
        where = f"what it printed, if it was followed or fetched: runs/{self.state.job}/logs"
        return replace(whole, message=f"{whole.message}; {self.state.without_pods}", hint=whole.hint or where)

    def _judge(self) -> None:
        """Ends what no agent will end: replicas that cannot come, a coordinator that is gone, pods without agents."""
        if self.ended_at is not None:
            return self._finish()
        if self.state.phase == "ended" and time.monotonic() - self.moved_at > LAST_OUTPUT_S:
            self.ended_at = time.monotonic()
        if self.succeeded_at is not None:
            if time.monotonic() - max(self.succeeded_at, self.moved_at) > AGENT_GRACE_S:
                self._succeed()
            return
        if self.state.phase in ("pending", *STARTING):
            self._judge_start()
        since, whole = self.doomed.get(None, (0.0, None))
        if whole and time.monotonic() - since > AGENT_GRACE_S and not self.finished:
            if whole.state == "gone":
                self._end("failed", whole, None)
            elif whole.state == "failed" and not self._ended_by_agents():
                self._end("failed", self._first_failed() or self._without_pods(whole), None)
        for replica, since in self.lost_at.items():
            if time.monotonic() - since > LOST_PATIENCE_S and not self._ended_by_agents() and not self.finished:
                self._end("failed", self.platform[replica], replica)
        silent_since = self.silent_since or time.monotonic()
        if self.heard and time.monotonic() - silent_since > self._silence_s() and not self.finished:
            self._judge_silence(silent_since)
        coordinator = self.platform.get(self.coordinator)
        if coordinator and coordinator.state in ENDED and not self.finished:
            self._judge_without_coordinator()

    def _judge_start(self) -> None:
        for replica, (since, seen) in self.doomed.items():
            patience_s = seen.patience_s
            if seen.state == "pending" and patience_s and self.start_timeout_s is not None:
                patience_s = self.start_timeout_s
            if seen.fatal and time.monotonic() - since >= patience_s:
                self._end("failed", seen, replica)
                return
        limit_s = DEFAULT_START_TIMEOUT_S if self.start_timeout_s is None else self.start_timeout_s
        if self.seen_at and not self.heard and time.monotonic() - self.seen_at > limit_s + AGENT_GRACE_S:
            waits = self.platform.get(self.coordinator) or next(iter(self.platform.values()))
            why = f": {waits.message or 'it is ' + waits.state}"
            self._end("timeout", replace(waits, message=f"did not start within {limit_s:g} s{why}"), waits.replica)

    def _silence_s(self) -> float:
        """How long the coordinator may be silent: longer while another pod takes its place."""
        coordinator = self.platform.get(self.coordinator)
        if coordinator and coordinator.state in ("pending", "starting"):
            return (self.start_timeout_s or DEFAULT_START_TIMEOUT_S) + SILENCE_S
        return SILENCE_S

    def _judge_silence(self, silent_since: float) -> None:
        """A coordinator that stays silent is lost, if the backend itself answers."""
        has_answered = self.answered_at > silent_since
        if has_answered and time.monotonic() - self.answered_at < ANSWERS_S:
            return
        try:
            self.backend.find(self.state.job)
        except ClusterError:
            self.silent_since = time.monotonic() + STREAM_IDLE_S  # a stream that was begun meanwhile may hang so long
            return
        if not has_answered:
            self.answered_at = time.monotonic()
            return
        self.state.gone.add(self.coordinator)
        self._end("failed", Observation(replica=self.coordinator, state="failed", message=LOST), self.coordinator)

    def _judge_without_coordinator(self) -> None:
        """The coordinator's own end is told by its stream first; what it did not tell is taken from the pods."""
        states = [self.platform[r].state if r in self.platform else "pending" for r in self.state.replicas]
        since = self.doomed.setdefault(self.coordinator, (time.monotonic(), self.platform[self.coordinator]))[0]
        if all(state == "succeeded" for state in states) and not self.heard:
            self.state.result, self.finished = "succeeded", True
            for line in self.state.replicas.values():
                line.state = "succeeded"
        elif time.monotonic() - since > (AGENT_GRACE_S if self.heard else 1.0):
            if self.state.result:
                self.finished = True  # it was decided, and only the last output is missing
                self._explain_lost()
            else:
                self._end("failed", self._first_failed() or self.platform[self.coordinator], self.coordinator)

    def _explain_lost(self) -> None:
        """A replica whose agent fell silent: why, the backend may know."""
        cause, replica = self.state.cause, self._lost_replica()
        seen = self.platform[replica] if replica else None
        if cause and seen and replica and seen.state in ("failed", "gone"):
            cause.update(message=seen.message, hint=seen.hint)
            self.state.replicas[replica].message = seen.message

    def _lost_replica(self) -> str | None:
        """The replica whose loss was the cause, if it was one, and the backend knows the replica."""
        cause = self.state.cause or {}
        lost = cause.get("message") in (LOST, TERMINATED) and cause.get("replica") in self.platform
        return str(cause["replica"]) if lost else None

    def _first_failed(self) -> Observation | None:
        return next((o for o in self.platform.values() if o.state == "failed"), None)

    def _ended_by_agents(self) -> bool:
        return self.heard and self.state.phase in ("stopping", "ended")

    def _end(self, result: Result, seen: Observation, replica: str | None) -> None:
        name = seen.replica or replica
        if name and not seen.fatal:
            self.state.replicas[name].state = "failed"
        self.state.result = result
        self.state.cause = {"replica": name, "message": seen.message, "hint": seen.hint, "exit_code": None,
                            "never_ran": seen.fatal, "no_room": seen.fatal and seen.state == "pending",
                            "never_whole": seen.fatal and len(self.platform) < len(self.state.replicas)}  # fmt: skip
        self.finished = True


def reachable_agents(backend: Backend, state: JobState) -> dict[str, AgentClient]:
    """The agents that answer; one whose pod or process has ended is not asked.

    Where training succeeded, all have something to bring back, and a silent one is waited for; else those whose scripts
    were seen running.
    """

    def answering(replica: str) -> AgentClient | None:
        try:
            agent = backend.agent(state.job, replica)
            agent.ping()
        except AgentUnreachable as error:
            if isinstance(error, NotTheAgent) and false[replica].are_enough():
                waited_for.discard(replica)
            return None
        return agent

    deadline = time.monotonic() + ANSWER_WITHIN_S
    candidates = [replica for replica in state.replicas if replica not in state.gone]
    waited_for = {
        replica for replica in candidates
        if state.result == "succeeded" or state.replicas[replica].state in ("running", *FINISHED)
    }  # fmt: skip
    found: dict[str, AgentClient] = {}
    false = {replica: FalseAnswers() for replica in candidates}
    while True:
        missing = [replica for replica in candidates if replica not in found]
        found |= {agent.replica: agent for agent in each(answering, missing, PARALLEL) if agent}
        if waited_for <= found.keys() or time.monotonic() > deadline:
            return {replica: found[replica] for replica in candidates if replica in found}
        time.sleep(0.5)


def complete_logs(
    backend: Backend, state: JobState, agents: Mapping[str, AgentClient], record: Record, view: View
) -> tuple[list[str], dict[str, str]]:
    """Brings every replica's log to its end, and shows that, from its agent or else the backend.

    Returns whose log could not be had at all, and why those could not be had whole whose agents did answer.
    """
    showing = threading.Lock()
    broken: dict[str, str] = {}

    def complete(replica: str) -> bool:
        try:
            if replica in agents:
                for fresh in _log_from_agent(agents[replica], record):
                    with showing:
                        view.log(replica, fresh)
                return True
        except AgentUnreachable as error:
            broken[replica] = error.message
        data = backend.last_output(state.job, replica)
        record.replace_log(replica, data or b"")
        return data is not None or record.log_path(replica).exists()

    had = dict(zip(state.replicas, each(complete, state.replicas, PARALLEL), strict=True))
    return [replica for replica, was_had in had.items() if not was_had], broken


def _log_from_agent(agent: AgentClient, record: Record) -> Iterator[bytes]:
    """Adds the rest of a log to the record, and gives it."""
    free = shutil.disk_usage(record.folder).free
    for offset, data in agent.rest_of_log(record.log_end(agent.replica), free, tries=5):
        yield record.append_log(agent.replica, offset, data)
