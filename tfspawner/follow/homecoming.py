"""A job's way home: its logs, files and report come into the run's record before anything of it is released or removed."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import copy_context
from dataclasses import asdict, replace
from typing import Any, Literal, NoReturn, get_args

from tfspawner.agent import FINISHED, LOST, SHORT_HOLD_S, STARTING
from tfspawner.backends.base import Backend, KeepsFiles, Left
from tfspawner.backends.client import AgentClient, Holder
from tfspawner.base.names import shown
from tfspawner.base.shapes import DamagedFile
from tfspawner.base.threads import each
from tfspawner.errors import (
    AgentUnreachable,
    ArtifactError,
    ClusterError,
    Interrupted,
    NotFoundError,
    SpawnerError,
    TimedOut,
)
from tfspawner.record.causes import explained
from tfspawner.record.reading import read_events, read_report
from tfspawner.record.writing import Record

from .collect import Collected, collect
from .follower import PARALLEL, Follower, complete_logs, reachable_agents
from .landing import Landing
from .outcome import Outcome
from .state import JobState, ReplicaState, Result, View, shortened

DELETE_TIMEOUT_S = 120.0
STOP_WITHIN_S = 30.0  # in which a job that was told to stop has to end
# In which scripts end that are not told to: their agents miss the coordinator for 29 s before they stop them.
SCRIPTS_END_S = 45.0
UNKNOWN = "it cannot be known whether the script has ended"
HEAR_WITHIN_S = 5.0  # in which an agent whose process runs has to take the order to stop
SEE_WITHIN_S = 5.0  # in which the backend has to see that a silent replica has ended


def bring_home(
    backend: Backend,
    state: JobState,
    record: Record,
    view: View,
    given_up: threading.Event | None = None,
    ends_by: float | None = None,
) -> tuple[Outcome, ArtifactError | None]:
    """Brings the rest of the logs and all files, and writes the report; and why not all that is there could come.

    What was lost with a replica of a job that failed cannot come, and is only mentioned; but a replica counts as lost
    only if the backend says that its process or pod has ended. Scripts of a job that has ended have until ends_by
    (monotonic) to end, too: what they write last is to come. given_up ends the collecting.
    """
    errors: list[ArtifactError] = []
    agents = reachable_agents(backend, state)
    holders = _holders(backend, state, agents)
    until = time.monotonic() + SCRIPTS_END_S if ends_by is None else ends_by
    busy, gone = _busy(backend, holders, state, view, until, given_up)
    if gone:
        agents = {replica: agent for replica, agent in agents.items() if replica not in gone}
        holders = _holders(backend, state, agents)
    without_log: list[str] = []
    broken: dict[str, str] = {}
    try:
        without_log, broken = complete_logs(backend, state, agents, record, view)
    except ArtifactError as error:
        errors.append(error)
    collected, unfinished = collect(list(holders.values()), record.files, _counting(view, given_up))
    errors += unfinished
    for found in collected:
        if found.skipped:
            view.note(f"warning: {found.replica}: links and devices do not travel: "
                      f"{', '.join(map(shown, found.skipped[:5]))}")  # fmt: skip
    for line in state.replicas.values():
        if line.unkept:
            view.note(f"warning: {line.unkept['bytes']:,} bytes of {line.replica}'s output could not be kept there: "
                      f"{line.unkept['why']}")  # fmt: skip
    if without_log and state.result == "succeeded":
        view.note(f"warning: no log of {', '.join(without_log[:5])} could be had")
    silent = [replica for replica in state.replicas if replica not in holders]
    earlier, were_whole = _came_earlier(record, silent)
    errors += _without_log(backend, state, broken, view)
    errors += _without_answer(backend, state, [replica for replica in silent if replica not in were_whole], view)
    errors += dict.fromkeys(busy.values())  # one stands for all who do the same
    whole = were_whole | {
        c.replica for c in collected if state.result and not c.refused and c.replica not in {*busy, *broken}
    }
    outcome = _outcome(state, record, collected, earlier, frozenset(whole))
    try:
        record.event("collected", files=sum(len(replica.files) for replica in outcome.collected))
        _write_report(outcome, state, record, view, errors[0] if errors else None)
    except ArtifactError as error:
        errors.append(error)
    for other in errors[1:]:
        view.note(f"warning: {other.message}")
    return outcome, errors[0] if errors else None


def _holders(backend: Backend, state: JobState, agents: Mapping[str, AgentClient]) -> dict[str, Holder]:
    """Who gives each replica's files: its agent, or else what that left."""
    return {**agents, **left_of(backend, state.job, [replica for replica in state.replicas if replica not in agents])}


