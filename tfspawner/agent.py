"""The first process of every replica: it starts the script, keeps its log and its files, and ends the gang.

This one file needs Python 3.9 and its standard library only, so that it runs in any image. The local
backend starts it as a process, the Kubernetes backend as the container's command; it is the same there.
Replica 0 of the first role coordinates: the others report their addresses and states to it, and it decides
when the gang meets, runs, stops and has ended. Whoever proves to know the job's token may ask over HTTP, and
each answer proves the same of the agent:

    GET  /status?brief=1         what this replica does; at the coordinator, what the gang and all replicas do; in brief
    GET  /cluster                at the coordinator, once all have reported: where TensorFlow and the agents listen
    GET  /log?offset=N&wait=S    bytes of the script's output from N on; waits S seconds for more. X-Offset: where they
                                 begin; X-Size: where the output ends so far; X-End: 1 if they are its last
    POST /stream {offsets}       at the coordinator: frames with all replicas' output and status, until the end;
                                 offsets null: status alone
    GET  /order?version=N&wait=S at the coordinator: the gang's phase, as soon as it is not N's; waits S seconds for that
    GET  /files                  what the replica wrote: paths, sizes, SHA-256
    GET  /files?named=PATTERN    the same of files with such names, which may be growing, without SHA-256
    POST /files [[path, offset, size]] those files' bytes from offset up to size, as frames
    GET  /checkpoints, POST /checkpoints  the same of the newest checkpoint: the coordinator's, or the copy of it
    PUT  /code, GET /code        the script's folder, as a gzipped tar archive
    GET  /code?wanted=SHA256     whether that archive is still to be sent: {"wanted": true}
    POST /release                at the coordinator: all is collected, the replicas may end
    POST /stop                   at the coordinator: the gang ends, and holds what it has; says what it did until then
    POST /keep                   at the coordinator: files are missed, so even a failed gang holds them --hold long

A frame is a line of JSON; where it has a "size", that many raw bytes follow it. The last is {"end": true}.
"""

from __future__ import annotations

import argparse
import base64
import ctypes
import errno
import fcntl
import fnmatch
import glob
import hashlib
import hmac
import http.client
import itertools
import json
import math
import os
import queue
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import tempfile
import termios
import threading
import time
import traceback
import zipfile
from bisect import bisect_right
from collections import Counter, OrderedDict, deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable, Deque, Dict, Iterator, List, Mapping, Optional, Set, Tuple
from urllib.parse import parse_qs, parse_qsl, quote, quote_plus, unquote, urlsplit

PORT = 7117  # where an agent listens that is given no socket
PROOF_HEADER = "X-Tfspawner-Proof"
NOT_KNOWN = "the request does not prove that it knows the job's token"
TOKEN = "TFSPAWNER_TOKEN"  # the variable in which a pod's agent gets the job's token, and out of which it takes it
KILL_WITHIN_S = 5.0  # processes that go on making others may take so long to kill
LOOKS = 3  # at /proc that have to find nobody: in a chain of processes one may end, and its child begin, behind a look
STOP_GRACE_S = 3.0  # between SIGTERM and SIGKILL: TensorFlow swallows SIGTERM, so this is a wait for nothing mostly
LOST_AFTER_S = 15.0  # a replica not heard of for so long is lost
HEAD_S = 20.0  # so long a stranger has to show the token
MOST_STRANGERS = 256  # connections of such that are held at once: each has a thread
KEEPS_UP_S, SLOWEST = 60.0, 1024  # who lets us wait so long, and sends or takes fewer bytes a second, is hung up on
IDLE_S = 120.0  # so long a connection may be without a request: longer than the API server keeps one
STREAM_PIECE = 256 << 10  # bytes of output in one frame
STREAM_QUEUE = 16  # frames that wait for a stream's client
STREAMS_HOLD, STREAM_HOLDS = 256 << 20, 1 << 20  # bytes: of all streams together at most, and of one at least
DRAIN_S, DRAIN_IDLE_S = 20.0, 0.5  # how long a refused request's body is read, and how long it may send nothing
GONE_AFTER_S = 3.0  # a replica whose connection closed, and that does not come back for so long, is lost
COORDINATOR_LOST_AFTER_S = 6.0
COORDINATOR_SLOW_S = 29.0  # one that only takes long to answer may have much to do: two requests may time out
ROOT_CAUSE_WAIT_S = 5.0  # a replica that died of a lost peer waits so long for that peer's own report
EVALUATOR_GRACE_S = 30.0  # the evaluator may go on so long after training has ended
COLLECTING_PAUSE_S = 2.0  # between two requests of one who collects
SHORT_HOLD_S = 600.0  # a failed gang holds its files at most so long, and one whose files are in a bucket
STORE_FOR_S = 600.0  # so long a bucket may be out of reach
STORE_FAILED_FOR_S = 30.0  # and so long if training has failed, and someone waits to hear why
STORE_AT_ONCE = 4
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36
CGROUP = Path("/sys/fs/cgroup")
CODE_IS_SENT = "its code, which is kept nowhere in the cluster and comes from its launcher alone"
CODE_IS_SENT_HINT = (
    "if it is still on its way: raise --start-timeout; an attached `tf-spawner run` sends it to a pod that takes another's "
    "place, too, and after --detach nobody does"
)
RETRY_S = 0.05  # before the coordinator is asked or told again, at first
MIRROR_EVERY_S = 2.0  # how often the second replica looks for a new checkpoint of the first
PORT_WAIT_S = 5.0  # so long a killed script's port may stay taken
GPU_LOOK_S = 60.0  # so long it may take to find out whether TensorFlow sees GPUs
MESH_PEERS = 32  # a replica meets at most so many of its peers itself
CHUNK = 1 << 20
LOG_ANSWER = 4 * CHUNK  # bytes of a log that come at a time
SMALL = 1 << 16
NOTE_BYTES = 1 << 13
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
AGENT_MARK = b"[tf-spawner]"
MASK = b"***"
MASKED_BYTES = 8  # a shorter value or line is no secret worth a log full of stars
ENCODED_BYTES = 4096  # a longer text is masked as it stands, not in base64: its pattern would take seconds to make
GATHER_S = (0.3, 2.0)  # so long output gathers after a little was taken, of few replicas and of many: a request each
HELD_S = 0.2  # so long output that may be the beginning of a secret waits for the rest
# The bytes of logs, from the rarer to the commoner; before them all others.
COMMON = b"QZXJYKVHjqzUBGMRWFDPLOCNSATIEyvxkwbgmfpduhclsrnioat9876543210_[=]-:,/.e "

RATE_OVER_S = 10.0  # the steps of the last so many seconds make the rate
RATE_LEAST_S = (0.2, 1.0)  # over less than this there is none: for a whole epoch, and on its way
BEHIND_S = (10.0, 60.0)  # who is so much later than the others is behind: at first, and after a long time
BEHIND_PART = 0.05  # of the time that it has run; between the two
SILENCES_DIFFER_S = 2.0  # whose last output is so much older stopped first
QUIET = "no replica has put out anything for {:g} s"
LOST = "was lost: its agent is not heard of any more"
EXIT_PEER_LOST = 75
EXIT_CONFIGURATION = 2
EXIT_TERMINATED = 143
EXITS_OF_LOST = (137, 143)  # after these, Kubernetes gives a job with restarts another pod
EXIT_PREEMPTED = 42  # TensorFlow's PreemptionCheckpointHandler saved and left
FROZEN = "fell silent: its peers heard no more of it, as of a process that is frozen or cut off"
PEER_LOST_MESSAGE = (
    "lost a peer in a collective operation: a replica died, or had fewer batches and ended before the others"
)
TERMINATED = "was told to end (SIGTERM)"
INTERRUPTED = "was interrupted"
FINISHED = ("succeeded", "failed", "stopped")
TRAINERS = ("chief", "worker")
STARTING = ("forming", "meeting")
STATES = ("starting", "getting the code", "meeting", "ready", "running", *FINISHED)  # of a replica
PHASES = (*STARTING, "running", "stopping", "ended")  # of the gang
RESULTS = (None, "succeeded", "failed", "timeout", "interrupted")
KINDS = ("failed", "lost", "stalled", "configuration", "interrupted")  # of a failure

DEEPEST = 24  # lists in lists that are read
LONGEST_TEXT, LONGEST_LINE = 8192, 4096  # characters of a message, and of a script's line, that are kept
MOST_LINES = 200  # of a stack, or of a log's end
MOST_METRICS = 100
MOST_GPUS = 256
LONGEST_REPORT, MARKS_OF_REPORT = 1 << 20, 20_000  # bytes and marks of JSON (see read_json) that one replica may send
MARKS_OF_ANSWER = 2_000_000  # that an agent reads of another: all checkpoint files, all addresses
LONGEST_WANTED, MARKS_OF_WANTED = 64 << 20, 500_000  # the same of a request for files
ADDRESS = re.compile(r"(?:\[[0-9A-Fa-f:.%\w]+\]|[\w.-]+):([0-9]{1,5})", re.A)
CLOCKS_DIFFER_S = 366 * 86400.0  # a year, by which machines' clocks may be apart
LOG_ENDS_S = 30.0  # so long a log without news may stay open after the gang has ended

# What TensorFlow 2.21 prints on a survivor: both must stand in its last output.
PEER_LOST = re.compile(rb"Collective ops is aborted by|unhealthy \(stopped sending heartbeats\)")
PEER_LOST_ERROR = re.compile(
    rb"^tensorflow\.python\.framework\.errors_impl\.(Unavailable|DeadlineExceeded|Aborted|Cancelled)Error", re.M
)

# Whom a survivor blames: the peer that fell silent.
UNHEALTHY = re.compile(rb"stopped sending heartbeats\): /job:(\w{1,63})/replica:\d{1,9}/task:(\d{1,9})")

# Where a stack's innermost place is in here, the replica waits for its peers.
IN_TENSORFLOW = re.compile(r"/(tensorflow|tf_keras|keras)/")

# As faulthandler prints a frame.
PLACE = re.compile(r'\s*File "(?:[^"]*/)?([^/"]+)", line ([0-9]+) in (.*)')

MISSING_MODULE = re.compile(rb"^ModuleNotFoundError: No module named '([\w.]{1,200})'\s*\Z", re.M)

# ---- Keras's own output -------------------------------------------------------------------------

# A script prints what it likes: each pattern over its output takes time in proportion to the line, and numbers are bounded.
LONGEST_PROGRESS = 4096  # a longer line is no progress
ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[()][0-9AB]|\x08+")
EPOCH = re.compile(r"^Epoch ([0-9]{1,12})/([0-9]{1,12})\s*$")
STEP = re.compile(
    r"^\s*([0-9]{1,12})/([0-9]{1,12}|Unknown)\s+(\[[=>.]*\]|[━]+|-(?=\s\d+s\b)|(?<=Unknown\s)(?=\d+s\s))\s?(.*)$"
)
METRIC = re.compile(r"(?<!\w)(\w{1,200}): (-?(?:[0-9]+\.?[0-9]*(?:e[+-]?[0-9]+)?|nan|inf))")


def parse_progress(line: str) -> Optional[Dict[str, Any]]:
    """What a line of Keras's output (2 or 3, verbose 1 or 2) tells, or None where it is no such line.

    Returns {"epoch", "epochs"} or {"step", "steps" (None: unknown), "metrics": {name: value}}.
    """
    if len(line) > LONGEST_PROGRESS:
        return None
    line = ANSI.sub("", line)
    epoch = EPOCH.match(line)
    if epoch:
        return {"epoch": int(epoch[1]), "epochs": int(epoch[2])}
    step = STEP.match(line)
    if not step:
        return None
    metrics = {name: float(value) for name, value in METRIC.findall(step[4]) if name != "ETA"}
    return {"step": int(step[1]), "steps": None if step[2] == "Unknown" else int(step[2]), "metrics": metrics}


def is_progress_bar(line: str) -> bool:
    """Whether a line is a bar still on its way: to be shown as progress, not as a line of the log."""
    told = parse_progress(line) if "/" in line else None
    return bool(told) and "step" in told and told["step"] != told["steps"]  # type: ignore[operator,index]


class Pace:
    """Steps a second: over an epoch's last ten seconds, or all of it where Keras tells of each epoch alone.

    An epoch's first step, in which TensorFlow traces, does not count once there are others.
    """

    def __init__(self) -> None:
        self.points: Deque[Tuple[float, int]] = deque()  # when which step was told
        self.steps: Optional[int] = None
        self.has_epochs = False

    def begin(self, now: float) -> None:
        """An epoch begins."""
        self.points, self.steps, self.has_epochs = deque([(now, 0)]), None, True

    def step(self, now: float, step: int, steps: Optional[int]) -> Optional[float]:
        """The rate after that step; None where it cannot be told."""
        counts_anew = bool(self.points) and (
            step < self.points[-1][1] or (self.steps or steps) != (steps or self.steps)
        )
        if counts_anew or not self.points:
            self.points.clear()
            if self.has_epochs:  # outside of them it is an evaluation
                return None
        self.steps = steps or self.steps
        points = self.points
        if len(points) > 1 and now - points[-2][0] < 0.1:
            points.pop()
        points.append((now, step))
        while len(points) > 2 and (now - points[1][0] >= RATE_OVER_S or (not points[0][1] and now - points[1][0] >= 1)):
            points.popleft()
        seconds, made = now - points[0][0], step - points[0][1]
        return made / seconds if made and seconds >= RATE_LEAST_S[step != self.steps] else None


# ---- the job, as each replica sees it -----------------------------------------------------------


def tf_config(cluster: Dict[str, List[str]], role: str, index: int) -> str:
    """The value of TF_CONFIG for one replica, as TensorFlow's TFConfigClusterResolver reads it.

    The evaluator stands outside the training cluster, in one of its own: the others must not wait for it.
    """
    if role == "evaluator":
        visible = {role: cluster[role]}
    else:
        visible = {name: hosts for name, hosts in cluster.items() if name != "evaluator"}
    return json.dumps({"cluster": visible, "task": {"type": role, "index": index}}, separators=(",", ":"))


class Job:
    """The job's constants, read from job.json beside this file or named by --config."""

    def __init__(self, config: Dict[str, Any]) -> None:
        self.config = config
        self.name: str = config["job"]
        self.roles: Dict[str, int] = config["roles"]
        self.replicas = [f"{role}-{index}" for role, count in self.roles.items() for index in range(count)]
        self.coordinator = self.replicas[0]

    def __getattr__(self, key: str) -> Any:
        try:
            return self.__dict__["config"][key]
        except KeyError:
            raise AttributeError(key) from None


def memory_cgroup() -> Tuple[int, int]:
    """(how often the kernel killed for want of memory, the limit in bytes or 0), from cgroup v2 or v1."""
    for events, limit in (
        ("memory.events", "memory.max"),
        ("memory/memory.oom_control", "memory/memory.limit_in_bytes"),
    ):
        try:
            lines = (CGROUP / events).read_text().splitlines()
            kills = sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
            most = (CGROUP / limit).read_text().strip()
        except (OSError, ValueError, IndexError):
            continue
        return kills, int(most) if most.isdigit() and int(most) < 1 << 60 else 0
    return 0, 0


