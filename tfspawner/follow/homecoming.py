"""Brings a job home: logs, files and report go into the run's record before the job is released or removed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from dataclasses import replace
from typing import Literal, NoReturn

from tfspawner.backends.base import Backend
from tfspawner.base.states import Result
from tfspawner.errors import (
    AgentUnreachable,
    ArtifactError,
    Command,
    Hint,
    Interrupted,
    NotFoundError,
    SpawnerError,
    TimedOut,
)
from tfspawner.record.writing import Record
from tfspawner.replica.protocol import SHORT_HOLD_S, STARTING

from .agents import left_of, seen_running
from .bringing import bring_home
from .follower import Follower
from .outcome import Outcome
from .state import JobState, ReplicaState, View

DELETE_TIMEOUT_S = 120.0
STOP_WITHIN_S = 30.0  # how long a job that was told to stop has to end
HEAR_WITHIN_S = 5.0  # how long an agent whose process runs has to take the order to stop


def with_name(error: SpawnerError, job: str) -> SpawnerError:
    """The error, with the job's name added to each command of its hint that lacks one."""
    error.hint = error.hint and Hint(error.hint).for_job(job)
    return error


def still_there(error: SpawnerError, job: str) -> SpawnerError:
    """The error with a hint that the job is still there, and what to do with it."""
    with_name(error, job)
    there = Hint(f"job {job} is still there: ", Command("fetch", job), ", or ", Command("delete", job))
    if there not in (error.hint or ""):
        error.hint = Hint(error.hint, "; ", there) if error.hint else there
    return error