def left_of(backend: Backend, job: str, replicas: Iterable[str]) -> dict[str, Left]:
    """The files of those of the replicas whose agents are gone, and did not take them along."""
    if not isinstance(backend, KeepsFiles):
        return {}
    return {replica: left for replica in replicas if (left := backend.left(job, replica))}


def _came_earlier(record: Record, silent: list[str]) -> tuple[list[Collected], set[str]]:
    """What the last report tells of replicas that are silent now, as far as it is still here; and who of them had ended."""
    try:
        report = (read_report(record.folder) if silent else None) or {}
    except DamagedFile:
        return [], set()
    found, whole = [], set()
    for replica, files in report.get("files", {}).items():
        landing = Landing(record.files, replica)
        with suppress(OSError, ArtifactError):
            here = [file for file in files if landing.holds(file)] if replica in silent else []
            if here:
                found.append(Collected(replica=replica, files=here, skipped=[], refused=[]))
            if replica in silent and len(here) == len(files) and replica in report.get("whole", []):
                whole.add(replica)
    return found, whole


def _busy(
    backend: Backend, holders: Mapping[str, Holder], state: JobState, view: View, ends_by: float,
    given_up: threading.Event | None,
) -> tuple[dict[str, ArtifactError], set[str]]:  # fmt: skip
    """(who still writes files of a job that has a result, once ends_by has come; whose agents have ended meanwhile).

    A script writes, or who puts its files into a bucket. The gang's own end does not tell: it waits for its replicas so
    long and no longer, and may have lost its coordinator.
    """
    asked = [holder for r, holder in holders.items() if state.result and not _has_ended(state, state.replicas[r])]
    told, gone, pause_s = False, set[str](), 0.3
    while True:
        doing = dict(zip(asked, each(lambda agent: _doing(agent, state), asked, PARALLEL), strict=True))
        silent = [agent.replica for agent in asked if doing[agent] == UNKNOWN]
        if silent:
            gone.update(set(silent) - seen_running(backend, state.job, silent))
        asked = [agent for agent in asked if doing[agent] and agent.replica not in gone]
        if not asked or time.monotonic() > ends_by:
            break
        if not told:
            view.note(f"waiting for {shortened([agent.replica for agent in asked])} to end")
            told = True
        time.sleep(pause_s)
        pause_s = min(3.0, 1.5 * pause_s)
        if given_up and given_up.is_set():
            raise KeyboardInterrupt
    whose: dict[str, list[str]] = {}
    for agent in asked:
        whose.setdefault(doing[agent], []).append(agent.replica)
    hint = "once that has ended: tf-spawner fetch"
    errors = {what: ArtifactError(f"{shortened(replicas)}: {what}", hint=hint) for what, replicas in whose.items()}
    return {replica: errors[what] for what, replicas in whose.items() for replica in replicas}, gone


def _has_ended(state: JobState, line: ReplicaState) -> bool:
    """Whether the replica itself has reported so to a gang that has ended, too."""
    return state.phase == "ended" and line.state in FINISHED and line.message != LOST and not line.storing


def _doing(agent: Holder, state: JobState) -> str:
    """What a replica does yet that changes its files, or reads them; "" if it has ended."""
    try:
        report = agent.report(list(state.replicas))
    except AgentUnreachable:
        return UNKNOWN
    if report and report["state"] == "running":
        return "the script has not ended, and may still write"
    uri = report and report.get("storing")
    return f"still puts its files into {uri}" if uri else ""


def _without_log(backend: Backend, state: JobState, broken: dict[str, str], view: View) -> list[ArtifactError]:
    """Logs that did not come whole: the agents there run and have the rest, or were lost while they gave it."""
    alive = _still_running(backend, state.job, list(broken)) if broken else set()
    errors = []
    for replica, why in broken.items():
        if state.result == "succeeded" or replica in alive:
            errors.append(ArtifactError(f"{replica}'s log could not be fetched whole: {why}"))
        else:
            view.note(f"warning: {replica}'s log is not whole: {why}")
    return errors