def classify(returncode: int, tail: bytes) -> Tuple[int, str]:
    """The replica's exit code and a few words, from how the script ended (negative: by that signal)."""
    if returncode < 0:
        named = {int(known): known.name for known in signal.Signals}
        return 128 - returncode, f"was killed by {named.get(-returncode, f'signal {-returncode}')}"
    if returncode == 1 and PEER_LOST.search(tail) and PEER_LOST_ERROR.search(tail):
        return EXIT_PEER_LOST, PEER_LOST_MESSAGE
    return returncode, f"ended with exit code {returncode}"


# ---- the gang, kept by the coordinator ----------------------------------------------------------


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
        self.restarting: Optional[Dict[str, Any]] = None  # the cause for which the gang stops, to start again
        self.restarts: List[Dict[str, Any]] = []
        self.phase = "forming"
        self.result: Optional[str] = None  # succeeded, failed, timeout or interrupted
        self.cause: Optional[Dict[str, Any]] = None
        self.released = False
        self.kept = False  # someone misses files: they are held as long as after success
        self.formed_at = time.monotonic()
        self.phase_since = self.formed_at
        self.running_since: Optional[float] = None
        self.trained_at: Optional[float] = None
        began = time.time()
        self.times: Dict[str, float] = {"began": began, "forming": began}  # a restart forms it again
        self.reports: Dict[str, Dict[str, Any]] = {}
        self.revisions: Dict[str, int] = {}
        self.seen: Dict[str, float] = {}
        self.hung_up: Dict[str, float] = {}  # replicas whose connection closed, and when
        self.trail = Trail()
        self.behind: Dict[str, float] = {}

    def report(self, replica: str, report: Dict[str, Any]) -> None:
        with self.changed:
            self.take(replica, report)
            self.decide()

    def take(self, replica: str, report: Dict[str, Any]) -> None:
        """Keeps a report, if it is of this generation. Called under the lock."""
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
        self.revisions[replica] = self.revisions.get(replica, 0) + 1
        return self.revisions[replica]

    def mark_lost(self, replica: str) -> None:
        report = self.reports.get(replica, {"replica": replica, "since": time.time()})
        self.reports[replica] = dict(report, state="failed", exit_code=137, message=LOST, kind="lost",
                                     finished=time.time(), revision=self.next_revision(replica))  # fmt: skip

    def wait(self, version: int, seconds: float, alive: Any, replica: Optional[str] = None) -> Dict[str, Any]:
        """What the gang is to do, as soon as it differs from version or the seconds are over."""
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

    def cluster(self) -> Dict[str, Any]:
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

    def order(self) -> Dict[str, Any]:
        return {"version": self.version, "generation": self.generation, "phase": self.phase, "result": self.result,
                "released": self.released, "kept": self.kept,
                "stalled": (self.restarting or self.cause or {}).get("kind") == "stalled"}  # fmt: skip

    def snapshot(self) -> Dict[str, Any]:
        with self.changed:
            return dict(self.order(), cause=self.cause, times=dict(self.times), replicas=dict(self.reports),
                        restarts=list(self.restarts), restarts_allowed=self.job.restarts, behind=self.behind)  # fmt: skip

    def brief(self) -> Dict[str, Any]:
        """The gang in one line, whatever the number of replicas: how many are in which state, and their sums."""
        with self.changed:
            reports = [self.reports[r] for r in self.job.replicas if r in self.reports]
            running = [report for report in reports if report["state"] == "running"]
            usages = [report["usage"] for report in running if report.get("usage")]
            gpus = [gpu for usage in usages for gpu in usage["gpus"]]
            uses, memory = ([gpu[key] for gpu in gpus if gpu[key] is not None] for key in ("use", "memory"))
            usage = {"cpu": round(sum(u["cpu"] for u in usages), 2), "memory": sum(u["memory"] for u in usages),
                     "gpus": {"count": len(gpus), "use": sum(uses) / len(uses) if uses else None,
                              "memory": sum(memory) if memory else None}}  # fmt: skip
            progress: Dict[str, Any] = next((report["progress"] for report in running if report.get("progress")), {})
            return dict(self.order(), times=dict(self.times), states=Counter(report["state"] for report in reports),
                        usage=usage if usages else {}, progress=progress, behind=self.behind,
                        restarts=len(self.restarts))  # fmt: skip

    def find_behind(self) -> Dict[str, float]:
        """The trainers that are behind the others, and by how many seconds."""
        running_s = time.time() - self.times.get("running", time.time())
        least_s = min(max(BEHIND_S[0], BEHIND_PART * running_s), BEHIND_S[1])
        late = self.trail.late() if self.phase == "running" else {}
        return {r: round(s, 1) for r, s in late.items() if s > least_s and self.reports[r]["state"] == "running"}

    def release(self) -> None:
        with self.changed:
            self.released = True
            self.moved()

    def keep(self) -> None:
        with self.changed:
            self.kept = True
            self.moved()

    def interrupt(self) -> Dict[str, Any]:
        """Stops the gang for good, as a failure does, for the one who started it; returns the order until now."""
        with self.changed:
            before = self.order()
            if not self.result:
                self.restarting = None
                cause = {"replica": None, "message": INTERRUPTED, "kind": "interrupted", "exit_code": None}
                self.enter("stopping", "interrupted", cause)
            return before

    def tick(self) -> None:
        with self.changed:
            self.decide()
            self.behind = self.find_behind()

    def moved(self) -> None:
        self.version += 1
        self.changed.notify_all()

    def enter(self, phase: str, result: Optional[str] = None, cause: Optional[Dict[str, Any]] = None) -> None:
        self.phase, self.phase_since = phase, time.monotonic()
        self.times[phase] = time.time()
        if result:
            self.result, self.cause = result, cause
        self.moved()

    def fail(self, cause: Dict[str, Any]) -> None:
        """Stops the gang: for good, or to start it again where the cause is one to restart on."""
        if cause.get("kind", "failed") not in self.job.restart_on or self.generation >= self.job.restarts:
            return self.enter("stopping", "failed", cause)
        self.restarting = cause
        self.enter("stopping")

    def begin(self, generation: int, cause: Dict[str, Any]) -> None:
        """All replicas start again; each has to report anew."""
        told = {key: cause.get(key) for key in ("replica", "message", "kind")}
        self.restarts.append(dict(told, generation=generation, time=time.time()))
        self.generation, self.restarting = generation, None
        self.reports, self.seen, self.hung_up, self.trail = {}, {}, {}, Trail()
        self.formed_at = time.monotonic()
        self.enter("forming")

    def decide(self) -> None:
        """Moves the gang on, if what is known allows it. Called under the lock."""
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
        """Whether a replica of a gang that stops is to be waited for: its script, or what it puts into a bucket."""
        now, report = time.monotonic(), self.reports.get(replica, {})
        if report.get("state") not in FINISHED:
            return now - self.phase_since <= STOP_GRACE_S + LOST_AFTER_S
        return bool(report.get("storing")) and now - self.seen.get(replica, now) <= LOST_AFTER_S

    def is_lost(self, replica: str) -> bool:
        """Whether a replica that was here is not heard of any more."""
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

    def blamed(self, failed: List[Dict[str, Any]]) -> Optional[Dict[str, Any]]:
        """The replica that still runs where all others lost a peer, or that they say fell silent."""
        states = {r: report["state"] for r, report in self.reports.items()}
        names = {r["blames"] for r in failed if r.get("blames")}
        if not names:
            names = {r for r in self.job.replicas if is_trainer(r) and states.get(r) == "running"}
        name = names.pop() if len(names) == 1 else ""
        if states.get(name, FINISHED[0]) in FINISHED:
            return None
        return dict(self.reports[name], message=FROZEN, kind="lost", exit_code=None)

    def decide_start(self) -> None:
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

    def stalled(self) -> Optional[Dict[str, Any]]:
        """The replica that stopped first, once no trainer says or steps any more."""
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

    def located(self, cause: Dict[str, Any]) -> Dict[str, Any]:
        """A stall's cause, once the stacks have come: the one replica that does not wait for its peers in TensorFlow."""
        if cause.get("kind") != "stalled":
            return cause
        trainers = [self.reports[r] for r in self.job.replicas if is_trainer(r)]
        stood = [r for r in trainers if r["state"] != "succeeded"]
        mute = [r for r in stood if not r.get("stands")]  # such as a frozen one
        busy = [r for r in stood if r.get("stands") and not IN_TENSORFLOW.search(r["stands"][0])]
        found = mute if len(mute) == 1 < len(stood) else busy
        if len(found) != 1:
            return dict(cause, stands=self.reports[cause["replica"]].get("stands"))
        where = f", in {place_in(found[0]['stands'])}" if found[0].get("stands") else ""
        message = f"stopped first{where}: {QUIET.format(self.job.stall_timeout_s)}"
        return dict(found[0], message=message, kind="stalled", exit_code=None)

    def silent_s(self, report: Dict[str, Any]) -> float:
        now = time.monotonic()
        return float(report.get("silent_s", 0.0)) + now - self.seen.get(report["replica"], now)

    def decide_end(self) -> None:
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


class Trail:
    """When the trainers were where: who comes to a place much later than half of them is behind.

    Where one of them tells of whole epochs alone, all are compared by their epochs.
    """

    def __init__(self) -> None:
        self.places: Dict[str, Tuple[int, float]] = {}  # epoch and step, the furthest: an evaluation counts anew
        self.told_at: Dict[str, float] = {}
        self.tells_steps: Set[str] = set()
        self.passed: List[Tuple[int, float]] = []  # places where half of the trainers were,
        self.passed_at: List[float] = []  # and since when

    def take(self, replica: str, progress: Dict[str, Any], now: float) -> None:
        if not progress:
            return
        place = progress.get("epoch", 0), progress.get("step", 0)
        if "step" in progress and progress["step"] != progress.get("steps"):
            self.tells_steps.add(replica)
        self.places[replica], self.told_at[replica] = max(place, self.places.get(replica, place)), now
        middle = sorted(self.places.values())[len(self.places) // 2]
        if not self.passed or middle > self.passed[-1]:
            self.passed.append(middle)
            self.passed_at.append(now)
        if len(self.passed) > 1000:
            del self.passed[:-500:2], self.passed_at[:-500:2]

    def late(self) -> Dict[str, float]:
        """For how many seconds half of the trainers had been further when each told its place last; 0 if they were not."""
        by_epochs = self.tells_steps != set(self.places)
        found = {}
        for replica, (epoch, step) in self.places.items():
            index = bisect_right(self.passed, (epoch, math.inf if by_epochs else step))
            found[replica] = self.told_at[replica] - self.passed_at[index] if index < len(self.passed) else 0.0
        return found


def is_trainer(replica: str) -> bool:
    return replica.rsplit("-", 1)[0] in TRAINERS


def step_of(report: Dict[str, Any]) -> Tuple[int, int]:
    """How far Keras is there: the epoch, and its step once it has told one."""
    progress = report.get("progress") or {}
    return progress.get("epoch", 0), progress.get("step", 0)


def stands_at(output: bytes) -> List[str]:
    """The stack of the thread that got SIGABRT, innermost first, as faulthandler wrote it last into a script's output."""
    stack = output.rpartition(b"Current thread ")[2].decode(errors="replace").splitlines()[1:]
    return [line.strip() for line in itertools.takewhile(lambda line: line.startswith("  File "), stack)]


def place_in(stack: List[str]) -> str:
    """The innermost place of a stack, such as "train.py, line 33, in on_epoch_end"."""
    found = PLACE.match(stack[0])
    return f"{found[1]}, line {found[2]}, in {found[3]}" if found else stack[0]


# ---- what others say, read with bounds ----------------------------------------------------------

Check = Callable[[Any], Any]  # gives a value as it is kept; raises ValueError where it is none such

STRUCTURE = bytes(set(range(256)) - set(b"[]{},:"))
LONG_NUMBER = re.compile(rb"(?<![0-9])[0-9]{400}")


def read_json(data: bytes, most_marks: int) -> Any:
    """The value of JSON text. Raises ValueError, and before it makes an object, for what is nested deeper than DEEPEST or has more marks.

    Marks are brackets, commas and colons: a list of three values has four.
    """
    plain = data.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in data else data
    if plain.count(b'"') > 2 * most_marks + 2:
        raise ValueError("too many texts")
    bare = b"".join(plain.split(b'"')[::2])  # without its texts
    marks = bare.translate(None, STRUCTURE)
    if len(marks) > most_marks:
        raise ValueError(f"more than {most_marks:,} values")
    brackets = marks.translate(None, b",:")
    for _ in range(DEEPEST):  # each time the innermost go
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    if brackets:
        raise ValueError(f"nested deeper than {DEEPEST}, or not closed")
    if LONG_NUMBER.search(bare):
        raise ValueError("a number of 400 digits")
    return json.loads(data.decode())  # as UTF-8: in another encoding the marks would have been others


def shown(value: Any) -> str:
    """A value that another sent, short and fit for a message."""
    try:
        text = ascii(value)
    except (ValueError, RecursionError):  # a number of thousands of digits
        return f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:60]}..."


def whole_number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError(f"{shown(value)} is not a whole number")
    return value


def number(value: Any) -> float:
    if type(value) not in (int, float) or not -1e15 <= value <= 1e15:
        raise ValueError(f"{shown(value)} is not a number")
    return value  # type: ignore[no-any-return]  # an int or a float: see above


def metric(value: Any) -> float:
    """What Keras prints, such as NaN."""
    if type(value) is float:
        return value
    return float(number(value))


def text(value: Any, longest: int = LONGEST_TEXT) -> str:
    if type(value) is not str:
        raise ValueError(f"{shown(value)} is not a text")
    return value[:longest]


def lines(value: Any) -> List[str]:
    if type(value) is not list:
        raise ValueError(f"{shown(value)} is not a list of lines")
    return [text(line, LONGEST_LINE) for line in value[:MOST_LINES]]


