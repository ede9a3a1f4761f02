"""A replica's state, from which its server answers."""

from __future__ import annotations

import os
import queue
import subprocess
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable

from .bucket import Store
from .checkpoints import Checkpoints
from .code import Code
from .files import Files
from .gang import Gang
from .job import Job
from .log import Log
from .masking import Masker
from .notes import leave_note
from .peers import Peer
from .proofs import Answered, Key
from .protocol import address

COLLECTING_PAUSE_S = 2.0  # between two requests of a client that fetches files


class Replica:
    """A replica's job, key, log and files, and the gang if it coordinates."""

    def __init__(
        self,
        job: Job,
        role: str,
        index: int,
        host: str,
        port: int,
        agent_port: int,
        token: str,
        root: Path,
        config_dir: Path,
    ) -> None:
        self.job, self.role, self.index, self.port, self.root = job, role, index, port, root
        self.key, self.answered = Key(token), Answered()
        self.replica = f"{role}-{index}"
        self.is_coordinator = self.replica == job.coordinator
        self.coordinator = Peer(self.key, job.coordinator, job.coordinator_address)
        self.gang = Gang(job) if self.is_coordinator else None
        for name in ("output", "home", "tmp"):
            (root / name).mkdir(parents=True, exist_ok=True)
        leave_note(root / "exit.json", None)
        # If another pod may replace this one, the start time distinguishes their output.
        self.log = Log(root / "log", int(time.time()) << 32 if job.restarts and job.replaces_lost else 0)
        secrets = (os.environb.get(name.encode(), b"") for name in job.secret_names)
        self.masker = Masker(list(secrets))
        self.code = Code(job, root, config_dir / "code.tar.gz")
        self.files = Files(root, job.collect)
        self.checkpoints = Checkpoints(root, self.is_coordinator)
        self.store: Store | None = None
        self.config_dir = config_dir
        self.child: subprocess.Popen[bytes] | None = None
        self.pump: threading.Thread | None = None
        self.generation = 0  # how often the gang has been started again
        self.met = -1  # the last generation in which this replica learned all addresses
        self.life = os.urandom(8).hex()  # distinguishes this process from others of the same replica
        self.site: Path | None = None
        self.heard_at = time.monotonic()  # when the coordinator answered last
        self.order: dict[str, Any] = {"version": -1, "generation": 0, "phase": "forming", "released": False}
        self.ordered = threading.Condition()
        self.collecting = 0  # requests for files under way
        self.collected_at = 0.0
        self.stop = threading.Event()  # the gang stops, or this replica was told to
        self.terminated = threading.Event()  # this replica was sent SIGTERM
        self.ending: queue.SimpleQueue[tuple[subprocess.Popen[bytes] | None, bool]] = queue.SimpleQueue()
        self.broken = ""  # what failed in one of the agent's own threads
        self.usage: Any = None  # while the script runs, what samples its processors, memory and GPUs
        self.addresses = {"address": address(host, port), "agent": address(host, agent_port)}
        self.reporting = threading.Lock()  # held while the report changes
        self.untold = threading.Event()  # the last report did not arrive
        self.report = self.new_report()

    def new_report(self) -> dict[str, Any]:
        """The report of a replica that has just begun."""
        return {
            "replica": self.replica,
            "state": "starting",
            "message": "",
            "since": time.time(),
            "life": self.life,
            "checkpoint": self.checkpoints.changed_at(),
            **self.addresses,
        }

    def begin(self, work: Callable[..., Any], *args: Any) -> threading.Thread:
        """Runs work in its own thread. If that fails, this replica fails, and says why."""

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

    def silent_s(self) -> float:
        """How long the script has printed nothing, in seconds."""
        return time.monotonic() - self.log.last_output

    def is_to_run(self) -> bool:
        """Whether the coordinator's last order is to continue in this generation."""
        return self.order["phase"] not in ("stopping", "ended") and self.order["generation"] == self.generation

    def stop_child(self, dump: bool = False) -> None:
        """Ends the script; with dump, by a signal that makes it print its threads' stacks."""
        self.ending.put((self.child, dump))

    @contextmanager
    def serving(self, request: str) -> Iterator[None]:
        """Counts the clients that fetch files: this replica stays as long as there are any."""
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
        """Whether nobody is fetching files, or was a moment ago."""
        return not self.collecting and time.monotonic() - self.collected_at > COLLECTING_PAUSE_S

    def terminate(self, *_: Any) -> None:
        """Ends the replica, as after a SIGTERM."""
        self.terminated.set()
        self.stop.set()
        self.stop_child()  # in a thread of its own: this one may hold the lock that wakes

    def wake(self) -> None:
        """Wakes those who wait for an order."""
        with self.ordered:
            self.ordered.notify_all()