def _without_answer(backend: Backend, state: JobState, silent: list[str], view: View) -> list[ArtifactError]:
    """What it means that these replicas' agents do not answer: their files may still be there, or are lost."""
    if (state.cause or {}).get("never_whole"):
        return []  # no script has begun anywhere
    if not state.result and state.phase in STARTING and "running" not in state.times:
        return []  # none has begun yet
    alive = _still_running(backend, state.job, silent) if silent else set()
    if state.result == "succeeded":
        waiting, lost = silent, []
    else:
        waiting, lost = [r for r in silent if r in alive], [r for r in silent if r not in alive]
    if lost and "running" in state.times:
        view.note(f"warning: {_files_of(lost)} are gone: no agent answers there")
    why, hint = "no agent answers there", None
    if alive:
        why, hint = "its process or pod runs, and its agent does not answer", "once it answers: tf-spawner fetch"
    return [ArtifactError(f"{_files_of(waiting)} could not be collected: {why}", hint=hint)] if waiting else []


def _still_running(backend: Backend, job: str, silent: list[str]) -> set[str]:
    """Those of the silent replicas whose process or pod runs; the backend has a moment to see that one has just ended."""
    deadline = time.monotonic() + SEE_WITHIN_S
    while True:
        alive = seen_running(backend, job, silent)
        if not alive or time.monotonic() > deadline:
            return alive
        time.sleep(0.5)


def seen_running(backend: Backend, job: str, replicas: list[str]) -> set[str]:
    """Those of the replicas whose process or pod runs, as the backend sees it now; all, if it cannot be asked."""
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
    return {replica for replica in replicas if states.get(replica) == "running"}


def _counting(view: View, given_up: threading.Event | None) -> Any:
    def received(size_bytes: int) -> None:
        if given_up and given_up.is_set():
            raise KeyboardInterrupt
        view.received(size_bytes)

    return received


def _files_of(replicas: list[str]) -> str:
    return f"the files of {shortened(replicas)}" if replicas else ""


def _outcome(
    state: JobState, record: Record, collected: list[Collected], earlier: list[Collected], whole: frozenset[str]
) -> Outcome:
    began = state.times.get("began") or state.times.get("forming")
    return Outcome(
        job=state.job,
        result=state.result or state.phase,
        folder=record.folder,
        cause=state.cause,
        collected=[*collected, *earlier],
        earlier=frozenset(replica.replica for replica in earlier),
        whole=whole,
        seconds=state.times.get("ended", time.time()) - began if began else 0.0,
        artifacts=next((line.stored["uri"] for line in state.replicas.values() if line.stored), None),
    )


def _write_report(outcome: Outcome, state: JobState, record: Record, view: View, missing: ArtifactError | None) -> None:
    """Writes report.json and the page. Raises ArtifactError; but a page can be had later, too."""
    record.write_json("report.json", {
        "job": outcome.job, "result": outcome.result, "cause": state.cause and explained(state.cause),
        "seconds": round(outcome.seconds, 3), "restarts": state.restarts,
        "times": state.times, "replicas": [asdict(line) for line in state.replicas.values()],
        "files": {replica.replica: replica.files for replica in outcome.collected}, "artifacts": outcome.artifacts,
        "missing": missing and missing.message, "whole": sorted(outcome.whole),
    })  # fmt: skip
    from tfspawner.pages.run import write_page  # Jinja, which a local job needs for nothing else

    try:
        write_page(record.folder)
    except OSError as error:
        view.note(
            f"warning: the run's page cannot be written: {error.strerror}; later: tf-spawner report {outcome.job}"
        )


def came_before(record: Record) -> Outcome | None:
    """The outcome of a job whose launcher had all of it here, and was ended while it removed the job; else None."""
    try:
        events = [event["event"] for event in read_events(record.folder)]
    except DamagedFile:
        return None
    return all_here(record) if "removing" in events and "deleted" not in events else None


def all_here(record: Record) -> Outcome | None:
    """The outcome that an earlier fetch recorded, if the job had ended and all its files are still here; else None."""
    try:
        report = read_report(record.folder)
        if report is None or report.get("missing") or report.get("result") not in get_args(Result):
            return None
        files = report.get("files", {}).items()
        collected = [Collected(replica=r, files=of, skipped=[], refused=[]) for r, of in files]
        for found in collected:
            landing = Landing(record.files, found.replica)
            if not all(landing.holds(file) for file in found.files):
                return None
        return Outcome(job=report["job"], result=report["result"], folder=record.folder, cause=report.get("cause"),
                       collected=collected, seconds=report["seconds"], artifacts=report.get("artifacts"))  # fmt: skip
    except (OSError, ArtifactError, DamagedFile):
        return None


def with_name(error: SpawnerError, job: str) -> SpawnerError:
    """The error, with the job's name in each command that its hint tells without one."""
    error.hint = error.hint and re.sub(r"tf-spawner (?:fetch|delete)(?! \S)", rf"\g<0> {job}", error.hint)
    return error