def flag(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError(f"{shown(value)} is neither true nor false")
    return value


def network_address(value: Any) -> str:
    found = ADDRESS.fullmatch(text(value, 300))
    if not found or not 0 < int(found[1]) < 65536:
        raise ValueError(f"{shown(value)} is not an address with a port")
    return str(value)


def one_of(*values: Any) -> Check:
    def check(value: Any) -> Any:
        if type(value) not in (str, type(None)) or value not in values:
            raise ValueError(f"{shown(value)} is none of {', '.join(map(str, values))}")
        return value

    return check


def or_none(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


def fields(value: Any, checks: Mapping[str, Check], needed: Tuple[str, ...] = ()) -> Dict[str, Any]:
    """Of an object what is known, each checked; raises ValueError that names what is wrong or missing."""
    if type(value) is not dict:
        raise ValueError(f"{shown(value)} is not an object")
    missing = [key for key in needed if key not in value]
    if missing:
        raise ValueError(f"it has no {missing[0]}")
    found = {}
    for key, check in checks.items():
        if key in value:
            try:
                found[key] = check(value[key])
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from None
    return found


def metrics_of(value: Any) -> Dict[str, float]:
    if type(value) is not dict:
        raise ValueError(f"{shown(value)} is not an object")
    return {text(name, 100): metric(found) for name, found in itertools.islice(value.items(), MOST_METRICS)}


def progress_of(value: Any) -> Dict[str, Any]:
    """What Keras told, as Log keeps it; a place without its whole does not count."""
    found = fields(value, PROGRESS)
    for parts in (("epoch", "epochs"), ("step", "steps"), ("epoch_s", "epoch_since")):
        if parts[0] in found and parts[1] not in found:
            raise ValueError(f"it has no {parts[1]}")
    return found


def gpus_of(value: Any) -> List[Dict[str, Any]]:
    if type(value) is not list or len(value) > MOST_GPUS:
        raise ValueError(f"{shown(value)} is not a list of GPUs")
    return [fields(gpu, GPU, ("use", "memory")) for gpu in value]


def usage_of(value: Any) -> Dict[str, Any]:
    return fields(value, USAGE, ("cpu", "memory", "gpus") if value else ())


PROGRESS: Dict[str, Check] = {"epoch": whole_number, "epochs": whole_number, "epoch_since": number, "epoch_s": number,
            "step": whole_number, "steps": or_none(whole_number), "metrics": metrics_of, "rate": number}  # fmt: skip
GPU: Dict[str, Check] = {"name": text, "use": or_none(number), "memory": or_none(whole_number),
       "memory_total": or_none(whole_number), "error": text}  # fmt: skip
USAGE: Dict[str, Check] = {"cpu": number, "memory": whole_number, "gpus": gpus_of, "gpus_missing": text}
UNKEPT: Dict[str, Check] = {"bytes": whole_number, "why": text}
STORED: Dict[str, Check] = {"uri": text, "files": whole_number, "size": whole_number, "failure": or_none(text)}
REPORT: Dict[str, Check] = {
    "replica": text, "state": one_of(*STATES), "message": text, "since": number, "life": text,
    "address": network_address, "agent": network_address, "generation": whole_number,
    "met": lambda value: value if value == -1 and type(value) is int else whole_number(value),
    "checkpoint": whole_number, "progress": progress_of, "usage": usage_of, "log_size": whole_number, "silent_s": number,
    "started": number, "finished": number, "pid": whole_number, "exit_code": or_none(whole_number), "kind": one_of(*KINDS),
    "hint": or_none(text), "tail": lines, "stands": lines, "peer_lost": flag, "blames": text, "storing": text,
    "unkept": lambda value: fields(value, UNKEPT, tuple(UNKEPT)),
    "stored": or_none(lambda value: fields(value, STORED, ("uri", "files", "size", "failure"))), "revision": whole_number,
}  # fmt: skip


def report_of(value: Any, replicas: Any, most_restarts: int) -> Dict[str, Any]:
    """A replica's report of itself, as far as it is known, with bounds; raises ValueError where it is none."""
    needed = ("replica", "state", "since", "message", "address", "agent", "life", "generation", "met")
    report = fields(value, REPORT, needed)
    if report["replica"] not in replicas:
        raise ValueError(f"there is no replica {shown(report['replica'])}")
    if max(report["generation"], report["met"]) > most_restarts:
        raise ValueError(f"there are {most_restarts} restarts at most")
    if report["state"] in FINISHED and "finished" not in report:
        raise ValueError("it has ended, and does not say when")
    if report.get("blames") not in replicas:  # a script's log may name any
        report.pop("blames", None)
    return report


ORDER: Dict[str, Check] = {
    "version": whole_number, "generation": whole_number, "phase": one_of(*PHASES), "result": one_of(*RESULTS),
    "released": flag, "kept": flag, "stalled": flag,
}  # fmt: skip


def order_of(value: Any) -> Dict[str, Any]:
    return fields(value, ORDER, tuple(ORDER))


def relative_name(value: Any) -> str:
    name = text(value)
    if "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise ValueError(f"{shown(name)} is no path below a folder")
    return name


FILE: Dict[str, Check] = {
    "path": relative_name, "size": whole_number, "sha256": text, "mtime_ns": whole_number,
}  # fmt: skip
FILE_HEAD: Dict[str, Check] = {"path": text, "size": whole_number, "missing": flag, "end": flag}


def checkpoint_of(value: Any) -> List[Dict[str, Any]]:
    """The files that another agent's /checkpoints lists."""
    files = value.get("files") if type(value) is dict else None
    if type(files) is not list:
        raise ValueError(f"{shown(value)} is not a list of files")
    return [fields(file, FILE, tuple(FILE)) for file in files]


def log_place(header: Optional[str]) -> int:
    """A place in a log, as a header tells it; behind a base it has 19 digits. Raises ValueError for what is none."""
    if not re.fullmatch("[0-9]{1,19}", header or ""):
        raise ValueError(f"{shown(header)} is no place in a log")
    return whole_number(int(str(header)))


def next_offset(header: Optional[str], asked: int) -> int:
    """Where a log's answer begins: where it was asked for, or at the base of a process that took the other's place.

    Raises ValueError for another place. A base is 2^32 times the time at which that process began.
    """
    begins = log_place(header)
    is_base = begins > asked and not begins & 0xFFFFFFFF and begins >> 32 <= time.time() + CLOCKS_DIFFER_S
    if begins != asked and not is_base:
        raise ValueError(f"its log at {begins} came, and at {asked} was asked for")
    return begins


# ---- HTTP between agents ------------------------------------------------------------------------


RESOLVED: Dict[str, str] = {}  # host name -> address: a look-up that is lost on its way costs 5 s


def address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_address(address: str) -> Tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def resolve(host: str) -> str:
    """The host's address, asked for once. Raises socket.gaierror."""
    if host not in RESOLVED:
        try:
            found = socket.getaddrinfo(host, None, socket.AF_INET)  # alone: A and AAAA together race in conntrack
        except socket.gaierror:
            found = socket.getaddrinfo(host, None, socket.AF_INET6)
        RESOLVED[host] = str(found[0][4][0])
    return RESOLVED[host]


def connect(host: str, timeout_s: float) -> Connection:
    name, port = split_address(host)
    return Connection(resolve(name), port, timeout=timeout_s)


class Line(socket.socket):
    """A connection whose other side has to keep up; where it does not, TimeoutError is raised.

    A socket's own time-out starts anew with each byte. Here a window is of time that was spent in waiting for the other
    side, and of the bytes that came from it or arrived there meanwhile.
    """

    carried = 0  # bytes that came, and that were given to the kernel to be sent
    last_arrived = (-1, 0.0)  # how much had arrived, and since when no more has

    @classmethod
    def over(cls, plain: socket.socket) -> Line:
        """The same connection, as a line."""
        line = cls(plain.family, plain.type, plain.proto, fileno=plain.detach())
        line.begin(IDLE_S, math.inf)
        return line

    def begin(self, within_s: float, least: float = SLOWEST) -> None:
        """From here on, each within_s of waiting have to bring so many bytes a second; inf: all there is to come."""
        self.within_s, self.least, self.waited_s = within_s, least, 0.0
        self.arrived_before = self.carried
        if not within_s / 2 <= (self.gettimeout() or 0.0) <= within_s:  # it only says how soon a wait is judged
            self.settimeout(within_s)

    def arrived(self) -> int:
        """Of what was carried, the bytes that are not on their way still: kernels hold megabytes for a slow reader."""
        try:
            on_their_way: bytes = fcntl.ioctl(self.fileno(), termios.TIOCOUTQ, bytes(4))
        except OSError:  # it cannot be told
            return self.carried
        return self.carried - int.from_bytes(on_their_way, sys.byteorder)

    def is_dead(self) -> bool:
        """Whether what was sent does not arrive, for KEEPS_UP_S; to be asked again and again."""
        arrived, now = self.arrived(), time.monotonic()
        if arrived == self.carried or arrived != self.last_arrived[0]:
            self.last_arrived = arrived, now
        return now - self.last_arrived[1] > KEEPS_UP_S

    def judge(self, began: float) -> None:
        """Counts a wait; at a window's end, raises where too little has come of it."""
        self.waited_s += time.monotonic() - began
        left_s = self.within_s - self.waited_s
        if left_s > 0.9 * self.within_s:
            return
        if left_s > 0:
            return self.settimeout(left_s)
        arrived = self.arrived()
        if arrived - self.arrived_before < self.least * self.waited_s:
            raise socket.timeout(f"timed out: {arrived - self.arrived_before} bytes in {self.waited_s:.0f} s")
        self.begin(self.within_s, self.least)
        self.arrived_before = arrived

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        while True:
            began = time.monotonic()
            try:
                size: int = super().recv_into(buffer, nbytes, flags)
            except socket.timeout:
                self.judge(began)
                continue
            self.carried += size
            self.judge(began)
            return size

    def sendall(self, data: Any, flags: int = 0) -> None:
        at = 0
        with memoryview(data) as whole:
            while at < len(whole):
                began = time.monotonic()
                with suppress(socket.timeout):
                    sent = self.send(whole[at:], flags)
                    at += sent
                    self.carried += sent
                self.judge(began)

    def wait(self) -> None:
        """Until something can be sent, or a window ends."""
        waiting, began = select.poll(), time.monotonic()
        waiting.register(self, select.POLLOUT)
        waiting.poll(math.ceil(1000 * max(0.0, self.within_s - self.waited_s)))
        self.judge(began)

    def sendfile(self, file: Any, offset: int = 0, count: Optional[int] = None) -> int:
        """Sends so many of a file's bytes, or all; says how many there were."""
        sent, left = 0, sys.maxsize if count is None else count
        while left:
            try:
                size = os.sendfile(self.fileno(), file.fileno(), offset + sent, min(left, 1 << 30))
            except BlockingIOError:
                self.wait()
                continue
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise
                data = os.pread(file.fileno(), min(left, CHUNK), offset + sent)  # such a file the kernel does not send
                self.sendall(data)
                size = len(data)
            else:
                self.carried += size
            if not size:
                break
            sent, left = sent + size, left - size
        return sent


class Connection(http.client.HTTPConnection):
    """By a line."""

    sock: Line

    def connect(self) -> None:
        super().connect()
        self.sock = Line.over(self.sock)


class Key:
    """What the launcher and the agents of a job have in common: each proves to know it, and none sends it.

    A request names its sender and a number, and proves the key over these, its replica, method and path; an answer over
    the same request and its status. Who got hold of a replica's port can therefore neither answer a new request nor
    make one. Bodies are not proven: who can change bytes on their way changes those.
    """

    MOST_ASKED = 1 << 17  # replicas, of all jobs, before this process takes another name and counts anew
    # This process, and the number of its next request to each replica, told by token and name.
    sending: Tuple[str, Dict[Tuple[bytes, str], Iterator[int]]] = (os.urandom(8).hex(), {})
    signed = re.compile(r"([0-9a-f]{16})\.([0-9]{1,18})\.([0-9a-f]{64})")

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    def request(self, replica: str, method: str, path: str) -> str:
        """The header of a new request."""
        if len(Key.sending[1]) >= Key.MOST_ASKED:
            Key.renew()
        sender, numbers = Key.sending  # together: another thread may renew them
        asked = f"{sender}.{next(numbers.setdefault((self._token, replica), itertools.count(1)))}"
        return f"{asked}.{self._prove('request', asked, replica, method, plain(path))}"

    def verified(self, header: str, replica: str, method: str, path: str) -> Optional[Tuple[str, int]]:
        """The sender and the number of a request that has this header; None where it does not know the key."""
        found = Key.signed.fullmatch(header)
        if not found:
            return None
        expected = self._prove("request", f"{found[1]}.{found[2]}", replica, method, plain(path))
        return (found[1], int(found[2])) if hmac.compare_digest(found[3], expected) else None

    def answer(self, request: str, replica: str, status: int) -> str:
        """The header of the answer to a request that had this header."""
        return self._prove("answer", request, replica, str(status))

    def is_answer(self, header: Optional[str], request: str, replica: str, status: int) -> bool:
        """Whether an answer that has this header comes from one who knows the key."""
        expected = self.answer(request, replica, status)
        return hmac.compare_digest((header or "").encode("utf-8", "replace"), expected.encode())

    def _prove(self, *words: str) -> str:
        return hmac.new(self._token, "\n".join(words).encode("utf-8", "replace"), hashlib.sha256).hexdigest()

    @classmethod
    def renew(cls) -> None:
        """A forked process is another sender."""
        cls.sending = os.urandom(8).hex(), {}


os.register_at_fork(after_in_child=Key.renew)


def plain(path: str) -> str:
    """A request's path as it is meant: a proxy on the way may write %2A for * or the like."""
    path, _, query = path.partition("?")
    return f"{unquote(path)}?{parse_qsl(query, keep_blank_values=True)}"


class Answered:
    """The requests that have been answered, so that none counts twice: of each sender the last WINDOW numbers."""

    WINDOW, SENDERS = 256, 4096

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.last: OrderedDict[str, Tuple[int, int]] = OrderedDict()  # sender -> highest number, bits of those below

    def is_new(self, sender: str, number: int) -> bool:
        with self.lock:
            highest, bits = self.last.pop(sender, (number, 0))
            if number > highest:
                highest, bits = number, bits << min(number - highest, self.WINDOW)
            back = highest - number
            is_new = back < self.WINDOW and not bits >> back & 1
            if is_new:
                bits |= 1 << back
            self.last[sender] = highest, bits & ((1 << self.WINDOW) - 1)
            if len(self.last) > self.SENDERS:
                self.last.popitem(last=False)
            return is_new


class Peer:
    """Another agent, as this one asks it."""

    def __init__(self, key: Key, replica: str, host: str) -> None:
        self.key, self.replica, self.host = key, replica, host

    def ask(
        self, method: str, path: str, body: Any = None, timeout_s: float = 15.0,
        connection: Optional[Connection] = None, whole: bool = False,
    ) -> http.client.HTTPResponse:  # fmt: skip
        """One request, by a connection that is there, or a new one; the caller reads the reply.

        All of it has to come within timeout_s where it is asked for whole; else its head, and the rest no slower than
        SLOWEST. Raises OSError on anything but 200, and where something else answers.
        """
        connection = connection or connect(self.host, timeout_s)
        data = None if body is None else json.dumps(body).encode()
        request = self.key.request(self.replica, method, path)
        is_right = False
        try:
            if connection.sock is None:
                connection.connect()
            line = connection.sock
            line.begin(timeout_s, math.inf)
            connection.request(method, path, data, {PROOF_HEADER: request})
            response = connection.getresponse()
            is_right = self.key.is_answer(response.headers.get(PROOF_HEADER), request, self.replica, response.status)
            if response.status != 200:
                text = response.read(500).decode(errors="replace").strip()
                raise OSError(f"{method} {path} at {self.host}: {response.status} {text}")
        finally:
            if not is_right:
                RESOLVED.pop(split_address(self.host)[0], None)  # it may have another address by now
        if not is_right:
            raise OSError(
                f"what answers at {self.host} is not {self.replica}'s agent: it does not know the job's token"
            )
        if not whole:
            line.begin(timeout_s)
        return response

    def ask_json(self, method: str, path: str, body: Any = None, timeout_s: float = 15.0) -> Any:
        try:
            with self.ask(method, path, body, timeout_s, whole=True) as response:
                return read_json(response.read(LONGEST_WANTED), MARKS_OF_ANSWER)
        except (http.client.HTTPException, ValueError) as error:
            raise OSError(f"{method} {path} at {self.host}: {error!r}") from None


def reach(agent: str) -> Optional[str]:
    """Why an agent's address cannot be reached; None where it can."""
    try:
        socket.create_connection(split_address(agent), timeout=3).close()
    except OSError as error:
        return f"{agent}: {error.strerror or error}"
    return None


class Handler(BaseHTTPRequestHandler):
    """Answers for one agent, which stands in the server object."""

    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"  # of what does not say its own: it too is told a status
    disable_nagle_algorithm = True
    server: Server
    connection: Line
    asked: Optional[str] = None  # the proof that this request has shown
    unread = 0  # bytes of the request's body

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def send_error(self, code: int, message: Optional[str] = None, explain: Optional[str] = None) -> None:
        """What is no HTTP is answered like any other stranger, and not by a page of Python's."""
        self.refuse(401, NOT_KNOWN)

    def version_string(self) -> str:
        return "tf-spawner"  # not which Python this is

    def send_response(self, code: int, message: Optional[str] = None) -> None:
        """Every answer tells a browser that no page may use it, as an image, a script or a style either, and proves the key."""
        super().send_response(code, message)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        if self.asked:
            agent = self.server.agent
            self.send_header(PROOF_HEADER, agent.key.answer(self.asked, agent.replica, int(code)))

    def __getattr__(self, name: str) -> Any:
        """Every method there is, and every other word in its place, is answered in the same way."""
        if name.startswith("do_"):
            return self.handle_any
        raise AttributeError(name)

    def handle_one_request(self) -> None:
        self.asked = None
        self.connection.begin(IDLE_S, math.inf)
        super().handle_one_request()

    def is_known(self) -> bool:
        """Whether the request proves to know the job's token, for the first time; a stranger's is answered here."""
        agent, header = self.server.agent, self.headers.get(PROOF_HEADER, "")
        if self.asked is None:
            sender = agent.key.verified(header, agent.replica, self.command, self.path)
            if sender is None or not agent.answered.is_new(*sender):
                self.refuse(401, NOT_KNOWN)
                return False
            self.asked = header
            self.server.forget(self.connection)
        return True

    def handle_expect_100(self) -> bool:
        return self.is_known() and super().handle_expect_100()

    def handle_any(self) -> None:
        agent = self.server.agent
        if not self.is_known() or not self.has_length():
            return
        self.connection.begin(KEEPS_UP_S)
        try:
            url = urlsplit(self.path)
        except ValueError as error:
            return self.refuse(400, f"bad request: {error!r}")
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        name = f"{self.command.lower()}_{url.path.strip('/').split('/')[0]}"
        handle = getattr(self, name, None) if self.command in ("GET", "POST", "PUT") else None
        if handle is None:
            return self.refuse(404, f"no {self.command} {url.path} here")
        try:
            with agent.serving(name):
                handle(agent, url.path, query)
        except (BrokenPipeError, ConnectionError, socket.timeout):
            self.close_connection = True
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError, OSError) as error:
            self.refuse(400, f"bad request: {error!r}")

    def has_length(self) -> bool:
        """Whether it is known how long the request's body is; where it is not, it is answered here."""
        told = self.headers.get_all("Content-Length", ["0"])
        self.unread = int(told[0]) if len(told) == 1 and re.fullmatch("[0-9]{1,18}", told[0]) else -1
        if self.unread >= 0 and "Transfer-Encoding" not in self.headers:
            return True
        self.refuse(400, "bad request: its body has no length")
        return False

    def refuse(self, status: int, message: str) -> None:
        self.close_connection = True  # what is left of a stranger's body is not read
        if self.asked:
            self.drain()
        self.reply(message.encode(), status)

    def read(self, most: int) -> bytes:
        """The next of the request's body."""
        data = self.rfile.read(min(most, self.unread))
        self.unread = self.unread - len(data) if data else 0
        return data

    def drain(self) -> None:
        """Takes what is left of the body: a proxy that cannot send it to its end passes no answer on."""
        deadline = time.monotonic() + DRAIN_S
        with suppress(OSError):  # a time-out is one
            while self.unread > 0 and time.monotonic() < deadline:
                self.connection.begin(DRAIN_IDLE_S)
                data = self.rfile.read1(min(CHUNK, self.unread))  # what there is
                if not data:
                    break
                self.unread -= len(data)

    def reply(self, data: bytes, status: int = 200, headers: Optional[Dict[str, str]] = None) -> None:
        self.close_connection = self.close_connection or self.unread > 0  # it would be taken for the next request
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def reply_json(self, value: Any) -> None:
        self.reply(json.dumps(value).encode(), headers={"Content-Type": "application/json"})

    def begin_stream(self) -> None:
        """Begins an answer of any length; a client that does not keep up is hung up on, and may begin again."""
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Connection", "close")
        self.end_headers()

    def frame(self, head: Dict[str, Any], data: bytes = b"") -> None:
        self.wfile.write(json.dumps(head).encode() + b"\n" + data)

    def body(self, longest: int, most_marks: int) -> Any:
        if self.unread > longest:
            raise ValueError(f"{self.unread} bytes are more than the {longest} that this may take")
        data, self.unread = self.rfile.read(self.unread), 0
        return read_json(data, most_marks)

    def alive(self) -> bool:
        """Whether the other side still holds the connection (it sends nothing while it waits)."""
        waiting = select.poll()  # select() fails where more than 1,024 files are open
        waiting.register(self.connection, select.POLLIN)
        return not waiting.poll(0)

    def gang(self) -> Gang:
        gang = self.server.agent.gang
        if gang is None:
            raise ValueError("this replica is not the coordinator, which is " + self.server.agent.job.coordinator)
        return gang

    def get_status(self, agent: Agent, path: str, query: Dict[str, str]) -> None:
        if not agent.gang:
            return self.reply_json({"replicas": {agent.replica: agent.report}})
        self.reply_json(agent.gang.brief() if "brief" in query else agent.gang.snapshot())

    def get_log(self, agent: Agent, path: str, query: Dict[str, str]) -> None:
        offset, wait = whole_number(int(query.get("offset", 0))), min(30.0, float(query.get("wait", 0)))
        offset = max(offset, agent.log.base)
        ended = agent.log.wait_for(offset, wait, self.alive)
        data = agent.log.read(offset, max(1, min(LOG_ANSWER, int(query.get("most", LOG_ANSWER)))))
        last = ended and offset + len(data) >= agent.log.size
        self.reply(data, headers={"X-Offset": str(offset), "X-End": str(int(last)), "X-Size": str(agent.log.size)})

    def post_report(self, agent: Agent, path: str, query: Dict[str, str]) -> None:
        report = report_of(self.body(LONGEST_REPORT, MARKS_OF_REPORT), agent.job.replicas, agent.job.restarts)
        self.gang().report(report["replica"], report)
        self.reply_json({})

    def get_order(self, agent: Agent, path: str, query: Dict[str, str]) -> None:
        wait_s = min(10.0, float(query.get("wait", 10.0)))
        self.reply_json(self.gang().wait(int(query["version"]), wait_s, self.alive, query.get("replica")))

    def get_cluster(self, agent: Agent, path: str, query: Dict[str, str]) -> None:
        if self.gang().phase == "forming":
            return self.refuse(503, "not all replicas have reported yet")
        self.reply_json(self.gang().cluster())

    def post_release(self, agent: Agent, path: str, query: Dict[str, str]) -> None:
        self.gang().release()
        self.reply_json({})

    def post_keep(self, agent: Agent, path: str, query: Dict[str, str]) -> None:
        self.gang().keep()
        self.reply_json({})

    def post_stop(self, agent: Agent, path: str, query: Dict[str, str]) -> None:
        self.reply_json(self.gang().interrupt())

    def put_code(self, agent: Agent, path: str, query: Dict[str, str]) -> None:
        if agent.code.arrived.is_set():  # such as by a request whose answer was lost
            digest = hashlib.sha256()
            for data in iter(lambda: self.read(CHUNK), b""):
                digest.update(data)
            if digest.hexdigest() != agent.job.code_sha256:
                raise ValueError("the code is here already, and this is another")
            return self.reply_json({})
        if self.unread > shutil.disk_usage(agent.root).free:
            raise ValueError(f"there is no room for {self.unread} bytes")
        agent.code.receive(self, self.unread)
        self.reply_json({})

    def get_code(self, agent: Agent, path: str, query: Dict[str, str]) -> None:
        if "wanted" in query:
            is_wanted = query["wanted"] == agent.job.code_sha256 and not agent.code.arrived.is_set()
            return self.reply_json({"wanted": is_wanted})
        if not agent.code.arrived.wait(min(10.0, float(query.get("wait", 10)))):
            return self.refuse(503, "the code is not here yet")
        with open(agent.code.archive, "rb") as file:
            self.send_response(200)
            self.send_header("Content-Length", str(os.fstat(file.fileno()).st_size))
            self.end_headers()
            self.connection.sendfile(file)

    def get_files(self, agent: Agent, path: str, query: Dict[str, str]) -> None:
        self.reply_json(agent.files.manifest(query.get("named"), self.alive))

    def get_checkpoints(self, agent: Agent, path: str, query: Dict[str, str]) -> None:
        self.reply_json(agent.checkpoints.newest.manifest(alive=self.alive))

    def post_files(self, agent: Agent, path: str, query: Dict[str, str]) -> None:
        self.send_files(agent.files)

    def post_checkpoints(self, agent: Agent, path: str, query: Dict[str, str]) -> None:
        self.send_files(agent.checkpoints.newest)

    def send_files(self, files: Files) -> None:
        body = self.body(LONGEST_WANTED, MARKS_OF_WANTED)
        wanted = [(text(name), whole_number(offset), whole_number(size)) for name, offset, size in body]
        self.begin_stream()
        small = bytearray()  # many small files make few packets
        for name, offset, size in wanted:
            source = files.open(name, size)
            if source is None or offset > size:
                small += json.dumps({"path": name, "missing": True}).encode() + b"\n"
                continue
            left = size - offset
            with source:
                small += json.dumps({"path": name, "offset": offset, "size": left}).encode() + b"\n"
                if left <= SMALL:
                    source.seek(offset)
                    small += source.read(left)
                else:
                    self.wfile.write(small)
                    small.clear()
                    if self.connection.sendfile(source, offset, left) != left:
                        return  # the file shrank: the stream ends without its end
            if len(small) > CHUNK:
                self.wfile.write(small)
                small.clear()
        self.wfile.write(small)
        self.frame({"end": True})

    def post_stream(self, agent: Agent, path: str, query: Dict[str, str]) -> None:
        count = len(agent.job.replicas)
        asked = self.body(1024 + 512 * count, 16 + 4 * count)["offsets"]
        offsets = {} if asked is None else {r: whole_number(asked.get(r, 0)) for r in agent.job.replicas}
        self.gang()
        with self.server.streaming(Stream.most_bytes(len(offsets))) as others:
            if others:
                return self.refuse(503, f"{others} streams are open here, and there is no memory for one more: "
                                        "end one, such as a tf-spawner logs -f")  # fmt: skip
            self.begin_stream()
            stream = Stream(agent, offsets, lambda: self.alive() and not self.connection.is_dead())
            try:
                for head, data in stream.frames():
                    self.frame(head, data)
            finally:
                stream.close()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, agent: Agent, listener: socket.socket) -> None:
        super().__init__(listener.getsockname()[:2], Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.agent = agent
        self.strangers: Dict[socket.socket, float] = {}  # who has not shown the token yet, and since when
        self.streams: List[int] = []  # what each may hold, in bytes
        self.lock = threading.Lock()
        listener.listen(self.request_queue_size)

    def get_request(self) -> Tuple[Line, Any]:
        connection, address = super().get_request()
        return Line.over(connection), address

    def process_request(self, request: Any, client_address: Any) -> None:
        with self.lock:
            too_many = list(self.strangers)[: max(0, len(self.strangers) + 1 - MOST_STRANGERS)]
            self.strangers[request] = time.monotonic()
        self.hang_up(too_many)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.forget(request)
        super().shutdown_request(request)

    def forget(self, connection: Any) -> None:
        with self.lock:
            self.strangers.pop(connection, None)

    @contextmanager
    def streaming(self, size: int) -> Iterator[int]:
        """Counts a stream that may hold so many bytes; gives 0, or the number of those that leave no room for it."""
        with self.lock:
            others = len(self.streams) if sum(self.streams) + size > STREAMS_HOLD else 0
            if not others:
                self.streams.append(size)
        try:
            yield others
        finally:
            with self.lock:
                if not others:
                    self.streams.remove(size)

    def service_actions(self) -> None:
        """Hangs up on strangers whose time is over: each holds a thread and a file."""
        late = time.monotonic() - HEAD_S
        with self.lock:
            overdue = list(itertools.takewhile(lambda found: found[1] < late, self.strangers.items()))
        self.hang_up([connection for connection, _ in overdue])

    def hang_up(self, connections: List[socket.socket]) -> None:
        for connection in connections:
            self.forget(connection)
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], (ConnectionError, socket.timeout)):
            super().handle_error(request, client_address)


