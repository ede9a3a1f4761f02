"""The gang, kept by the coordinator: all replicas' reports, and the decisions that follow from them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

from .endings import IN_TENSORFLOW, place_in
from .gpu_sums import sums_of
from .job import Job
from .protocol import FINISHED, INTERRUPTED, LOST, LOST_AFTER_S, STARTING, STOP_GRACE_S, is_trainer
from .trail import Trail

GONE_AFTER_S = 3.0  # a replica is lost if its connection closed and it does not come back within this time

ROOT_CAUSE_WAIT_S = 5.0  # how long a replica that died of a lost peer waits for that peer's own report

EVALUATOR_GRACE_S = 30.0  # how long the evaluator may go on after training has ended

BEHIND_S = (10.0, 60.0)  # who is so much later than the others is behind: at first, and after a long time

BEHIND_PART = 0.05  # of the time that it has run; between the two

SILENCES_DIFFER_S = 2.0  # whose last output is so much older stopped first

QUIET = "no replica has put out anything for {:g} s"

FROZEN = "fell silent: its peers heard no more of it, as of a process that is frozen or cut off"


class Gang:
    """All replicas' reports and what follows from them.

    Phases: forming (some have not reported yet), meeting (all try to reach each other), running, stopping, ended.
    A gang that may be restarted goes from stopping to forming, as its next generation: the replicas start their
    scripts again. A coordinator that is new itself learns the generation from the others.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.changed = threading.Condition()
        self.version = time.time_ns() // 1_000_000  # no version of a former coordinator's
        self.generation = 0
        self.restarting: dict[str, Any] | None = None  # the cause for which the gang stops, to start again
        self.restarts: list[dict[str, Any]] = []
        self.phase = "forming"
        self.result: str | None = None  # succeeded, failed, timeout or interrupted
        self.cause: dict[str, Any] | None = None
        self.released = False
        self.kept = False  # someone misses files: they are held as long as after success
        self.formed_at = time.monotonic()
        self.phase_since = self.formed_at
        self.running_since: float | None = None
        self.trained_at: float | None = None
        began = time.time()
        self.times: dict[str, float] = {"began": began, "forming": began}  # a restart forms it again
        self.reports: dict[str, dict[str, Any]] = {}
        self.revisions: dict[str, int] = {}
        self.seen: dict[str, float] = {}
        self.hung_up: dict[str, float] = {}  # replicas whose connection closed, and when
        self.trail = Trail()
        self.behind: dict[str, float] = {}

    def report(self, replica: str, report: dict[str, Any]) -> None:
        with self.changed:
            self.take(replica, report)
            self.decide()

    def take(self, replica: str, report: dict[str, Any]) -> None:
        """Stores a report, if it belongs to this generation. Called under the lock."""
        ahead = max(report["generation"], report["met"] + 1)
        if self.phase == "forming" and ahead > self.generation:  # this coordinator is new, and the others are not
            lost = {"replica": self.job.coordinator, "message": LOST, "kind": "lost"}
            if ahead > self.job.restarts:
                return self.enter("stopping", "failed", lost)
            return self.begin(ahead, lost)
        before = self.reports.get(replica, {})
        is_another = bool(before) and before["life"] != report["life"]
        if is_another and self.phase != "forming" and before["state"] not in FINISHED:
            self.mark_lost(replica)
        if report["generation"] != self.generation or (is_another and self.phase != "forming"):
            return  # it will begin again when it hears of the generation
        if before.get("state") in FINISHED and report["state"] not in FINISHED:
            return
        report["revision"] = self.next_revision(replica)
        self.reports[replica] = report
        self.seen[replica] = time.monotonic()
        self.hung_up.pop(replica, None)
        if is_trainer(replica) and report["state"] in ("running", "succeeded"):
            self.trail.take(replica, report.get("progress") or {}, self.seen[replica])

    def next_revision(self, replica: str) -> int:
        """The number of a replica's next report, which shows that others are older."""
        self.revisions[replica] = self.revisions.get(replica, 0) + 1
        return self.revisions[replica]

    def mark_lost(self, replica: str) -> None:
        """Reports on behalf of a lost replica that it failed."""
        report = self.reports.get(replica, {"replica": replica, "since": time.time()})
        self.reports[replica] = dict(
            report,
            state="failed",
            exit_code=137,
            message=LOST,
            kind="lost",
            finished=time.time(),
            revision=self.next_revision(replica),
        )

    def wait(self, version: int, seconds: float, alive: Any, replica: str | None = None) -> dict[str, Any]:
        """The gang's order, as soon as it is newer than version or the seconds are over."""
        deadline = time.monotonic() + seconds
        with self.changed:
            self.hung_up.pop(replica or "", None)
            while self.version == version and time.monotonic() < deadline:
                if not alive():
                    if replica:
                        self.hung_up[replica] = time.monotonic()
                    break
                if replica:
                    self.seen[replica] = time.monotonic()
                self.changed.wait(min(1.0, max(0.0, deadline - time.monotonic())))
            return self.order()

    def cluster(self) -> dict[str, Any]:
        """Addresses "host:port": of TensorFlow by role and index, and of the agents by replica."""
        with self.changed:
            reports = {r: self.reports[r] for r in self.job.replicas}
        tensorflow = {
            role: [reports[f"{role}-{index}"]["address"] for index in range(count)]
            for role, count in self.job.roles.items()
        }
        agents = {r: report["agent"] for r, report in reports.items()}
        newest = max(self.job.replicas, key=lambda r: reports[r].get("checkpoint", 0))
        return {"tensorflow": tensorflow, "agents": agents, "checkpoint": newest}

    def order(self) -> dict[str, Any]:
        """The order for all replicas: the phase, the result, and what follows from them."""
        return {
            "version": self.version,
            "generation": self.generation,
            "phase": self.phase,
            "result": self.result,
            "released": self.released,
            "kept": self.kept,
            "stalled": (self.restarting or self.cause or {}).get("kind") == "stalled",
        }

    def snapshot(self) -> dict[str, Any]:
        """Everything that is known about the job at one moment."""
        with self.changed:
            return dict(
                self.order(),
                cause=self.cause,
                times=dict(self.times),
                replicas=dict(self.reports),
                restarts=list(self.restarts),
                restarts_allowed=self.job.restarts,
                behind=self.behind,
            )

    def brief(self) -> dict[str, Any]:
        """The gang in brief, whatever the number of replicas: the states' counts, and sums."""
        with self.changed:
            reports = [self.reports[r] for r in self.job.replicas if r in self.reports]
            running = [report for report in reports if report["state"] == "running"]
            usages = [report["usage"] for report in running if report.get("usage")]
            gpus = [gpu for usage in usages for gpu in usage["gpus"]]
            sums = sums_of(gpus)
            usage = {
                "cpu": round(sum(u["cpu"] for u in usages), 2),
                "memory": sum(u["memory"] for u in usages),
                "gpus": {
                    "count": len(gpus),
                    "use": sums.use,
                    "memory": sums.memory,
                },
            }
            progress: dict[str, Any] = next((report["progress"] for report in running if report.get("progress")), {})
            return dict(
                self.order(),
                times=dict(self.times),
                states=Counter(report["state"] for report in reports),
                usage=usage if usages else {},
                progress=progress,
                behind=self.behind,
                restarts=len(self.restarts),
            )

    def find_behind(self) -> dict[str, float]:
        """The trainers that are behind the others, and by how many seconds."""
        running_s = time.time() - self.times.get("running", time.time())
        least_s = min(max(BEHIND_S[0], BEHIND_PART * running_s), BEHIND_S[1])
        late = self.trail.late() if self.phase == "running" else {}
        return {r: round(s, 1) for r, s in late.items() if s > least_s and self.reports[r]["state"] == "running"}

    def release(self) -> None:
        """Lets the replicas end: their files are collected."""
        with self.changed:
            self.released = True
            self.moved()

    def keep(self) -> None:
        """Lets the replicas wait longer, because some of their files have not come."""
        with self.changed:
            self.kept = True
            self.moved()

    def interrupt(self) -> dict[str, Any]:
        """Stops the gang for good, as a failure does, for the one who started it; returns the order until now."""
        with self.changed:
            before = self.order()
            if not self.result:
                self.restarting = None
                cause = {"replica": None, "message": INTERRUPTED, "kind": "interrupted", "exit_code": None}
                self.enter("stopping", "interrupted", cause)
            return before

    def tick(self) -> None:
        """Decides what follows from the time that has passed."""
        with self.changed:
            self.decide()
            self.behind = self.find_behind()

    def moved(self) -> None:
        """Increments the version and wakes those who wait for it."""
        self.version += 1
        self.changed.notify_all()

    def enter(self, phase: str, result: str | None = None, cause: dict[str, Any] | None = None) -> None:
        """Begins a phase; sets the result if there is one."""
        self.phase, self.phase_since = phase, time.monotonic()
        self.times[phase] = time.time()
        if result:
            self.result, self.cause = result, cause
        self.moved()

    def fail(self, cause: dict[str, Any]) -> None:
        """Stops the gang: for good, or to start it again if the cause allows a restart."""
        if cause.get("kind", "failed") not in self.job.restart_on or self.generation >= self.job.restarts:
            return self.enter("stopping", "failed", cause)
        self.restarting = cause
        self.enter("stopping")

    def begin(self, generation: int, cause: dict[str, Any]) -> None:
        """All replicas start again; each has to report anew."""
        reason = {key: cause.get(key) for key in ("replica", "message", "kind")}
        self.restarts.append(dict(reason, generation=generation, time=time.time()))
        self.generation, self.restarting = generation, None
        self.reports, self.seen, self.hung_up, self.trail = {}, {}, {}, Trail()
        self.formed_at = time.monotonic()
        self.enter("forming")

    def decide(self) -> None:
        """Moves the gang to its next phase, if the reports allow it. Called under the lock."""
        if self.phase == "forming" and all(r in self.reports for r in self.job.replicas):
            self.enter("meeting")
        if not (self.phase in (*STARTING, "running") and self.fail_if_one_failed()):
            if self.phase in STARTING:
                self.decide_start()
            elif self.phase == "running":
                self.decide_end()
        if self.phase == "stopping" and not any(map(self.is_ending, self.job.replicas)):
            if self.restarting:
                self.begin(self.generation + 1, self.located(self.restarting))
            else:
                self.cause = self.cause and self.located(self.cause)
                self.enter("ended")

    def is_ending(self, replica: str) -> bool:
        """Whether a stopping gang still waits for this replica: for its script, or its upload to a bucket."""
        now, report = time.monotonic(), self.reports.get(replica, {})
        if report.get("state") not in FINISHED:
            return now - self.phase_since <= STOP_GRACE_S + LOST_AFTER_S
        is_storing = bool(report.get("storing")) and not self.restarting  # before it starts again, nobody stores
        return is_storing and now - self.seen.get(replica, now) <= LOST_AFTER_S

    def is_lost(self, replica: str) -> bool:
        """Whether a replica that has reported before is silent now."""
        if replica not in self.seen or self.reports.get(replica, {}).get("state") in FINISHED:
            return False
        if self.generation and replica not in self.reports:
            return False  # it was lost before this generation, and may come again
        now = time.monotonic()
        return now - self.seen[replica] > LOST_AFTER_S or now - self.hung_up.get(replica, now) > GONE_AFTER_S

    def fail_if_one_failed(self) -> bool:
        """Stops the gang for the failure that came first; a replica that lost a peer waits for that peer's word."""
        failed = [r for r in self.reports.values() if r["state"] in ("failed", "stopped")]  # none was told to stop
        own = [r for r in failed if not r.get("peer_lost")]
        outstanding = any(self.reports.get(r, {}).get("state") not in FINISHED for r in self.job.replicas)
        lost = [name for name in self.job.replicas if self.is_lost(name)]
        if own:
            self.fail(min(own, key=lambda r: r["finished"]))
        elif lost:
            for name in lost:
                self.mark_lost(name)
            self.fail(self.reports[lost[0]])
        elif failed and (not outstanding or time.time() - min(r["finished"] for r in failed) > ROOT_CAUSE_WAIT_S):
            self.fail(self.blamed(failed) or min(failed, key=lambda r: r["finished"]))
        else:
            return False
        return True

    def blamed(self, failed: list[dict[str, Any]]) -> dict[str, Any] | None:
        """The one replica that the failed ones blame for falling silent, or else the only trainer that still runs."""
        states = {r: report["state"] for r, report in self.reports.items()}
        names = {r["blames"] for r in failed if r.get("blames")}
        if not names:
            names = {r for r in self.job.replicas if is_trainer(r) and states.get(r) == "running"}
        name = names.pop() if len(names) == 1 else ""
        if states.get(name, FINISHED[0]) in FINISHED:
            return None
        return dict(self.reports[name], message=FROZEN, kind="lost", exit_code=None)

    def decide_start(self) -> None:
        """Begins training once all are ready, or fails the job if that takes too long."""
        waiting = [r for r in self.job.replicas if self.reports.get(r, {}).get("state") != "ready"]
        if not waiting:
            self.enter("running")
        elif time.monotonic() - self.formed_at > self.job.start_timeout_s:
            silent = [r for r in waiting if r not in self.reports] or waiting
            shown = ", ".join(silent[:8]) + (f" and {len(silent) - 8} more" if len(silent) > 8 else "")
            waits = "; ".join(
                f"{r} waits for {self.reports[r]['message']}"
                for r in waiting
                if r in self.reports and self.reports[r].get("message")
            )
            message = f"did not start within {self.job.start_timeout_s:g} s (missing: {shown})" + (
                f"; {waits[:500]}" if waits else ""
            )
            hint = self.reports.get(silent[0], {}).get("hint")
            cause = {"replica": silent[0], "message": message, "hint": hint, "exit_code": None}
            self.enter("stopping", "timeout", cause)

    def stalled(self) -> dict[str, Any] | None:
        """The replica that stopped first, once no trainer prints or steps any more."""
        limit_s = self.job.stall_timeout_s
        trainers = [self.reports[r] for r in self.job.replicas if is_trainer(r)]
        running = [report for report in trainers if report["state"] == "running"]
        if not limit_s or not running or min(map(self.silent_s, running)) < limit_s:
            return None
        tells = all(report.get("progress") for report in running)
        places = {r["replica"]: step_of(r) if tells else (0, 0) for r in running}
        first, *others = sorted(running, key=lambda report: (places[report["replica"]], -self.silent_s(report)))
        is_behind = all(
            places[first["replica"]] < places[other["replica"]]
            or self.silent_s(first) > self.silent_s(other) + SILENCES_DIFFER_S
            for other in others
        )
        message = "stopped first" if is_behind else "stands still, as all others do"
        return dict(first, message=f"{message}: {QUIET.format(limit_s)}", kind="stalled", exit_code=None)

    def located(self, cause: dict[str, Any]) -> dict[str, Any]:
        """A stall's cause once the stacks are there: the one replica that does not wait for its peers in TensorFlow."""
        if cause.get("kind") != "stalled":
            return cause
        trainers = [self.reports[r] for r in self.job.replicas if is_trainer(r)]
        stood = [r for r in trainers if r["state"] != "succeeded"]
        mute = [r for r in stood if not r.get("stands")]  # for example a frozen one
        busy = [r for r in stood if r.get("stands") and not IN_TENSORFLOW.search(r["stands"][0])]
        suspects = mute if len(mute) == 1 < len(stood) else busy
        if len(suspects) != 1:
            return dict(cause, stands=self.reports[cause["replica"]].get("stands"))
        where = f", in {place_in(suspects[0]['stands'])}" if suspects[0].get("stands") else ""
        message = f"stopped first{where}: {QUIET.format(self.job.stall_timeout_s)}"
        return dict(suspects[0], message=message, kind="stalled", exit_code=None)

    def silent_s(self, report: dict[str, Any]) -> float:
        """Seconds since this report's script last printed anything."""
        now = time.monotonic()
        return float(report.get("silent_s", 0.0)) + now - self.seen.get(report["replica"], now)

    def decide_end(self) -> None:
        """Ends the job once its trainers have ended or are stalled."""
        now = time.monotonic()
        self.running_since = self.running_since or now
        still = [r for r in self.job.replicas if self.reports[r]["state"] not in FINISHED]
        stalled = self.stalled()
        if stalled:
            return self.fail(stalled)
        if still and self.job.timeout_s and now - self.running_since > self.job.timeout_s:
            message = f"was still running when the job's time-out of {self.job.timeout_s:g} s had passed"
            self.enter("stopping", "timeout", {"replica": still[0], "message": message, "exit_code": None})
            return
        # Parameter servers and their workers serve for ever: there, the chief's end is the end of training.
        training = [r for r in self.job.replicas if is_trainer(r) and ("ps" not in self.job.roles or "chief" in r)]
        states = {self.reports[r]["state"] for r in training}
        if "failed" in states or not states <= set(FINISHED):
            return
        self.trained_at = self.trained_at or now
        evaluating = any(
            r.startswith("evaluator-") and self.reports[r]["state"] not in FINISHED for r in self.job.replicas
        )
        if not evaluating or now - self.trained_at > EVALUATOR_GRACE_S:
            self.enter("stopping", "succeeded")


def step_of(report: dict[str, Any]) -> tuple[int, int]:
    """How far Keras is in this replica: the epoch, and its step once it has printed one."""
    progress = report.get("progress") or {}
    return progress.get("epoch", 0), progress.get("step", 0)