def still_there(error: SpawnerError, job: str) -> SpawnerError:
    """The error, with that the job is left, and what to do with it."""
    with_name(error, job)
    there = f"job {job} is still there: tf-spawner fetch {job}, or tf-spawner delete {job}"
    if there not in (error.hint or ""):
        error.hint = f"{error.hint}; {there}" if error.hint else there
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
        """Brings home what is there. What could not come is then told by `missing`, and held there.

        It is done by a thread of its own, so that a first Ctrl-C does not break it off.
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
        """What Ctrl-C means while files come: the first one is taken down, the second one is raised."""
        if self.is_interrupted:
            self.given_up.set()
            raise KeyboardInterrupt
        self.is_interrupted = True
        self.view.note(f"\ninterrupted: still fetching the files of job {self.job}; Ctrl-C again to quit at once")

    def _ask_to_hold(self) -> None:
        """A job that failed holds its files as long as one that succeeded: somebody misses them."""
        with suppress(AgentUnreachable):
            self.backend.agent(self.job, self.replicas[0]).keep()

    def remove(self) -> None:
        """Removes the job, all of which is here."""
        self.record.event("removing")
        with suppress(NotFoundError):  # given back meanwhile
            self.backend.delete(self.job, DELETE_TIMEOUT_S, self.id, self.view.note)
        self.record.event("deleted")

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """In there, Ctrl-C ends the job and raises Interrupted once it is home; what goes wrong leaves it, and says so."""
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
            raise self._told()

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
        raise self._told()

    def _stop(self) -> Literal["has begun", "has not begun", "silent"]:
        """Tells the gang to stop; whether a script had begun, so that there is something to bring home."""
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
        """What is known of a job that cannot be told to stop."""
        state = self.state or JobState(job=self.job, replicas={r: ReplicaState(replica=r) for r in self.replicas})
        state.result = state.result or "interrupted"
        return state

    def _follow_to_the_end(self, ends_by: float) -> JobState:
        follower = Follower(self.backend, self.job, self.replicas, self.record, self.view, start_timeout_s=None)
        if self.state:  # so that nothing is told again
            follower.state = replace(self.state, result=None)
            follower.told |= {r for r, line in self.state.replicas.items() if line.state not in ("pending", "starting")}
        with suppress(TimedOut, ArtifactError):
            follower.follow(deadline=ends_by)
        follower.state.result = follower.state.result or "interrupted"
        return follower.state

    def _told(self) -> Interrupted:
        """How it ended that was interrupted once."""
        if self.missing:
            told = Interrupted(f"interrupted; job {self.job} is kept: not all of its files could be fetched")
            told.missing = self.missing
            still_there(self.missing, self.job)
        elif self.outcome:
            told = Interrupted(f"interrupted; job {self.job} is removed, what it had is in {self.record.folder}")
        else:
            told = Interrupted(f"interrupted; job {self.job} is removed, its logs so far are in {self.record.logs}")
        told.outcome = self.outcome
        return told

    def _left(self, doing: str) -> Interrupted:
        """What a second Ctrl-C gave up, and how to go on."""
        job = self.job
        on = f"bring it home: tf-spawner fetch {job}; and then: tf-spawner delete {job}"
        if doing == "removing":
            return Interrupted(
                f"interrupted; the removing of job {job} was cut short, and some of it may be left",
                hint=f"tf-spawner delete {job}",
            )
        if doing == "telling":
            return Interrupted(f"interrupted; job {job} may go on, and what it has written is not all here", hint=on)
        if doing == "stopping":
            return Interrupted(f"interrupted; job {job} was stopped without waiting: files may be missing here; "
                               f"the job keeps them for {SHORT_HOLD_S / 60:g} minutes", hint=on)  # fmt: skip
        held_for = "--hold" if self.state and self.state.result == "succeeded" else f"{SHORT_HOLD_S / 60:g} minutes"
        return Interrupted(
            f"interrupted; files of job {job} are missing here; the job keeps them for {held_for}", hint=on
        )


def release_agents(backend: Backend, state: JobState) -> None:
    """All of it is here: its agents may end."""
    with suppress(AgentUnreachable):  # it has ended already
        backend.agent(state.job, next(iter(state.replicas))).release()
    mark_fetched(backend, state)


def mark_fetched(backend: Backend, state: JobState) -> None:
    """Of agents that were killed, nobody misses the files any more."""
    for left in left_of(backend, state.job, state.replicas).values():
        left.mark_fetched()