class Stream:
    """All replicas' output and status, merged by the coordinator for one client."""

    def __init__(self, agent: Agent, offsets: Dict[str, int], alive: Any) -> None:
        assert agent.gang
        self.agent, self.gang, self.alive = agent, agent.gang, alive
        self.closed = False
        self.queue: queue.Queue[Tuple[str, int, Optional[bytes]]] = queue.Queue(STREAM_QUEUE)
        self.piece = self.piece_of(len(offsets))  # each replica has one in hand
        self.following = set(offsets)
        for replica, offset in offsets.items():
            agent.begin(self.follow, replica, offset)

    @staticmethod
    def piece_of(count: int) -> int:
        return STREAM_PIECE if count <= 64 else STREAM_PIECE // 4

    @classmethod
    def most_bytes(cls, count: int) -> int:
        """The most memory that the output of so many replicas takes while a stream's client reads nothing."""
        return max(STREAM_HOLDS, (STREAM_QUEUE + count + 1) * cls.piece_of(count) if count else 0)

    def close(self) -> None:
        self.closed = True

    def put(self, item: Tuple[str, int, Optional[bytes]]) -> None:
        while not self.closed:
            try:
                return self.queue.put(item, timeout=1)
            except queue.Full:
                continue

    def follow(self, replica: str, offset: int) -> None:
        """Takes one replica's output over to the queue, until its end; None: no more comes."""
        errors = 0
        gather_s = min(max(GATHER_S[0], len(self.agent.job.replicas) / 50), GATHER_S[1])
        connection, connected = None, None
        heard_at = time.monotonic()
        while not self.closed:
            began = time.monotonic()
            try:
                agent = self.gang.reports.get(replica, {}).get("agent")
                if agent is None:
                    raise OSError("it has not reported yet")
                if connection is None or connected != agent:
                    connection, connected = connect(agent, 8), agent
                path = f"/log?offset={offset}&wait=5&most={self.piece}"
                peer = Peer(self.agent.key, replica, agent)
                with peer.ask("GET", path, timeout_s=8, connection=connection) as response:
                    data = response.read(self.piece + 1)
                    begins, is_last = (
                        next_offset(response.headers["X-Offset"], offset),
                        response.headers["X-End"] == "1",
                    )
                    if len(data) > self.piece:
                        raise ValueError("more came than was asked for")
                    errors = 0
            except (OSError, ValueError, TypeError, http.client.HTTPException):
                if connection:
                    connection.close()
                connection = None
                errors += 1
                report = self.gang.reports.get(replica, {})
                if self.gang.phase == "ended" and (report.get("message") == LOST or errors >= 5):
                    break
                time.sleep(0.3)
                continue
            if data:
                heard_at = time.monotonic()
                self.put((replica, begins, data))
                offset = begins + len(data)
                if len(data) < SMALL and self.gang.phase == "running":
                    time.sleep(gather_s)
            if is_last:
                break
            if not data and self.gang.phase == "ended":
                has_ended = self.gang.reports.get(replica, {}).get("state") in FINISHED
                if not has_ended or time.monotonic() - heard_at > LOG_ENDS_S:
                    break
            if not data and time.monotonic() - began < 1.0:  # it was to wait for more
                time.sleep(1.0)
        if connection:
            connection.close()
        self.put((replica, offset, None))

    def frames(self) -> Iterator[Tuple[Dict[str, Any], bytes]]:
        sent: Dict[str, int] = {}
        version, told_at = -1, 0.0
        while self.alive():
            snapshot = self.gang.snapshot()
            now = time.monotonic()
            if snapshot["version"] != version or now - told_at > 0.5:
                news = {r: s for r, s in snapshot["replicas"].items() if sent.get(r) != s["revision"]}
                if news or snapshot["version"] != version or now - told_at > 10:
                    sent.update((r, s["revision"]) for r, s in news.items())
                    version, told_at = snapshot["version"], now
                    yield {"gang": dict(snapshot, replicas=news)}, b""
            if not self.following and snapshot["phase"] == "ended":
                yield {"end": True}, b""
                return
            try:
                replica, offset, data = self.queue.get(timeout=0.1)
            except queue.Empty:
                continue
            if data is None:
                self.following.discard(replica)
            else:
                yield {"replica": replica, "offset": offset, "size": len(data)}, data


