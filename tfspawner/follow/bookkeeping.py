"""Keeps a job's state, facts and record up to date with the news from the backend and the coordinator."""

from __future__ import annotations

import math
import time
from typing import Any

from tfspawner.backends.answers import Gang, Report
from tfspawner.backends.base import Observation
from tfspawner.base.states import Phase, PodState, Result, State
from tfspawner.record.writing import Record
from tfspawner.replica.gpu_sums import sums_of
from tfspawner.replica.protocol import FINISHED, LOST

from .facts import Facts
from .judge import End
from .state import JobState, ReplicaState, View

USAGE_OF, USAGE_EVERY_S = (
    16,
    2.0,
)  # of how many replicas the use of processors and memory is recorded, and how often at first


class Bookkeeper:
    """Takes in each piece of news. Called by one thread."""

    def __init__(
        self, state: JobState, record: Record | None, view: View, start_timeout_s: float | None = None
    ) -> None:
        self.state, self.record, self.view = state, record, view
        self.facts = Facts(state=state, start_timeout_s=start_timeout_s, changed_at=time.monotonic())
        self.facts.reported |= {
            r for r, line in state.replicas.items() if line.state not in (State.PENDING, State.STARTING)
        }
        self.warned: set[str] = set()
        measured = list(state.replicas)[:USAGE_OF]
        self.usage_at = dict.fromkeys(measured, (time.monotonic(), -math.inf))  # the start, and the last record

    # -- what the backend sees

    def observe(self, seen: Observation) -> None:
        """Takes in what the backend sees of a replica or of the whole job."""
        before = self.facts.platform.get(seen.replica or "")
        self.facts.see(seen, time.monotonic())
        if seen.replica is None:
            return
        if self.record and (before is None or (before.state, before.message) != (seen.state, seen.message)):
            self.record.event("pod", replica=seen.replica, state=seen.state, message=seen.message, node=seen.node)
        if seen.fatal:
            self.warn(seen.message, f"{seen.replica} {seen.message}")
        self._show_observation(seen)

    def _show_observation(self, seen: Observation) -> None:
        """Shows the backend's state of a replica while its agent has not reported yet, or is gone."""
        line = self.state.replicas[seen.replica or ""]
        line.node = seen.node or line.node
        has_ended = line.state in FINISHED
        if has_ended or (line.replica in self.facts.reported and seen.state not in (PodState.FAILED, PodState.GONE)):
            return
        shown = State.STARTING if seen.state == PodState.RUNNING else State(seen.state)
        if line.state != shown:
            line.state, line.since = shown, time.time()
        line.message = seen.message

    def warn(self, key: str, text: str) -> None:
        """Shows a warning once for each key."""
        if key not in self.warned:
            self.warned.add(key)
            self.view.note(f"warning: {text}")

    # -- what the coordinator reports

    def log(self, replica: str, offset: int, data: bytes) -> None:
        """Takes in a piece of a replica's output."""
        self.facts.changed_at = time.monotonic()
        if self.record:
            data = self.record.append_log(replica, offset, data)
        self.view.log(replica, data)

    def hear(self, gang: Gang) -> None:
        """Takes in the coordinator's news of the gang and its replicas."""
        self.facts.heard = True
        self._hear_of_restarts(gang)
        if self.state.phase != gang["phase"]:
            self.facts.changed_at = time.monotonic()
            if self.record:
                self.record.event("phase", phase=gang["phase"], result=gang["result"])
        self.state.phase = Phase(gang["phase"])
        self.state.result = Result(gang["result"]) if gang["result"] else None
        self.state.cause, self.state.times = gang["cause"], self.state.times | gang["times"]
        for replica, report in gang["replicas"].items():
            if report["state"] in FINISHED or not self.facts.has_ended(replica):  # else it is from before the end
                self._hear_report(self.state.replicas[replica], report)
        for line in self.state.replicas.values():
            line.behind_s = gang["behind"].get(line.replica, 0.0)

    def _hear_report(self, line: ReplicaState, report: Report) -> None:
        self.facts.reported.add(line.replica)
        if line.state != report["state"] and self.record:
            self.record.event(
                "replica",
                replica=line.replica,
                state=report["state"],
                message=report.get("message"),
                exit_code=report.get("exit_code"),
            )
        line.state, line.since = State(report["state"]), report["since"]
        line.message = report.get("message", "")
        line.progress = report.get("progress") or {}
        self._hear_of_usage(line, report.get("usage") or {})
        line.exit_code = report.get("exit_code")
        line.unkept = report.get("unkept") or {}
        if line.unkept:
            self.warn(line.replica, f"{line.replica}'s output cannot all be kept: {line.unkept['why']}")
        line.storing, line.stored = report.get("storing", ""), report.get("stored")
        if line.message == LOST:
            self.state.gone.add(line.replica)
        elif not self.facts.has_ended(line.replica):
            self.state.gone.discard(line.replica)

    def _hear_of_usage(self, line: ReplicaState, usage: dict[str, Any]) -> None:
        """Takes in a script's usage. Only the first replicas' is recorded, and less often the longer they run."""
        if self.record and usage and usage != line.usage and line.replica in self.usage_at:
            began, last = self.usage_at[line.replica]
            now = time.monotonic()
            if now - last >= max(USAGE_EVERY_S, (now - began) / 300):
                self.usage_at[line.replica] = (began, now)
                sums = sums_of(usage["gpus"])
                self.record.event(
                    "usage",
                    replica=line.replica,
                    cpu=usage["cpu"],
                    memory=usage["memory"],
                    gpus=sums.uses or None,
                    gpu_memory=sums.memory,
                )
        line.usage = usage

    def _hear_of_restarts(self, gang: Gang) -> None:
        """Shows each restart once. A new coordinator knows only the restarts since its own start."""
        known = {restart["generation"] for restart in self.state.restarts}
        for restart in gang["restarts"]:
            if restart["generation"] in known:
                continue
            self.state.restarts.append(dict(restart))
            self.view.note(
                f"restart {restart['generation']} of {gang['restarts_allowed']}: "
                f"{restart['replica']} {restart['message']}"
            )
            if self.record:
                self.record.event("restart", **restart)
            self._begin_again()

    def _begin_again(self) -> None:
        """Forgets what the agents reported before the restart; until they report again, the backend's states count."""
        self.facts.reported.clear()
        for line in self.state.replicas.values():
            line.state, line.since, line.progress, line.usage = State.PENDING, time.time(), {}, {}
            if line.replica in self.facts.platform:
                self._show_observation(self.facts.platform[line.replica])

    # -- the end

    def end(self, end: End) -> None:
        """Records how the job has ended."""
        self.state.result, self.state.cause = end.result, end.cause
        self.state.gone |= end.gone
        for replica, mark in end.marks.items():
            line = self.state.replicas[replica]
            line.state = line.state if mark.state is None else mark.state
            line.message = line.message if mark.message is None else mark.message
