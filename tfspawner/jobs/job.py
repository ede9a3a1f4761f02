"""One job from its spec to its files: prepare, launch, follow, collect. `run` and `attach` are the Python API."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from tfspawner.backends.base import Backend, JobSummary
from tfspawner.backends.choice import backend_of
from tfspawner.base.states import Phase
from tfspawner.base.threads import each
from tfspawner.errors import (
    AgentUnreachable,
    ArtifactError,
    BadAnswer,
    ClusterError,
    Command,
    Hint,
    Interrupted,
    SpawnerError,
)
from tfspawner.follow.agents import PARALLEL, left_of, seen_running
from tfspawner.follow.bookkeeping import Bookkeeper
from tfspawner.follow.earlier import all_here, came_before
from tfspawner.follow.follower import Follower
from tfspawner.follow.homecoming import DELETE_TIMEOUT_S, Homecoming, mark_fetched, release_agents
from tfspawner.follow.judge import conclude
from tfspawner.follow.outcome import Outcome
from tfspawner.follow.state import JobState, ReplicaState, Silent, View
from tfspawner.record.reading import read_id
from tfspawner.record.writing import Record
from tfspawner.replica.protocol import STARTING
from tfspawner.views.choice import in_kernel

MOST_LOG_BYTES = 4 << 30  # of one replica's log that are read into memory
RUNNING = ("queued", "pending", "starting", "running", "stopping")  # states in a summary of a job that has not ended


@dataclass(frozen=True, slots=True)
class Job:
    """A launched job, on whatever machine it was launched."""

    name: str
    backend: Backend
    replicas: tuple[str, ...]
    launched: float | None = None

    def check_whole(self, summary: JobSummary | None = None) -> None:
        """Raises ClusterError if the job's replicas are not known, or its summary says that parts of it are missing."""
        if self.replicas and not (summary and summary.state == "incomplete"):
            return
        wrong = (summary or self.backend.find(self.name)).warning
        why = f"cannot be asked: {wrong}" if wrong else "was not launched whole, and will not run"
        raise ClusterError(f"job {self.name} {why}", hint=Hint(Command("delete", self.name)))

    def status(self) -> JobState:
        """What the job's replicas are doing: by the coordinator's agent, or else by what the backend sees."""
        self.check_whole()
        times = {"launched": self.launched} if self.launched else {}
        lines = {replica: ReplicaState(replica=replica) for replica in self.replicas}
        state = JobState(job=self.name, replicas=lines, times=times)
        books = Bookkeeper(state, None, Silent())
        stop = threading.Event()
        for observation in self.backend.watch(self.name, stop):
            if observation is None:
                stop.set()
            else:
                books.observe(observation)
        try:
            if self.replicas[0] in state.gone:
                raise AgentUnreachable(f"{self.replicas[0]} has ended")
            books.hear(self.backend.agent(self.name, self.replicas[0]).status(self.replicas))
        except AgentUnreachable as error:
            if end := conclude(books.facts):
                books.end(end)
            if isinstance(error, BadAnswer):
                state.replicas[self.replicas[0]].message = error.message
        return state

    def logs(self, replica: str | None = None) -> dict[str, bytes]:
        """The output so far of one replica, or of all; without replicas whose output is gone."""
        self.check_whole()
        replicas = [replica] if replica else list(self.replicas)
        logs = each(self._whole_log, replicas, PARALLEL)
        return {name: data for name, data in zip(replicas, logs, strict=True) if data is not None}

    def _whole_log(self, replica: str) -> bytes | None:
        try:
            pieces = list(self.log(replica, MOST_LOG_BYTES))
            return b"".join(pieces) if pieces else None
        except AgentUnreachable:
            return self.backend.last_output(self.name, replica)

    def log(self, replica: str, most: int = sys.maxsize) -> Iterator[bytes]:
        """The output so far of one replica, in pieces: none if it is gone, an empty one if there was no output.

        If it is longer than `most` bytes, the backend's own copy is used. Raises AgentUnreachable if it breaks off.
        """
        self.check_whole()
        came = False
        try:
            for _, data in self.backend.agent(self.name, replica).rest_of_log(0, most):
                yield data
                came = True
        except AgentUnreachable:
            if came:
                raise
            kept = self.backend.last_output(self.name, replica)
            if kept is not None:
                yield kept

    def _follower(self, view: View, *, logs: bool = True) -> Follower:
        return Follower(
            self.backend,
            self.name,
            list(self.replicas),
            None,
            view,
            start_timeout_s=None,
            launched=self.launched,
            logs=logs,
        )

    def wait(self, view: View | None = None, timeout_s: float | None = None, *, logs: bool = True) -> JobState:
        """Returns when the job has ended; the job keeps its files. Raises TimedOut after timeout_s.

        logs: also get the replicas' output. A notebook shows it.
        """
        if view is None and in_kernel():
            from tfspawner.views.notebook import shown

            return shown(self.name, lambda cell: self.wait(cell, timeout_s))
        self.check_whole(self.backend.find(self.name))
        view = view or Silent()
        follower = self._follower(view, logs=logs)
        state = follower.follow(deadline=None if timeout_s is None else time.monotonic() + timeout_s)
        if logs and not follower.facts.heard:  # its agents are gone, so show the output that the backend has
            for replica in self.replicas:
                view.log(replica, self.backend.last_output(self.name, replica) or b"")
        view.finish()
        return state

    def fetch(self, out: Path | str = "runs", view: View | None = None, *, release: bool = True) -> Outcome:
        """Brings the job's logs and files to out/<job>. Once all are here, a job that has ended may end its pods."""
        summary = self.backend.find(self.name)
        id = summary.id or read_id(Path(out) / self.name) or ""  # a half-removed job has lost its id
        record = Record(Path(out) / self.name, id)
        view = view or Silent()
        record.tell_aside(view.note)
        home = Homecoming(self.backend, self.name, id, list(self.replicas), record, view)
        home.is_interrupted = True  # here Ctrl-C ends only the fetching
        try:
            before = came_before(record) if summary.id or summary.is_bare else None  # else it may be another job's
            if before:
                if release:
                    home.remove()
                return before
            self.check_whole(summary)
            before, state = all_here(record) if summary.id else None, self.status()
            if before and state.result and not self._answers():
                return before
            if state.phase == Phase.STOPPING:  # its scripts may still write
                view.note(f"job {self.name} is stopping; its end is waited for")
                state = self._follower(Silent(), logs=False).follow()
            outcome = home.bring(state)
            if all(files.replica in outcome.earlier for files in outcome.collected) and not home.missing:
                home.missing = ArtifactError(
                    f"no replica of job {self.name} answers, and nothing of it could be fetched"
                )
            if home.missing:
                home.missing.outcome = outcome
                home.missing.hint = home.missing.hint or (
                    "if they were fetched before, or the hold time is over, they are gone; a longer one: --hold 48h"
                )
                raise home.missing
            if release and state.phase == Phase.ENDED:
                release_agents(self.backend, state)
            elif release and state.result:
                mark_fetched(self.backend, state)
            return outcome
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted; what has come of job {self.name} is in {record.folder}, and nothing of it was removed",
                hint=Hint("to go on there: ", Command("fetch", self.name)),
            ) from None
        finally:
            record.close()

    def _answers(self) -> bool:
        try:
            self.backend.agent(self.name, self.replicas[0]).ping()
        except AgentUnreachable:
            return False
        return True

    def is_unfetched(self) -> bool:
        """Whether its script has begun and not all its files were fetched; True if an agent runs but is silent."""
        if not self.replicas:
            return False
        try:
            brief = self.backend.agent(self.name, self.replicas[0]).brief(self.replicas, timeout_s=2)
        except SpawnerError:
            left_files = left_of(self.backend, self.name, self.replicas)
            runs = seen_running(self.backend, self.name, [self.replicas[0]])
            return bool(runs) or any(files.is_missed() for files in left_files.values())
        return brief["phase"] not in STARTING and not brief["released"]

    def delete(self, timeout_s: float = DELETE_TIMEOUT_S, note: Callable[[str], None] | None = None) -> None:
        """Ends the job and removes all of it; returns when it is gone, and calls note with what holds it up."""
        self.backend.delete(self.name, timeout_s, note=note)