# ---- what a replica holds -----------------------------------------------------------------------


class Log:
    """The script's whole output in a file, with the last of it and what Keras tells in memory.

    Its bytes are counted from base on: where another pod may take a replica's place, each has a base of its own.
    """

    def __init__(self, path: Path, base: int = 0) -> None:
        self.path, self.base = path, base
        self.file = open(path, "w+b", buffering=0)  # read by itself too: the script may put anything in its place
        self.size = base
        self.ended = False
        self.changed = threading.Condition()
        self.tail = b""
        self.rest = b""
        self.progress: Dict[str, Any] = {}
        self.unread = ""  # why progress could not be read, last
        self.pace = Pace()
        self.last_output = time.monotonic()
        self.unkept = 0  # bytes of output for which there was no room
        self.untold = 0  # of those, what the log does not say yet
        self.why_unkept = ""

    def write(self, data: bytes) -> None:
        """Adds output. What there is no room for is counted, and that stands in its place once there is room again."""
        self.tail = (self.tail + data)[-16384:]
        try:
            self.notice(data)
        except Exception as error:  # the output counts, and goes on
            if repr(error) != self.unread:
                say(f"progress is not read: {error!r}")
            self.rest, self.unread = b"", repr(error)
        with self.changed:
            kept = self.put(data) if self.tell_of_gap() else 0
            self.untold += len(data) - kept
            self.unkept += len(data) - kept
            self.last_output = time.monotonic()
            self.changed.notify_all()

    def put(self, data: bytes, *, whole: bool = False) -> int:
        """Adds what there is room for, whole or not at all; says how many bytes. Called under the lock."""
        kept, at = 0, self.size - self.base
        try:
            while kept < len(data):
                kept += self.file.write(data[kept:])
        except OSError as error:
            self.why_unkept = no_room(error, self.path.parent)
            if whole:
                self.file.truncate(at)
                self.file.seek(at)
                kept = 0
        self.size += kept
        return kept

    def tell_of_gap(self) -> bool:
        """Puts a line in the place of what was not kept; whether the log is so far complete. Called under the lock."""
        if not self.untold:
            return True
        text = f"\n{AGENT_MARK.decode()} {self.untold:,} bytes of output could not be kept here: {self.why_unkept}\n"
        if self.put(text.encode(), whole=True):
            self.untold = 0
        return not self.untold

    def notice(self, data: bytes) -> None:
        lines = re.split(rb"[\r\n]", self.rest + data)
        self.rest = lines.pop()[-LONGEST_PROGRESS - 1 :]  # of one that is too long, so much that it stays so
        for line in lines:
            if b"/" in line and len(line) <= LONGEST_PROGRESS:
                told = parse_progress(line.decode(errors="replace"))
                if told and "epoch" in told:
                    self.begin_epoch(told)
                elif told:
                    rate = self.pace.step(time.monotonic(), told["step"], told["steps"])
                    self.progress = dict(self.progress, **told, **({"rate": round(rate, 4)} if rate else {}))

    def begin_epoch(self, told: Dict[str, Any]) -> None:
        """Takes over the epoch's number, and how long the one before took, in seconds."""
        now, before = time.time(), self.progress
        progress = dict(before, **told, epoch_since=now)
        if told["epoch"] == before.get("epoch", 0) + 1 and "epoch_since" in before:
            progress["epoch_s"] = now - before["epoch_since"]
        progress.pop("step", None)
        self.progress = progress
        self.pace.begin(time.monotonic())

    def begin_again(self, text: str) -> None:
        """Another script writes here from now on."""
        self.write(f"{AGENT_MARK.decode()} {text}\n".encode())
        self.progress, self.pace = {}, Pace()

    def end(self) -> None:
        with self.changed:
            self.tell_of_gap()
            self.ended = True
            self.changed.notify_all()

    def wait_for(self, offset: int, seconds: float, alive: Any) -> bool:
        """Waits until there is output behind offset; returns whether the output had ended."""
        deadline = time.monotonic() + seconds
        with self.changed:
            while self.size <= offset and not self.ended and time.monotonic() < deadline and alive():
                self.changed.wait(min(1.0, max(0.0, deadline - time.monotonic())))
            return self.ended

    def read(self, offset: int, most: int = LOG_ANSWER) -> bytes:
        return os.pread(self.file.fileno(), min(most, max(0, self.size - offset)), offset - self.base)

    def place(self) -> str:
        """A file that has all of it: its own, or a copy where the script put something else there. Raises OSError."""
        with suppress(FileNotFoundError):
            if os.path.samestat(os.lstat(self.path), os.fstat(self.file.fileno())):
                return str(self.path)
        with tempfile.NamedTemporaryFile(dir=self.path.parent, delete=False) as copy:
            while True:
                data = os.pread(self.file.fileno(), CHUNK, copy.tell())
                if not data:
                    return copy.name
                copy.write(data)

    def last_lines(self, count: int = 20) -> List[str]:
        lines = re.split(r"[\r\n]+", self.tail.decode(errors="replace"))
        return [line for line in lines if line.strip() and not is_progress_bar(line)][-count:]


def spelled(text: bytes) -> Set[bytes]:
    """A text as it stands, as it stands between quotes in Python and JSON, and percent-encoded."""
    words = text.decode(errors="replace")
    percent = {quote(text), quote(text, safe=""), quote_plus(text)}
    small = {re.sub("%[0-9A-F]{2}", lambda code: code[0].lower(), form) for form in percent}
    quoted = {repr(words)[1:-1], ascii(words)[1:-1], json.dumps(words)[1:-1], *percent, *small}
    escaped = words.encode("ascii", "backslashreplace")
    return {text, escaped, repr(text)[2:-1].encode(), *(form.encode() for form in quoted)}