class Homecoming:
    """Brings a job home whatever its result and whoever ends it: all that is there is here, or the job stays.

    Ctrl-C stops a job as a failure does, and what it has still comes; a second one does not wait for that.
    """

    def __init__(self, backend: Backend, job: str, id: str, replicas: list[str], record: Record, view: View) -> None:
        self.backend, self.job, self.id, self.replicas = backend, job, id, replicas
        self.record, self.view = record, view
        self.state: JobState | None = None  # once it is followed
        self.outcome: Outcome | None = None
        self.missing: ArtifactError | None = None  # why not all that is there could come
        self.is_interrupted = False
        self.given_up = threading.Event()

    @property
    def is_home(self) -> bool:
        return self.outcome is not None and self.missing is None

    def bring(self, state: JobState, ends_by: float | None = None) -> Outcome:
        """Brings home what is there. `missing` then says what could not come, and the job holds that.

        A thread of its own does it, so that a first Ctrl-C does not break it off.
        """
        self.state = state
        done, failures = threading.Event(), []

        def work() -> None:
            try:
                self.outcome, self.missing = bring_home(
                    self.backend, state, self.record, self.view, self.given_up, ends_by
                )
            except BaseException as error:
                failures.append(error)
            done.set()

        threading.Thread(target=copy_context().run, args=(work,), daemon=True).start()  # a cell's output goes by it
        while not done.is_set():
            try:
                done.wait(0.5)
            except KeyboardInterrupt:
                self._wait_on()
        if failures:
            raise failures[0]
        assert self.outcome
        if self.missing:
            with_name(self.missing, self.job)
        if self.missing and state.result:
            self._ask_to_hold()
        return self.outcome

    def _wait_on(self) -> None:
        """What Ctrl-C does while files come: the first one is noted, the second one is raised."""
        if self.is_interrupted:
            self.given_up.set()
            raise KeyboardInterrupt
        self.is_interrupted = True
        self.view.note(f"\ninterrupted: still fetching the files of job {self.job}; Ctrl-C again to quit at once")

    def _ask_to_hold(self) -> None:
        """Makes a failed job hold its files as long as a successful one, because some are missing here."""
        with suppress(AgentUnreachable):
            self.backend.agent(self.job, self.replicas[0]).keep()

    def remove(self) -> None:
        """Removes the job once all of it is here."""
        self.record.event("removing")
        with suppress(NotFoundError):  # given back meanwhile
            self.backend.delete(self.job, DELETE_TIMEOUT_S, self.id, self.view.note)
        self.record.event("deleted")

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Within this, Ctrl-C ends the job and raises Interrupted once it is home; errors then mention the job left."""
        try:
            yield
        except KeyboardInterrupt:
            if self.is_interrupted:  # by a first one while the files came
                raise self._left("removing" if self.is_home else "bringing") from None
            self._interrupted()
        except SpawnerError as error:
            if isinstance(error, ArtifactError):  # the record cannot be written, and the job goes on
                self._ask_to_hold()
            raise still_there(error, self.job) from None
        if self.is_interrupted:
            raise self._interruption()

    def _interrupted(self) -> NoReturn:
        self.is_interrupted, doing = True, "telling"
        try:
            if not self.is_home:
                with suppress(ArtifactError):  # a record on a full disk keeps no job from being stopped
                    self.record.event("interrupted")
                stopped, doing = self._stop(), "stopping"
                self.view.note(f"\nstopping job {self.job} and fetching its files; Ctrl-C again to quit at once")
                ends_by = time.monotonic() + (STOP_WITHIN_S if stopped == "has begun" else 0.0)
                state, doing = self._follow_to_the_end(ends_by) if stopped == "has begun" else None, "bringing"
                if stopped == "silent":
                    state = self._as_it_was()
                if state:
                    self.bring(state, ends_by)
                if stopped == "silent" and not self.missing:  # all is here so far, and it may still run
                    self.missing = ArtifactError(f"{self.replicas[0]} does not answer, and the job may still run")
            if not self.missing:
                doing = "removing"
                self.remove()
        except KeyboardInterrupt:
            raise self._left(doing) from None
        except SpawnerError as error:
            raise still_there(error, self.job) from None
        raise self._interruption()

    def _stop(self) -> Literal["has begun", "has not begun", "silent"]:
        """Tells the gang to stop. Returns whether a script has begun, so that there is something to bring home."""
        deadline = time.monotonic() + HEAR_WITHIN_S
        while True:
            try:
                before = self.backend.agent(self.job, self.replicas[0]).stop()
                has_begun = before["phase"] not in STARTING or before["generation"] > 0
            except AgentUnreachable:
                if not seen_running(self.backend, self.job, self.replicas[:1]):
                    has_begun = self.state is not None and "running" in self.state.times
                elif time.monotonic() > deadline:
                    return "silent"
                else:
                    time.sleep(0.2)
                    continue
            return "has begun" if has_begun else "has not begun"

    def _as_it_was(self) -> JobState:
        """What is known about a job that cannot be reached to be stopped."""
        state = self.state or JobState(job=self.job, replicas={r: ReplicaState(replica=r) for r in self.replicas})
        state.result = state.result or Result.INTERRUPTED
        return state

    def _follow_to_the_end(self, ends_by: float) -> JobState:
        known = self.state and replace(self.state, result=None)  # so that nothing is shown again
        follower = Follower(
            self.backend, self.job, self.replicas, self.record, self.view, start_timeout_s=None, state=known
        )
        with suppress(TimedOut, ArtifactError):
            follower.follow(deadline=ends_by)
        follower.state.result = follower.state.result or Result.INTERRUPTED
        return follower.state

    def _interruption(self) -> Interrupted:
        """The error after the first Ctrl-C."""
        if self.missing:
            interruption = Interrupted(f"interrupted; job {self.job} is kept: not all of its files could be fetched")
            interruption.missing = self.missing
            still_there(self.missing, self.job)
        elif self.outcome:
            interruption = Interrupted(
                f"interrupted; job {self.job} is removed, what it had is in {self.record.folder}"
            )
        else:
            interruption = Interrupted(
                f"interrupted; job {self.job} is removed, its logs so far are in {self.record.logs}"
            )
        interruption.outcome = self.outcome
        return interruption

    def _left(self, doing: str) -> Interrupted:
        """The error after the second Ctrl-C: what was given up, and how to go on."""
        job = self.job
        on = Hint("bring it home: ", Command("fetch", job), "; and then: ", Command("delete", job))
        if doing == "removing":
            return Interrupted(
                f"interrupted; the removing of job {job} was cut short, and some of it may be left",
                hint=Hint(Command("delete", job)),
            )
        if doing == "telling":
            return Interrupted(f"interrupted; job {job} may go on, and what it has written is not all here", hint=on)
        if doing == "stopping":
            return Interrupted(
                f"interrupted; job {job} was stopped without waiting: files may be missing here; "
                f"the job keeps them for {SHORT_HOLD_S / 60:g} minutes",
                hint=on,
            )
        held_for = (
            "--hold" if self.state and self.state.result == Result.SUCCEEDED else f"{SHORT_HOLD_S / 60:g} minutes"
        )
        return Interrupted(
            f"interrupted; files of job {job} are missing here; the job keeps them for {held_for}", hint=on
        )


def release_agents(backend: Backend, state: JobState) -> None:
    """Lets a job's agents end, since everything is here."""
    with suppress(AgentUnreachable):  # it has ended already
        backend.agent(state.job, next(iter(state.replicas))).release()
    mark_fetched(backend, state)


def mark_fetched(backend: Backend, state: JobState) -> None:
    """Marks the files that killed agents left behind as fetched."""
    for left in left_of(backend, state.job, state.replicas).values():
        left.mark_fetched()