def attach(
    name: str,
    *,
    on: str | None = None,
    namespace: str | None = None,
    context: str | None = None,
    kubeconfig: Path | None = None,
) -> Job:
    """The job of that name: on this machine, or else on the cluster. Raises NotFoundError."""
    backend = backend_of(name, on, namespace=namespace, context=context, kubeconfig=kubeconfig)
    summary = backend.find(name)
    return Job(name, backend, tuple(summary.replicas), summary.created)


def summaries(backend: Backend) -> list[JobSummary]:
    """The backend's jobs; asks the coordinators of running ones whether they have ended and hold files."""

    def refine(summary: JobSummary) -> JobSummary:
        if summary.state != "running":
            return summary
        try:
            brief = backend.agent(summary.job, summary.replicas[0]).brief(summary.replicas, timeout_s=2)
        except BadAnswer as error:
            return replace(summary, warning=f"job {summary.job}: {error.message}")
        except SpawnerError:
            return summary
        state = "starting" if brief["phase"] in STARTING else brief["phase"]
        if brief["phase"] == "ended":
            state = f"{brief['result']}, {'fetched' if brief['released'] else 'to be fetched'}"
        return replace(summary, state=state, brief=dict(brief))

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(refine, backend.jobs()))


def running(backend: Backend) -> list[JobSummary]:
    """The backend's jobs that have not ended."""
    return [summary for summary in summaries(backend) if summary.state in RUNNING]