def encoded(text: bytes) -> Set[bytes]:
    """A text in base64: by itself, in lines of 64 or 76 characters, and what of it is sure inside of a longer text."""
    forms: Set[bytes] = set()
    if len(text) > ENCODED_BYTES:
        return forms
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        whole = encode(text)
        inside = [encode(bytes(shift) + text)[first : (shift + len(text)) * 8 // 6]
                  for shift, first in enumerate((0, 2, 3))]  # fmt: skip
        lines = {form[at : at + width] for form in (whole, inside[0]) for width in (64, 76)
                 for at in range(0, len(form), width)}  # fmt: skip
        forms.update([whole, whole.rstrip(b"="), *inside, *lines])
    return forms


def forms_of(value: bytes) -> Set[bytes]:
    """How a value may stand in a log. None has a line's end: one of several lines is known by each of them."""
    parts = [part for part in (value, *map(bytes.strip, value.splitlines())) if len(part.strip()) >= MASKED_BYTES]
    forms: Set[bytes] = set().union(*(spelled(part) | encoded(part) for part in parts))
    return {form for form in forms if len(form) >= MASKED_BYTES and len(form.splitlines()) == 1}


def quick_pattern(forms: List[bytes]) -> bytes:
    """What finds out whether any of the forms stands there: from one of its bytes that is rare in logs."""
    around: Dict[int, List[bytes]] = {}
    for form in forms:
        rare = next((byte for byte in around if byte in form), min(form, key=COMMON.find))
        at = form.index(rare) + 1
        around.setdefault(rare, []).append(b"(?<=%s)%s" % (re.escape(form[:at]), re.escape(form[at:])))
    return b"|".join(re.escape(bytes([rare])) + b"(?:%s)" % b"|".join(ends) for rare, ends in around.items())


class Masker:
    """Puts *** where a secret value stands in a stream, also where it comes in pieces.

    A secret has no line's end in it, so only a line that is not whole yet can be held back: from where a secret may
    have begun.
    """

    def __init__(self, values: List[bytes]) -> None:
        forms = sorted(set().union(*map(forms_of, values)), key=lambda form: (-len(form), form))
        self.is_idle = not forms
        self.held = b""
        self.longest = max(map(len, forms), default=0)
        self.forms: Dict[int, List[bytes]] = {}
        for form in forms:
            self.forms.setdefault(form[0], []).append(form)
        self.quick = re.compile(quick_pattern(forms))
        self.exact = re.compile(b"|".join(map(re.escape, forms)))

    def feed(self, data: bytes) -> bytes:
        """The next of the output that can be passed on, masked."""
        if self.is_idle:
            return data
        data = self.held + data
        cut = self.decided(data)
        self.held = data[cut:]
        return self.mask(data[:cut])

    def end(self) -> bytes:
        """What was held back, masked: nothing more comes."""
        data, self.held = self.held, b""
        return self.mask(data)

    def mask(self, data: bytes) -> bytes:
        return data if self.is_idle or not self.quick.search(data) else self.exact.sub(MASK, data)

    def mask_text(self, text: str) -> str:
        return self.mask(text.encode(errors="replace")).decode(errors="replace")

    def decided(self, data: bytes) -> int:
        """How many bytes of data are masked in the same way whatever comes next."""
        line = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        tail = range(max(line, len(data) - self.longest + 1), len(data))
        cut = next((at for at in tail if self.may_begin(data, at)), len(data))
        if cut < len(data) and self.quick.search(data, line):
            for found in self.exact.finditer(data, line):
                if found.start() < cut < found.end():
                    return found.start()
        return cut

    def may_begin(self, data: bytes, at: int) -> bool:
        """Whether data ends, from there on, with the first part of a secret."""
        candidates = self.forms.get(data[at])
        if not candidates:
            return False
        end = data[at:]
        return any(len(form) > len(end) and form.startswith(end) for form in candidates)


def masked(output: Any, masker: Masker) -> Iterator[bytes]:
    """What can be read there until its end, masked and as soon as possible."""
    waiting = select.poll()
    waiting.register(output, select.POLLIN)
    while True:
        if masker.held and not waiting.poll(HELD_S * 1000):
            yield masker.end()
        data = output.read(CHUNK)
        if not data:
            break
        yield masker.feed(data)
    yield masker.end()


class NoRoom(OSError):
    """A disk is full; the text says what is needed and what is free."""


class Code:
    """The script's folder: an archive that comes with the job, or is uploaded to the coordinator."""

    def __init__(self, job: Job, root: Path, shipped: Path) -> None:
        self.job, self.folder = job, root / "code"
        self.archive = shipped if shipped.exists() else root / "code.tar.gz"
        self.arrived = threading.Event()
        if shipped.exists():
            self.arrived.set()

    def receive(self, source: Any, size: int) -> None:
        """Takes the archive from a stream, and refuses one that is not what the job names."""
        part = self.archive.with_name(f"code.{threading.get_ident()}.part")
        digest = hashlib.sha256()
        try:
            with open(part, "wb") as file:
                left = size
                while left:
                    data = source.read(min(CHUNK, left))
                    if not data:
                        raise ValueError(f"the code's archive broke off {left} bytes before its end")
                    digest.update(data)
                    file.write(data)
                    left -= len(data)
            if digest.hexdigest() != self.job.code_sha256:
                raise ValueError("the code's archive has another SHA-256 than the job names")
            part.replace(self.archive)
        finally:
            part.unlink(missing_ok=True)
        self.arrived.set()

    def get(self, holders: Callable[[], List[Peer]], stopped: threading.Event, wait_s: float) -> None:
        """Waits for the archive (uploaded here, or pulled from an agent that has it) and unpacks it."""
        while not self.arrived.is_set() and not stopped.is_set():
            for holder in holders():
                try:
                    with holder.ask("GET", f"/code?wait={wait_s:g}") as response:
                        self.receive(response, int(response.headers["Content-Length"]))
                        break
                except (OSError, http.client.HTTPException):
                    continue
            self.arrived.wait(0.2)
        if stopped.is_set() or self.folder.exists():
            return
        part, needed = self.folder.with_name("code.part"), 0
        part.mkdir(parents=True, exist_ok=True)
        try:
            with tarfile.open(self.archive, "r:gz") as archive:
                needed = sum(member.size for member in archive.getmembers())
                if hasattr(tarfile, "data_filter"):
                    archive.extractall(part, filter="data")
                else:
                    archive.extractall(part)
        except OSError as error:
            why = f"the code takes {needed:,} bytes: {no_room(error, part)}"
            shutil.rmtree(part, ignore_errors=True)
            raise (NoRoom(why) if error.errno in NO_ROOM else error) from None
        part.rename(self.folder)

    def site(self) -> Optional[Path]:
        """A folder with the wheels that came along, unpacked, for the end of PYTHONPATH."""
        wheels = list((self.folder / ".tfspawner").glob("*.whl"))
        site = self.folder.parent / "site"
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(site)
        shutil.rmtree(self.folder / ".tfspawner", ignore_errors=True)
        return site if wheels else None


FileState = Tuple[str, int, int]  # a file's path, size and time of its last change


class Unreadable:
    """What cannot be read: so many names of it, and how many more there are."""

    MOST, LONGEST = 1000, 1000

    def __init__(self) -> None:
        self.names: List[str] = []
        self.more = 0

    def note(self, name: str) -> None:
        if len(self.names) == self.MOST:
            self.more += 1
        else:
            self.names.append(name if len(name) <= self.LONGEST else f"{name[: self.LONGEST]}...")

    def told(self) -> List[str]:
        return self.names + ([f"and {self.more:,} more"] if self.more else [])


class Files:
    """What the replica wrote: its output folder, new files in its working folder, and named patterns."""

    def __init__(self, root: Path, patterns: List[str]) -> None:
        self.output, self.code, self.patterns = root / "output", root / "code", patterns
        self.before: Dict[str, Tuple[int, int]] = {}
        self.began = 0.0
        self.sources: Dict[str, str] = {}
        self.hashes: Dict[FileState, str] = {}
        self.begun: Dict[FileState, Hashing] = {}  # the one that was broken off last
        self.hashing = threading.Lock()

    def begin(self) -> None:
        """Remembers the working folder as it is before the script starts."""
        self.began = time.time() - 1
        entries = self.walk(self.code, "", Unreadable())
        self.before = {source: (s.st_size, s.st_mtime_ns) for source, _, s in entries}

    def walk(self, top: Path, prefix: str, unreadable: Unreadable) -> Iterator[Tuple[str, str, os.stat_result]]:
        """(source, name, stat) of all files and empty folders below top, however deep; links are not followed."""
        waiting = [(str(top), prefix)]
        if os.path.islink(top):
            waiting.clear()
            unreadable.note(str(top))
        while waiting:
            folder, below = waiting.pop()
            folders = []
            is_empty = folder != str(top)
            try:
                here = os.lstat(folder)
                names = sorted(os.listdir(folder))
            except FileNotFoundError:
                continue  # gone since it was listed
            except OSError:
                unreadable.note(below or folder)
                continue
            for entry in names:
                source, name = os.path.join(folder, entry), os.path.join(below, entry)
                status = self.status_of(source, name, unreadable)
                if entry == "__pycache__" and (status is None or stat.S_ISDIR(status.st_mode)):
                    continue
                is_empty = False
                if status and stat.S_ISDIR(status.st_mode):
                    folders.append((source, name))
                elif status:
                    yield source, name, status
            if is_empty:
                yield folder, below, here
            waiting += reversed(folders)

    def status_of(self, source: str, name: str, unreadable: Unreadable) -> Optional[os.stat_result]:
        """None where there is nothing any more, and where that cannot be told: then the name is noted."""
        try:
            return os.lstat(source)
        except FileNotFoundError:
            return None
        except OSError:
            unreadable.note(name)
            return None

    def entries(self, unreadable: Unreadable) -> Iterator[Tuple[str, str, os.stat_result]]:
        yield from self.walk(self.output, "", unreadable)
        for source, name, status in self.walk(self.code, "workdir", unreadable):
            if not stat.S_ISDIR(status.st_mode) and self.before.get(source) != (status.st_size, status.st_mtime_ns):
                yield source, name, status
        for pattern in self.patterns:
            for path in self.matching(pattern, unreadable):
                name = "collected/" + os.path.normpath(path).lstrip("/")
                status_there = self.status_of(path, name, unreadable)
                if status_there and stat.S_ISDIR(status_there.st_mode):
                    yield from self.walk(Path(path), name, unreadable)
                elif status_there and status_there.st_mtime >= self.began:
                    yield path, name, status_there

    def matching(self, pattern: str, unreadable: Unreadable) -> List[str]:
        try:
            return sorted(glob.glob(os.path.join(self.code, pattern), recursive=True))
        except (OSError, RecursionError):  # Python's own search calls itself for each folder in a folder
            unreadable.note(pattern)
            return []

    def manifest(self, named: Optional[str] = None, alive: Callable[[], bool] = lambda: True) -> Dict[str, Any]:
        """{"files": [{path, size, sha256}], and paths: "folders", "skipped" (links, devices), "unreadable"}.

        Of files named like a pattern alone, the SHA-256 is left out: they may be growing. Raises AskerGone.
        """
        files: Dict[str, Dict[str, Any]] = {}
        folders, skipped, unreadable = [], [], Unreadable()
        for source, name, status in self.entries(unreadable):
            if named and not fnmatch.fnmatchcase(os.path.basename(source), named):
                continue
            if stat.S_ISDIR(status.st_mode):
                folders.append(name)
            elif not stat.S_ISREG(status.st_mode):
                skipped.append(name)
            else:
                try:
                    digest = "" if named else self.hash(source, status, alive)
                except AskerGone:
                    raise
                except FileNotFoundError:
                    continue  # gone since it was listed
                except OSError:
                    unreadable.note(name)
                    continue
                while name in files:  # another file of the same name, from another folder
                    name += ".1"
                files[name] = {"path": name, "size": status.st_size, "sha256": digest, "mtime_ns": status.st_mtime_ns}
                self.sources[name] = source
        return {"files": list(files.values()), "folders": folders, "skipped": skipped,
                "unreadable": unreadable.told()}  # fmt: skip

    def hash(self, source: str, status: os.stat_result, alive: Callable[[], bool]) -> str:
        """The SHA-256 of as many bytes as the file had just now: it may be growing. Raises OSError, AskerGone.

        One file is read at a time. Where nobody waits for it any more, the next who asks goes on from there.
        """
        key = (source, status.st_size, status.st_mtime_ns)
        while key not in self.hashes:
            if not self.hashing.acquire(timeout=0.2):
                if not alive():
                    raise AskerGone
                continue
            try:
                if key not in self.hashes:
                    begun = self.begun.pop(key, None) or Hashing()
                    try:
                        self.hashes[key] = begun.of(source, status.st_size, alive)
                    except AskerGone:
                        self.begun = {key: begun}
                        raise
            finally:
                self.hashing.release()
        return self.hashes[key]

    def paths(self) -> List[Tuple[str, str, int, str]]:
        """(name, path, size, SHA-256) of all files that are there now."""
        return [(f["path"], self.sources[f["path"]], f["size"], f["sha256"]) for f in self.manifest()["files"]]

    def open(self, name: str, size: int) -> Any:
        """The file of that name in the last manifest, or None where it is gone or shorter than size."""
        try:
            file = open_regular(self.sources[name])
        except (KeyError, OSError):
            return None
        if os.fstat(file.fileno()).st_size >= size:
            return file
        file.close()
        return None


class Tree(Files):
    """All files of one folder; the state files of TensorFlow's checkpoints before what they name."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, [])
        self.folder = folder
        self.lock = threading.Lock()  # held for a short time: while it is listed, and while another takes its place
        self.replaced = 0  # how often another took its place

    def entries(self, unreadable: Unreadable) -> Iterator[Tuple[str, str, os.stat_result]]:
        with self.lock:
            found = list(self.walk(self.folder, "", unreadable))
        yield from sorted(found, key=lambda entry: os.path.basename(entry[0]) != "checkpoint")

    def manifest(self, named: Optional[str] = None, alive: Callable[[], bool] = lambda: True) -> Dict[str, Any]:
        """As of all files; never of a folder whose place another took while its files were read."""
        while True:
            before = self.replaced
            found = super().manifest(named, alive)
            if self.replaced == before:
                return found

    def changed_at(self) -> int:
        """When the newest file changed, in ns; 0 where there is none."""
        entries = self.entries(Unreadable())
        return max((status.st_mtime_ns for _, _, status in entries if stat.S_ISREG(status.st_mode)), default=0)


class Checkpoints:
    """$TFSPAWNER_CHECKPOINTS: where the script's checkpoints outlive a restart of the gang.

    TensorFlow's first replica writes them, the second keeps a copy of each, and before a restart all take the newest.
    """

    def __init__(self, root: Path, is_coordinator: bool) -> None:
        self.folder, self.copy = root / "checkpoints", root / "checkpoints-copy"
        self.folder.mkdir(exist_ok=True)
        self.newest = Tree(self.folder if is_coordinator else self.copy)

    def changed_at(self) -> int:
        return self.newest.changed_at()

    def mirror(self, coordinator: Peer) -> None:
        """Copies the coordinator's checkpoints, if they have changed. Raises OSError."""
        files = checkpoint_of(coordinator.ask_json("GET", "/checkpoints"))
        if files and max(f["mtime_ns"] for f in files) != self.changed_at():
            self.pull(coordinator, files, self.copy)

    def take(self, holder: Optional[Peer]) -> None:
        """Makes the folder what that agent has as the newest; None: what is here. Raises OSError."""
        if holder is not None:
            return self.pull(holder, checkpoint_of(holder.ask_json("GET", "/checkpoints")), self.folder)
        if self.newest.folder != self.folder:
            discard(self.folder)
            shutil.copytree(self.copy, self.folder)

    def pull(self, holder: Peer, files: List[Dict[str, Any]], folder: Path) -> None:
        """Makes folder hold what an agent's /checkpoints does, whole or not at all. Raises OSError."""
        part = folder.with_name(folder.name + ".part")
        discard(part)
        part.mkdir()
        expected = {file["path"]: file for file in files}
        with holder.ask("POST", "/checkpoints", [[f["path"], 0, f["size"]] for f in expected.values()]) as reply:
            for head in iter(lambda: fields(read_json(reply.readline(SMALL), 20), FILE_HEAD), {"end": True}):
                file = expected.pop(head.get("path"), None) if "size" in head else None
                if file is None:
                    raise OSError(f"a checkpoint changed while it was copied from {holder.host}")
                target = part / file["path"]
                target.parent.mkdir(parents=True, exist_ok=True)
                with open(target, "wb") as out:
                    copy_bytes(reply, out, file["size"])
                if sha256_of(str(target), file["size"]) != file["sha256"]:
                    raise OSError(f"{file['path']} did not come whole from {holder.host}")
                os.utime(target, ns=(file["mtime_ns"], file["mtime_ns"]))
        former = folder.with_name(folder.name + ".old")
        discard(former)
        with self.newest.lock:  # who asks meanwhile is not to find nothing
            if os.path.lexists(folder):
                folder.rename(former)
            part.rename(folder)
            self.newest.replaced += folder == self.newest.folder
        discard(former)


def copy_bytes(source: Any, out: Any, size: int) -> None:
    while size:
        data = source.read(min(CHUNK, size))
        if not data:
            raise OSError(errno.EIO, "the stream broke off")
        out.write(data)
        size -= len(data)


def discard(path: Path) -> None:
    """Removes a folder with all that is in it, or what a script put in its place: of a link, the link alone."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def open_regular(path: str) -> Any:
    """A file to be read; no link, and nothing that would be waited for. Raises OSError."""
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "this is no file any more", path)
    return open(file, "rb")


class AskerGone(ConnectionError):
    """Who asked does not wait for the answer any more."""


class Hashing:
    """The SHA-256 of a file, which can be broken off and goes on where it was."""

    def __init__(self) -> None:
        self.digest, self.done = hashlib.sha256(), 0

    def of(self, path: str, size: int, alive: Callable[[], bool] = lambda: True) -> str:
        """That of its first size bytes. Raises OSError, AskerGone."""
        with open_regular(path) as file:
            file.seek(self.done)
            while self.done < size:
                if not alive():
                    raise AskerGone
                data = file.read(min(CHUNK, size - self.done))
                if not data:
                    raise OSError(errno.EIO, "the file shrank", path)
                self.digest.update(data)
                self.done += len(data)
        return self.digest.hexdigest()


def sha256_of(path: str, size: int) -> str:
    """The SHA-256 of the file's first size bytes."""
    return Hashing().of(path, size)


class Store:
    """Where --artifacts puts what the replicas leave: a bucket's folder of the job's name, laid out as a run's record."""

    def __init__(self, uri: str, job: str, env: Mapping[str, str]) -> None:
        import s3  # type: ignore[import-not-found] # travels beside this file with such a job

        bucket, prefix = s3.split_uri(uri)
        self.s3 = s3.S3(s3.settings_from(env))
        self.sha256 = s3.SHA256
        self.bucket, self.prefix = bucket, "".join(f"{part}/" for part in (*filter(None, prefix.split("/")), job))
        self.uri = f"s3://{bucket}/{self.prefix}"

    def check(self) -> None:
        """Raises OSError where nothing can be put, or another job's files are there."""
        if next(self.s3.list(self.bucket, self.prefix), None):
            raise FileExistsError(f"{self.uri} holds files already; give another --name")
        with tempfile.NamedTemporaryFile() as probe:
            self.s3.put(self.bucket, self.prefix + ".tf-spawner", probe.name)
        self.s3.delete(self.bucket, self.prefix + ".tf-spawner")

    def put(self, name: str, path: str, size: int, sha256: str) -> None:
        """Makes a file an object, unless it is there already. Raises OSError."""
        if not self.has(name, size, sha256):
            self.s3.put(self.bucket, self.prefix + name, path, {self.sha256: sha256})
            if not self.has(name, size, sha256):
                raise OSError(f"{self.uri}{name} is not what was sent")

    def has(self, name: str, size: int, sha256: str) -> bool:
        found = self.s3.head(self.bucket, self.prefix + name) or {}
        return (found.get("content-length"), found.get(self.sha256)) == (str(size), sha256)

    def put_all(
        self, files: List[Tuple[str, str, int, str]], stop: threading.Event, patience_s: float = STORE_FOR_S
    ) -> Optional[str]:
        """Puts (name, path, size, SHA-256), some at once; what may pass is tried again. Returns why it is not all there."""
        waiting, error, progress_at = list(files), "", time.monotonic()
        pause_s = 0.5
        while waiting and not stop.is_set():
            with ThreadPoolExecutor(STORE_AT_ONCE) as pool:
                tried = [(file, pool.submit(self.put, *file)) for file in waiting]
            left = [(file, future.exception()) for file, future in tried if future.exception()]
            if len(left) < len(waiting):
                progress_at, pause_s = time.monotonic(), 0.5
            waiting = [file for file, _ in left]
            if left:
                error = str(left[0][1])
                passing = all(getattr(reason, "passing", False) for _, reason in left)
                if not passing or time.monotonic() - progress_at > patience_s:
                    return f"{len(left)} of {len(files)} files: {error}"
                stop.wait(pause_s)
                pause_s = min(2 * pause_s, 15.0)
        return f"{len(waiting)} of {len(files)} files: the replica was told to end" if waiting else None


# ---- one replica --------------------------------------------------------------------------------


class Agent:
    """One replica: gets the code, meets its peers, runs the script, reports, and holds what it wrote."""

    def __init__(self, job: Job, role: str, index: int, host: str, port: int, agent_port: int, token: str,
                 root: Path, config_dir: Path) -> None:  # fmt: skip
        self.job, self.role, self.index, self.port, self.root = job, role, index, port, root
        self.key, self.answered = Key(token), Answered()
        self.replica = f"{role}-{index}"
        self.is_coordinator = self.replica == job.coordinator
        self.coordinator = Peer(self.key, job.coordinator, job.coordinator_address)
        self.gang = Gang(job) if self.is_coordinator else None
        for name in ("output", "home", "tmp"):
            (root / name).mkdir(parents=True, exist_ok=True)
        leave_note(root / "exit.json", None)
        # Where another pod may take this one's place, its output is told from this one's by the time.
        self.log = Log(root / "log", int(time.time()) << 32 if job.restarts and job.replaces_lost else 0)
        secrets = (os.environb.get(name.encode(), b"") for name in job.config.get("secret_names", []))
        self.masker = Masker(list(secrets))
        self.code = Code(job, root, config_dir / "code.tar.gz")
        self.files = Files(root, job.collect)
        self.checkpoints = Checkpoints(root, self.is_coordinator)
        self.store: Optional[Store] = None
        self.config_dir = config_dir
        self.child: Optional[subprocess.Popen[bytes]] = None
        self.pump: Optional[threading.Thread] = None
        self.generation = 0  # how often the gang has been started again
        self.met = -1  # the last generation in which this replica learned all addresses
        self.life = os.urandom(8).hex()  # tells this process from others that are the same replica
        self.site: Optional[Path] = None
        self.heard_at = time.monotonic()  # when the coordinator answered last
        self.order: Dict[str, Any] = {"version": -1, "generation": 0, "phase": "forming", "released": False}
        self.ordered = threading.Condition()
        self.collecting = 0  # requests for files under way
        self.collected_at = 0.0
        self.stop = threading.Event()  # the gang stops, or this replica was told to
        self.terminated = threading.Event()  # this replica was sent SIGTERM
        self.ending: queue.SimpleQueue[Tuple[Optional[subprocess.Popen[bytes]], bool]] = queue.SimpleQueue()
        self.broken = ""  # what failed in one of the agent's own threads
        self.usage: Any = None  # while the script runs, what samples its processors, memory and GPUs
        self.addresses = {"address": address(host, port), "agent": address(host, agent_port)}
        self.reporting = threading.Lock()  # held while the report changes
        self.untold = threading.Event()  # the last report did not arrive
        self.report = self.new_report()

    def new_report(self) -> Dict[str, Any]:
        return {"replica": self.replica, "state": "starting", "message": "", "since": time.time(), "life": self.life,
                "checkpoint": self.checkpoints.changed_at(), **self.addresses}  # fmt: skip

    # -- its threads

    def begin(self, work: Callable[..., Any], *args: Any) -> threading.Thread:
        """Runs work in a thread of its own. If that fails, so does this replica, and says why."""

        def run() -> None:
            try:
                work(*args)
            except Exception as error:
                self.break_off(work.__name__, error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def break_off(self, what: str, error: Exception) -> None:
        """Ends the script: the agent cannot do its own part any more."""
        self.broken = self.broken or f"tf-spawner's agent failed in {what}: {type(error).__name__}: {error}"
        self.stop.set()
        self.stop_child()
        traceback.print_exception(type(error), error, error.__traceback__)

    # -- talking to the coordinator

    def tell(self, state: Optional[str] = None, **news: Any) -> None:
        """Sends this replica's report; heartbeat() repeats one that did not arrive."""
        with self.reporting:
            if state and state != self.report["state"]:
                news = dict(news, state=state, since=time.time())
                if self.store and state in FINISHED:
                    news.update(storing=self.store.uri)
            self.report = dict(self.report, progress=self.log.progress, log_size=self.log.size - self.log.base,
                               silent_s=self.silent_s(), generation=self.generation, met=self.met, **news)  # fmt: skip
            if self.log.unkept:
                self.report["unkept"] = {"bytes": self.log.unkept, "why": self.log.why_unkept}
        if self.gang:
            self.gang.report(self.replica, dict(self.report))
            return
        try:
            self.coordinator.ask_json("POST", "/report", self.report, timeout_s=5)
            self.untold.clear()
        except OSError:
            self.untold.set()

    def silent_s(self) -> float:
        """How long the script has put nothing out."""
        return time.monotonic() - self.log.last_output

    def heartbeat(self) -> None:
        """Repeats the report: at once if it did not arrive, soon after it changed, now and then when it did not."""
        interval, sent_at, sent = max(1.0, len(self.job.replicas) / 50), 0.0, (None, 0)
        retry_s = RETRY_S
        while True:
            untold = self.untold.wait(interval)
            if untold:  # such as by a coordinator that starts later than this replica
                time.sleep(retry_s)
            retry_s = min(2 * retry_s, interval) if untold else RETRY_S
            if self.gang:
                self.gang.tick()
            now = (self.report["state"], self.log.size)
            if untold or now != sent or time.monotonic() - sent_at > 5:
                self.tell(**self.used())
                sent, sent_at = now, time.monotonic()

    def used(self) -> Dict[str, Any]:
        """What the script uses now, for the report; what is wrong with its GPUs goes into the log."""
        usage = self.usage
        if usage is None:
            return {}
        try:
            told = usage.sample()
        except Exception as error:  # the training is worth more than what is measured of it
            self.usage = None
            self.log.write(f"{AGENT_MARK.decode()} what the script uses is not measured any more: {error!r}\n".encode())
            return {}
        self.log_problems(usage)
        return {"usage": told}

    def log_problems(self, usage: Any) -> None:
        while usage.problems and usage is self.usage:
            self.log.write(f"{AGENT_MARK.decode()} {usage.problems.pop(0)}\n".encode())

    def listen(self) -> None:
        """Follows the coordinator's orders; without it for LOST_AFTER_S, stops as if told to."""
        reason, retry_s = "", RETRY_S
        while True:
            try:
                if self.gang:
                    order = self.gang.wait(self.order["version"], 10.0, lambda: True, self.replica)
                else:
                    path = f"/order?replica={self.replica}&version={self.order['version']}"
                    order = order_of(self.coordinator.ask_json("GET", path))
                self.heard_at, retry_s = time.monotonic(), RETRY_S
            except (OSError, ValueError) as error:
                starting = self.order["phase"] in STARTING
                limit = COORDINATOR_SLOW_S if isinstance(error, socket.timeout) else COORDINATOR_LOST_AFTER_S
                if starting:
                    limit = self.job.start_timeout_s + LOST_AFTER_S
                if str(error) != reason and time.monotonic() - self.heard_at > 5:
                    reason = str(error)
                    say(
                        f"the coordinator, {self.job.coordinator} at {self.coordinator.host}, does not answer: {reason}"
                    )
                if time.monotonic() - self.heard_at > limit and not self.stop.is_set():
                    with self.reporting:
                        self.report.update(message=f"lost the coordinator {self.job.coordinator}: {error}", kind="lost")
                    self.stop.set()
                    self.stop_child()
                time.sleep(retry_s)
                retry_s = min(2 * retry_s, 0.4)
                continue
            with self.ordered:
                self.order = order
                stopping = not self.is_to_run() and not self.stop.is_set()
                if stopping:
                    self.stop.set()
                self.ordered.notify_all()
            if stopping:
                self.stop_child(dump=order["stalled"])

    def is_to_run(self) -> bool:
        """Whether the coordinator's last order is to go on in this generation."""
        return self.order["phase"] not in ("stopping", "ended") and self.order["generation"] == self.generation

    def mirror(self) -> None:
        """The second replica keeps a copy of the first one's checkpoints: losing that one loses none."""
        while not self.terminated.wait(MIRROR_EVERY_S):
            if self.order["phase"] == "running" and not self.stop.is_set():
                with suppress(OSError, ValueError, http.client.HTTPException):
                    self.checkpoints.mirror(self.coordinator)

    # -- the steps

    def main(self, listener: socket.socket) -> int:
        self.begin(self.end_scripts)
        self.begin(Server(self, listener).serve_forever)
        works = [self.heartbeat, self.listen]
        if self.job.restarts and [self.replica] == self.job.replicas[1:2]:
            works.append(self.mirror)
        for work in works:
            self.begin(work)
        try:
            code = self.work()
            while self.begins_again():
                code = self.work()
        except Exception as error:  # the agent's own failure is reported like the script's
            if self.child and self.child.returncode is None:
                kill_group(self.child.pid, signal.SIGKILL)
                self.wait_for_child()
                end_descendants(os.getpid(), KILL_WITHIN_S)
                reap()
            why = f"tf-spawner's agent failed: {type(error).__name__}: {error}"
            if isinstance(error, NoRoom) or (isinstance(error, OSError) and error.errno in NO_ROOM):
                why = f"could not go on: {error if isinstance(error, NoRoom) else no_room(error, self.root)}"
            code = self.fail(1, why)
        if not (self.job.replaces_lost and self.terminated.is_set()):  # else another pod goes on with the log
            self.log.end()
        if self.store and not self.terminated.is_set():
            storing = self.begin(self.store_all, self.store)
            while storing.is_alive() and not self.terminated.is_set():
                storing.join(0.2)
        if not self.terminated.is_set():
            self.hold()
        if self.job.replaces_lost and not self.terminated.is_set() and code in EXITS_OF_LOST:
            code = 1  # what this replica was is decided, and its pod is not to be replaced
        leave_note(self.root / "exit.json", {"code": code, "message": self.report["message"][:1000]})
        return code

    def begins_again(self) -> bool:
        """Waits for what becomes of the gang; whether this replica is to start its script again."""
        if not self.job.restarts:
            return False
        patience_s = self.job.start_timeout_s + LOST_AFTER_S
        with self.ordered:
            while self.order["generation"] == self.generation:
                over = self.order["phase"] == "ended" or time.monotonic() - self.heard_at > patience_s
                if over or self.terminated.is_set():
                    return False
                self.ordered.wait(0.5)
        report = self.new_report()  # looks at all checkpoints, which nobody else is to wait for
        with self.ordered:
            with self.reporting:
                self.generation, self.report = self.order["generation"], report
            self.stop.clear()
            if not self.is_to_run():
                self.stop.set()
        self.log.begin_again(f"restart {self.generation} of {self.job.restarts}")
        return True

    def code_holders(self) -> List[Peer]:
        """The agents that may have the code: the coordinator, or for one that is new all who have reported."""
        if self.gang is None:
            return [self.coordinator]
        with self.gang.changed:
            reports = [r for r in self.gang.reports.values() if r["replica"] != self.replica]
        return [Peer(self.key, r["replica"], r["agent"]) for r in reports]

    def work(self) -> int:
        is_sent = self.is_coordinator and not self.code.arrived.is_set()  # and not kept where another pod finds it
        told = {"message": CODE_IS_SENT, "hint": CODE_IS_SENT_HINT} if is_sent else {}
        self.tell("getting the code", **told)
        # Those whom the coordinator asks may themselves wait for what is uploaded here.
        self.code.get(self.code_holders, self.stop, wait_s=0 if self.gang else 10)
        if not self.stop.is_set():
            self.tell("meeting", **dict.fromkeys(told, ""))
            taken = self.taken_port()
            if taken:
                return self.fail(1, taken, "configuration")
            addresses = self.meet()
        if not self.stop.is_set():
            self.take_checkpoint(addresses)
            if not self.files.began:
                self.site = self.code.site()
                self.files.begin()
            environment = self.environment(addresses["tensorflow"], self.site)
            missing = self.missing_tf_keras(environment) or self.missing_gpus(environment)
            if missing:
                return self.fail(EXIT_CONFIGURATION, missing, "configuration")
            store = None
            if self.job.artifacts:
                try:
                    store = Store(self.job.artifacts, self.job.name, os.environ)
                    if self.is_coordinator and not self.generation:
                        store.check()
                except OSError as error:
                    self.report["hint"] = getattr(error, "hint", None)
                    message = f"cannot put artifacts into {self.job.artifacts}: {error}"
                    return self.fail(EXIT_CONFIGURATION, message, "configuration")
            self.place_original_script()
            self.tell("ready", message="")
            with self.ordered:
                self.ordered.wait_for(lambda: self.order["phase"] not in STARTING or self.stop.is_set())
        if self.broken:
            return self.fail(1, self.broken)
        if self.terminated.is_set():
            return self.fail(EXIT_TERMINATED, TERMINATED, "lost")
        if self.stop.is_set():
            self.tell("stopped", finished=time.time(), exit_code=None)
            return EXIT_PEER_LOST
        self.store = store
        return self.run(environment)

    def fail(self, code: int, message: str, kind: str = "failed") -> int:
        """Reports a failure of a kind: lost, failed, or configuration, for which nothing is restarted."""
        peer_lost, message = message == PEER_LOST_MESSAGE, self.masker.mask_text(message)
        if self.report.get("hint"):
            self.report["hint"] = self.masker.mask_text(self.report["hint"])
        say(message)
        self.tell("failed", exit_code=code, message=message, kind=kind, finished=time.time(),
                  tail=self.log.last_lines(), peer_lost=peer_lost)  # fmt: skip
        return code

    def take_checkpoint(self, addresses: Dict[str, Any]) -> None:
        """Before a restart, makes the newest checkpoint this replica's own."""
        holder = addresses.get("checkpoint")
        while self.generation and holder and not self.stop.is_set():
            try:
                peer = Peer(self.key, holder, addresses["agents"][holder])
                return self.checkpoints.take(None if holder == self.replica else peer)
            except (OSError, ValueError, http.client.HTTPException) as error:
                self.report["message"] = f"{holder}'s checkpoint ({error})"
                self.stop.wait(0.5)

    def taken_port(self) -> Optional[str]:
        """Why TensorFlow cannot have its port; a script that was just killed may hold it for a moment."""
        deadline = time.monotonic() + (PORT_WAIT_S if self.generation else 0.0)
        while True:
            taken = self.try_port()
            if not taken or time.monotonic() > deadline:
                return taken
            time.sleep(0.05)

    def try_port(self) -> Optional[str]:
        port = self.port
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return f"cannot start: port {port}, TensorFlow's, is taken here by another process"
                return f"cannot start: port {port}, TensorFlow's, cannot be used here: {error.strerror}"
        return None

    def meet(self) -> Dict[str, Any]:
        """Learns all addresses and waits until the peers answer; returns what the coordinator's /cluster says.

        The report names the peers that do not answer.
        """
        addresses: Dict[str, Any] = {"tensorflow": {}, "agents": {}}
        with self.ordered:
            self.ordered.wait_for(lambda: self.order["phase"] != "forming" or self.stop.is_set())
        while self.order["phase"] == "meeting" and not self.stop.is_set():
            try:
                addresses = self.gang.cluster() if self.gang else self.coordinator.ask_json("GET", "/cluster")
                self.met = self.generation
                break
            except OSError:
                self.stop.wait(0.2)
        others = self.job.replicas[self.job.replicas.index(self.replica) + 1 :] + self.job.replicas
        missing = [r for r in dict.fromkeys([self.job.coordinator, *others[:MESH_PEERS]]) if r != self.replica]
        while missing and not self.stop.is_set():
            reasons = {peer: reach(addresses["agents"][peer]) for peer in missing}
            missing = [peer for peer, reason in reasons.items() if reason]
            if missing:
                shown = ", ".join(f"{peer} ({reasons[peer]})" for peer in missing[:4])
                more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
                self.report["message"] = shown + more
                self.stop.wait(0.1)
        return addresses

    def environment(self, cluster: Dict[str, List[str]], site: Optional[Path]) -> Dict[str, str]:
        env = {key: value for key, value in os.environ.items() if not key.startswith("TFSPAWNER_")}
        env.update(
            TF_CONFIG=tf_config(cluster, self.role, self.index),
            WORKER_NUMBER=str(self.job.replicas.index(self.replica)),
            TOT_WORKERS=str(len(self.job.replicas)),
            TFSPAWNER_JOB=self.job.name,
            TFSPAWNER_ROLE=self.role,
            TFSPAWNER_INDEX=str(self.index),
            TFSPAWNER_OUTPUT=str(self.root / "output"),
            TFSPAWNER_CHECKPOINTS=str(self.checkpoints.folder),
            TFSPAWNER_RESTART=str(self.generation),
            PYTHONUNBUFFERED="1",
        )
        env.setdefault("PYTHONFAULTHANDLER", "1")  # SIGABRT makes it tell where each of its threads is
        if not os.access(env.get("HOME") or "/", os.W_OK):  # a container's may be read-only
            env["HOME"] = str(self.root / "home")
        env.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # without TensorFlow's dozens of informational lines a replica
        if self.job.legacy_keras:
            env.setdefault("TF_USE_LEGACY_KERAS", "1")
        if (self.config_dir / "gfile.py").exists():
            env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(self.place_s3()), env.get("PYTHONPATH")]))
        if site:  # behind all that the image has
            env["PYTHONPATH"] = os.pathsep.join(filter(None, [env.get("PYTHONPATH"), str(site)]))
        return env

    def place_s3(self) -> Path:
        """A folder for the beginning of PYTHONPATH, with what gives TensorFlow s3://."""
        first = self.root / "s3"
        package = first / "tfspawner_s3"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").touch()
        for name, folder in (("s3.py", package), ("gfile.py", package), ("sitecustomize.py", first)):
            shutil.copy(self.config_dir / name, folder / name)
        return first

    def missing_tf_keras(self, env: Dict[str, str]) -> Optional[str]:
        if not self.job.needs_tf_keras or env.get("TF_USE_LEGACY_KERAS") != "1":
            return None
        find = "import importlib.util as u, sys; sys.exit(u.find_spec('tensorflow') and not u.find_spec('tf_keras'))"
        if subprocess.run([sys.executable, "-c", find], env=env, cwd=self.root).returncode == 0:
            return None
        return (
            "tf-keras is missing here: Keras 3 cannot train on several workers, and tf-keras can. "
            "Add it without its dependencies: pip install --no-deps tf-keras==<TensorFlow's version>.*"
        )

    def missing_gpus(self, env: Dict[str, str]) -> Optional[str]:
        """Why TensorFlow sees none of the GPUs that this replica has; None where it sees some, or it cannot be told."""
        program = self.config_dir / "gpu.py"
        if self.role == "ps" or not program.exists():
            return None
        try:
            command = [sys.executable, str(program)]
            done = subprocess.run(command, env=env, cwd=self.root, capture_output=True, timeout=GPU_LOOK_S)
            found = json.loads(done.stdout.splitlines()[-1])
            self.report["hint"] = found["hint"]
            return f"was given GPUs, and its TensorFlow sees none: {found['message']}"
        except (subprocess.TimeoutExpired, IndexError, ValueError, KeyError, TypeError):  # others print there, too
            return None

    def place_original_script(self) -> None:
        """Scripts and command files written for the original tf-spawner find the script at /script."""
        target = Path("/script")
        if self.job.original_script_path and target.is_dir() and os.access(target, os.W_OK):
            shutil.copy(self.code.folder / self.job.script, target / "training-script.py")

    def command(self) -> List[str]:
        if not self.job.command_file:
            script = self.job.script
            return [sys.executable, f"./{script}" if script.startswith("-") else script, *self.job.args]
        path = self.config_dir / "command"
        if "command" in self.job.config:
            path = self.root / "command"
            path.touch(0o600)
            path.write_bytes(self.job.config["command"].encode(errors="surrogateescape"))
        first = path.read_bytes().split(b"\n", 1)[0].decode(errors="replace")
        interpreter = first[2:].split(None, 1) if first.startswith("#!") else [shutil.which("bash") or "sh", "-e"]
        return [*interpreter, str(path), *self.job.args]

    def run(self, env: Dict[str, str]) -> int:
        """Runs the script to its end; returns what this replica's exit code will be."""
        sys.path.append(str(self.config_dir / "pynvml.zip"))  # where an image has none
        from usage import Usage  # type: ignore[import-not-found] # travels beside this file

        read_end, write_end = os.pipe()
        try:
            self.child = subprocess.Popen(
                self.command(), cwd=self.code.folder, env=env, stdin=subprocess.DEVNULL, stdout=write_end,
                stderr=write_end, start_new_session=True, preexec_fn=die_with_agent(),
            )  # fmt: skip
        except OSError as error:
            return self.fail(127, f"cannot run {self.command()[0]}: {error.strerror}", "configuration")
        finally:
            os.close(write_end)
        kills_before, _ = memory_cgroup()
        self.log.last_output = time.monotonic()
        self.usage = Usage(self.child.pid, wants_gpus=self.job.gpus > 0 and self.role != "ps")
        self.log_problems(self.usage)  # before any output, so that these words stand in lines of their own
        self.pump = self.begin(self.keep_output, read_end)
        self.tell("running", pid=self.child.pid, started=time.time())
        if self.stop.is_set():
            self.stop_child()
        returncode = self.wait_for_child()
        finished, self.usage = time.time(), None
        kill_group(self.child.pid, signal.SIGKILL)  # what the script may have left behind
        end_descendants(os.getpid(), KILL_WITHIN_S)
        reap()
        self.pump.join(5)
        if self.checkpoints.folder.is_symlink():
            self.log.write(f"{AGENT_MARK.decode()} {self.checkpoints.folder} is a link now, "
                           "and what it leads to is not kept over a restart\n".encode())  # fmt: skip
        if self.broken:
            return self.fail(1, self.broken)
        if self.terminated.is_set():
            return self.fail(EXIT_TERMINATED, TERMINATED, "lost")
        if self.stop.is_set() and returncode != 0:
            code, message = EXIT_PEER_LOST, "was stopped with the others"
            if self.report.get("kind") == "lost":
                message = self.report["message"]
            if self.order.get("result") == "succeeded":
                code, message = 0, "was stopped when training had ended"
            stands = stands_at(self.log.tail) if self.order.get("stalled") else []
            self.tell("stopped", exit_code=code, message=message, finished=finished, stands=stands)
            return code
        if returncode == 0:
            self.tell("succeeded", exit_code=0, finished=finished)
            return 0
        code, message = classify(returncode, self.log.tail)
        kills, limit = memory_cgroup()
        if returncode == -signal.SIGKILL and kills > kills_before:
            message = "was killed: out of memory" + (f" (limit {limit // 1024**2}Mi)" if limit else "")
            self.report["hint"] = "give it more: --memory" + (f" {2 * limit // 1024**2}Mi" if limit else "")
        missing = MISSING_MODULE.search(self.log.tail)
        if missing:
            there = (
                ("the image", "name another: -i")
                if self.job.original_script_path
                else (sys.executable, "pip install it")
            )
            self.report["hint"] = f"{there[0]} has no {missing[1].decode()}: {there[1]}"
        blamed = UNHEALTHY.search(self.log.tail)
        if blamed and message == PEER_LOST_MESSAGE:
            self.report["blames"] = f"{blamed[1].decode()}-{blamed[2].decode()}"
        lost = returncode < 0 or message == PEER_LOST_MESSAGE or returncode == EXIT_PREEMPTED
        return self.fail(code, message, "lost" if lost else "failed")

    def keep_output(self, read_end: int) -> None:
        """Takes the script's output into the log and the container's; reads on to its end whatever becomes of them."""
        with open(read_end, "rb", buffering=0) as output:
            try:
                for data in filter(None, masked(output, self.masker)):
                    self.log.write(data)
                    with suppress(OSError):  # the log has it
                        sys.stdout.buffer.write(data)
                        sys.stdout.buffer.flush()
            except Exception as error:
                self.break_off("keep_output", error)
                while output.read(CHUNK):  # a script is not to hang while it is ended
                    pass

    def store_all(self, store: Store) -> None:
        """Puts this replica's files and log into the bucket, and reports how it went."""
        size = 0
        try:
            files = self.stored_files()
            size = sum(size for _, _, size, _ in files)
            patience_s = STORE_FOR_S if self.report["state"] == "succeeded" else STORE_FAILED_FOR_S
            failure = store.put_all(files, self.terminated, patience_s)
        except Exception as error:  # who waits for the files hears of it
            files, failure = [], f"tf-spawner's agent failed: {type(error).__name__}: {error}"
        if failure:
            failure = self.masker.mask_text(failure)
            say(f"{store.uri}: {failure}")
        stored = {"uri": store.uri, "files": max(0, len(files) - 1), "size": size, "failure": failure}
        self.tell(storing="", stored=stored)

    def stored_files(self) -> List[Tuple[str, str, int, str]]:
        """(name, path, size, SHA-256) of this replica's files and, last, its log."""
        files = [(f"files/{self.replica}/{name}", path, size, sha) for name, path, size, sha in self.files.paths()]
        path, size = self.log.place(), self.log.size - self.log.base
        return [*files, (f"logs/{self.replica}.log", path, size, sha256_of(path, size))]

    def wait_for_child(self) -> int:
        """Reaps whatever ends, as the first process of a container must, until the script itself has ended."""
        assert self.child
        while True:
            pid, status = os.wait()
            if pid == self.child.pid:
                self.child.returncode = os.waitstatus_to_exitcode(status)
                return self.child.returncode

    def stop_child(self, dump: bool = False) -> None:
        """Ends the script; with dump, by the signal at which it writes its threads' stacks into its output."""
        self.ending.put((self.child, dump))

    def end_scripts(self) -> None:
        """Ends each script that stop_child names: a thread that is there from the start, since later there may be none to have."""
        while True:
            child, dump = self.ending.get()
            self.wake()
            if child is None or child.returncode is not None:
                continue
            if dump:
                with suppress(Exception):
                    self.log.write(
                        f"{AGENT_MARK.decode()} stalled: aborted by tf-spawner, to say where it stands\n".encode()
                    )
            kill_group(child.pid, signal.SIGABRT if dump else signal.SIGTERM)
            deadline = time.monotonic() + STOP_GRACE_S
            while child.returncode is None and time.monotonic() < deadline:
                time.sleep(0.05)
            if child.returncode is None:
                kill_group(child.pid, signal.SIGKILL)

    @contextmanager
    def serving(self, request: str) -> Iterator[None]:
        """Counts those who are collecting: as long as there are any, this replica stays."""
        collecting = request in ("get_files", "post_files")
        with self.ordered:
            self.collecting += collecting
        try:
            yield
        finally:
            with self.ordered:
                self.collecting -= collecting
                if collecting:
                    self.collected_at = time.monotonic()

    def is_collected(self) -> bool:
        return not self.collecting and time.monotonic() - self.collected_at > COLLECTING_PAUSE_S

    def hold(self) -> None:
        """Keeps this replica up, with what it wrote, until all is collected or the hold time is over."""
        ended = None
        while not self.terminated.is_set():
            with self.ordered:
                self.ordered.wait(0.2)
                order = dict(self.order)
            if not self.is_collected():
                continue
            if order["released"] and order["phase"] != "stopping":  # there, scripts may still write
                break
            if self.broken or order["phase"] == "ended" or (self.stop.is_set() and order["phase"] != "stopping"):
                hold_s = self.job.hold_s
                is_elsewhere = self.store and not self.report["stored"]["failure"]
                if (order.get("result") != "succeeded" or is_elsewhere) and not order.get("kept"):
                    hold_s = min(hold_s, SHORT_HOLD_S)
                ended = ended or time.monotonic()
                if time.monotonic() > ended + hold_s:
                    break
        if self.gang and not self.terminated.is_set():
            self.gang.release()
            time.sleep(1)  # the others ask once a second at the latest

    def terminate(self, *_: Any) -> None:
        self.terminated.set()
        self.stop.set()
        self.stop_child()  # in a thread of its own: this one may hold the lock that wakes

    def wake(self) -> None:
        with self.ordered:
            self.ordered.notify_all()


