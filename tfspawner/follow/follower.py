"""Follows a job to its end: reads the backend's watch and the coordinator's stream, and asks the judge."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tfspawner.backends.base import Backend, Observation
from tfspawner.backends.client import STREAM_IDLE_S
from tfspawner.base.states import PodState
from tfspawner.errors import AgentBusy, AgentUnreachable, BadAnswer, ClusterError, NotTheAgent, TimedOut
from tfspawner.plan.code import Code
from tfspawner.record.writing import Record

from .bookkeeping import Bookkeeper
from .judge import FalseAnswers, Step, judge
from .listening import Listener
from .state import JobState, ReplicaState, View

NO_AGENT_HINT = "something else may have taken the agent's place: trust nothing that comes from there"
AGAIN_S = 0.2  # how long to wait before a stream that broke off is opened again
BUSY_S = 5.0  # the same for one that the coordinator refused for lack of memory


class Follower:
    """Runs two threads, the backend's watch and the coordinator's stream, and reads both from one queue.

    state: what is known of the job already, if anything is.
    """

    def __init__(
        self,
        backend: Backend,
        job: str,
        replicas: list[str],
        record: Record | None,
        view: View,
        *,
        start_timeout_s: float | None,
        upload: Code | None = None,
        launched: float | None = None,
        logs: bool = True,
        state: JobState | None = None,
    ) -> None:
        self.backend, self.view, self.upload = backend, view, upload
        lines = {replica: ReplicaState(replica=replica, since=time.time()) for replica in replicas}
        self.state = state or JobState(job=job, replicas=lines)
        if launched:
            self.state.times["launched"] = launched
        self.books = Bookkeeper(self.state, record, view, start_timeout_s)
        self.facts = self.books.facts
        self.coordinator = replicas[0]
        self.stop = threading.Event()
        self.news: queue.Queue[tuple[str, Any]] = queue.Queue(256)
        self.finished = False
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
        """Does a thread's work. Its errors, even bugs, are raised in follow()."""
        try:
            work()
        except Exception as error:
            self._put("error", error)

    def _watch(self) -> None:
        for observation in self.backend.watch(self.state.job, self.stop):
            if observation:
                self._put("seen", observation)

    def _stream(self) -> None:
        """Keeps a stream to the coordinator open; each one continues after the bytes that are already here."""
        false_answers = FalseAnswers()
        while not self.stop.is_set():
            if not self.reachable.wait(0.2):
                continue
            try:
                agent = self.backend.agent(self.state.job, self.coordinator)
                if self.upload:  # another pod in the coordinator's place needs it again
                    agent.send_code(self.upload)
                for kind, value in self.listener.listen(agent):
                    self.facts.silent_since, false_answers = None, FalseAnswers()
                    self._put(kind, value)
                self._put("end", None)
                return
            except AgentBusy as error:
                self.facts.silent_since = None
                self._do_without_stream(error)
            except AgentUnreachable as error:
                if isinstance(error, NotTheAgent) and false_answers.are_enough(time.monotonic()):
                    self._put("impostor", error)
                    return
                if isinstance(error, BadAnswer) and self.listener.is_hopeless():
                    error.hint = NO_AGENT_HINT
                    self._put("error", error)
                    return
                self.facts.silent_since = self.facts.silent_since or time.monotonic()
                self.stop.wait(AGAIN_S)

    def _do_without_stream(self, error: AgentBusy) -> None:
        """Asks only for the gang's news, until the coordinator may be able to take a stream."""
        self._put("busy", error)
        with suppress(AgentUnreachable):
            agent = self.backend.agent(self.state.job, self.coordinator)
            self._put("gang", agent.status(self.state.replicas))
        self.stop.wait(BUSY_S)

    # -- the one reader

    def _take_all(self) -> None:
        """Takes all news at once: judging and showing after each piece would cost replicas times news."""
        with suppress(queue.Empty):
            self._take(*self.news.get(timeout=0.25))
            for _ in range(self.news.maxsize):
                if self.finished:
                    return
                self._take(*self.news.get_nowait())

    def _take(self, kind: str, value: Any) -> None:
        if kind == "seen":
            self.books.observe(value)
            if value.replica == self.coordinator and value.state == PodState.RUNNING:
                self.reachable.set()
        elif kind == "log":
            self.books.log(*value)
        elif kind == "gang":
            self.books.hear(value)
        elif kind == "busy":
            self.books.warn("stream", f"{value.message}; until then no output is shown here")
        elif kind == "end":
            self.facts.stream_ended_at = time.monotonic()
            self._judge()
        elif kind == "impostor":
            seen = Observation(replica=self.coordinator, state=PodState.FAILED, message=value.what, hint=value.hint)
            self.facts.impostor = seen
            self._judge()
        elif kind == "error":
            raise value

    def _judge(self) -> None:
        """Ends the following if the judge says so; first does the step that the judge needs."""
        while isinstance(verdict := judge(self.facts, time.monotonic()), Step):
            if verdict is Step.STOP_LISTENING:
                self.facts.stream_ended_at = time.monotonic()
            else:
                self._ask_backend()
        if verdict:
            self.books.end(verdict)
            self.finished = True

    def _ask_backend(self) -> None:
        """Asks whether the backend itself answers while the coordinator is silent."""
        try:
            self.backend.find(self.state.job)
        except ClusterError:  # the coordinator's stream may have begun meanwhile, and hang as long
            self.facts.silent_since = time.monotonic() + STREAM_IDLE_S
        else:
            self.facts.hear_backend(time.monotonic())