def die_with_agent() -> Optional[Callable[[], None]]:
    """What makes a child, on Linux, be killed when the agent is: its GPU must not stay taken."""
    prctl = find_prctl()
    return prctl and (lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL))


def find_prctl() -> Any:
    """Linux's; None elsewhere."""
    try:
        return ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return None


def take_token(fd: Optional[int]) -> str:
    """The job's token: from a pipe, or a pod's environment.

    No other process of this user can find it then, neither in the environment nor in the memory.
    """
    call = find_prctl()
    if call:
        call(PR_SET_DUMPABLE, 0, 0, 0, 0)
    if fd is not None:
        with open(fd) as pipe:
            return pipe.read()
    token = os.environ.pop(TOKEN)
    if Path("/proc/self/stat").exists():
        start, end = map(int, Path("/proc/self/stat").read_text().rpartition(")")[2].split()[47:49])
        at = ctypes.string_at(start, end - start).find(f"{TOKEN}={token}".encode())
        if at >= 0:
            ctypes.memset(start + at, 0, len(TOKEN) + 1 + len(token))
    return token


def adopt_orphans() -> None:
    """Makes this process, on Linux, the parent of whatever its descendants leave behind: no daemon can hide from it."""
    prctl = find_prctl()
    if prctl:
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(pid: int) -> List[int]:
    """The processes that a process, or its children and so on, have started, and that have not ended."""
    children: Dict[int, List[int]] = {}
    for stat_file in glob.glob("/proc/[0-9]*/stat"):
        try:
            with open(stat_file, "rb") as file:
                state, parent = file.read().rpartition(b") ")[2].split()[:2]
        except (OSError, ValueError):
            continue  # it has ended
        if state not in b"ZX":
            children.setdefault(int(parent), []).append(int(stat_file.split("/")[2]))
    found = list(children.get(pid, []))
    for child in found:
        found += children.get(child, [])
    return found


def end_descendants(pid: int, within_s: float) -> None:
    """Kills all of them, and those that they start meanwhile; a process that adopts orphans keeps them in its reach."""
    deadline, looks = time.monotonic() + within_s, 0
    while looks < LOOKS and time.monotonic() < deadline:
        found = descendants(pid)
        looks = 0 if found else looks + 1
        for child in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(child, signal.SIGKILL)
        end_orphans(pid, time.monotonic() + (0.2 if found else 0.005))


def end_orphans(pid: int, until: float) -> None:
    """Kills what the process adopts, at once: one that forks and ends, again and again, is gone after a look at all of /proc."""
    try:
        children = open(f"/proc/{pid}/task/{pid}/children", "rb", buffering=0)
    except OSError:
        return time.sleep(0.02)  # such as by a kernel that does not tell
    with children:
        while time.monotonic() < until:
            children.seek(0)
            for child in children.read(SMALL).split()[::-1]:  # the newest
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(int(child), signal.SIGKILL)
            if pid == os.getpid():
                reap()


def reap() -> None:
    """Lets go of all children that have ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def kill_group(pid: int, how: int) -> None:
    try:
        os.killpg(pid, how)
    except (ProcessLookupError, PermissionError):
        pass


def say(text: str) -> None:
    """The agent's own words: in the container's log, not in the script's."""
    with suppress(OSError):  # such as on a full disk
        print(f"{AGENT_MARK.decode()} {text}", file=sys.stderr, flush=True)


def no_room(error: OSError, folder: Path) -> str:
    """Why nothing can be written there, with what is free."""
    why = error.strerror or str(error)
    with suppress(OSError):
        why += f"; {shutil.disk_usage(folder).free:,} bytes are free at {folder}"
    return why


def leave_note(path: Path, note: Optional[Dict[str, Any]]) -> None:
    """Writes a note in place, which was made empty in time: so there is room for it on a disk that has become full."""
    text = b"" if note is None else json.dumps(note).encode()
    with suppress(OSError), open(path, "wb" if note is None else "r+b") as file:
        file.write(text.ljust(NOTE_BYTES))


def listen_on(port: int) -> socket.socket:
    """A socket for IPv4 and, where there is such, IPv6."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--role", required=True)
    parser.add_argument("--index", type=int, default=int(os.environ.get("JOB_COMPLETION_INDEX", 0)))
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--host", required=True, help="the address at which the other replicas find this one")
    parser.add_argument("--port", type=int, required=True, help="TensorFlow's, there")
    parser.add_argument("--fd", type=int, help=f"a socket for the agent, already bound; else it takes port {PORT}")
    parser.add_argument("--token-fd", type=int, help=f"a pipe with the job's token; else {TOKEN} has it")
    args = parser.parse_args(argv)
    adopt_orphans()
    hidden = json.loads(os.environ.pop("TFSPAWNER_HIDDEN", "{}"))  # what of job.json, and the command file, is secret
    job = Job({**json.loads((args.config / "job.json").read_text()), **hidden})
    listener = listen_on(PORT) if args.fd is None else socket.socket(fileno=args.fd)
    agent = Agent(job, args.role, args.index, args.host, args.port, listener.getsockname()[1],
                  take_token(args.token_fd), args.root, args.config)  # fmt: skip
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # an ignored one would keep exit codes from us
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, agent.terminate)
    return agent.main(listener)


if __name__ == "__main__":
    sys.exit(main())
