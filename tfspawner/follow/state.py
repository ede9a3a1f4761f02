"""A job's state: its replicas, its phase, and the view that shows it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from tfspawner.base.cause import Cause
from tfspawner.base.states import Phase, Result, State

NO_POD = "its pod is gone"


@dataclass(slots=True, kw_only=True)
class ReplicaState:
    """One line of the table."""

    replica: str
    state: State = State.PENDING
    node: str = ""
    since: float = 0.0
    message: str = ""
    progress: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=dict)  # cpu: processors, memory: bytes, gpus: as Gpu.sample()
    exit_code: int | None = None
    behind_s: float = 0.0  # how many seconds later than half of the others it got to where it is
    unkept: dict[str, Any] = field(default_factory=dict)  # of its output: how many bytes there was no room for, and why
    storing: str = ""  # where it puts its files just now
    stored: dict[str, Any] | None = None  # with --artifacts: uri, files, size, failure

    @property
    def word(self) -> str:
        """Its state in a word: after its end it may still be putting files into a bucket."""
        return "storing" if self.storing else self.state

    @property
    def role(self) -> str:
        return self.replica.rsplit("-", 1)[0]


@dataclass(slots=True, kw_only=True)
class JobState:
    """What is known about a job now; `result` once it has ended."""

    job: str
    replicas: dict[str, ReplicaState]
    phase: Phase = Phase.PENDING
    result: Result | None = None
    cause: Cause | None = None
    times: dict[str, float] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)  # replicas whose pod or process has ended
    restarts: list[dict[str, Any]] = field(default_factory=list)  # generation, time, and its cause: replica, message

    @property
    def without_pods(self) -> str:
        """A message about pods that went after the job's end; "" if none did."""
        gone = [line.replica for line in self.replicas.values() if line.message == NO_POD]
        return which_pods_are_gone(gone, len(self.replicas)) if gone else ""


def which_pods_are_gone(replicas: list[str], count: int) -> str:
    """Says which of a job's `count` replicas have no pods any more."""
    return "its pods are gone" if len(replicas) == count else f"the pods of {shortened(replicas)} are gone"


def shortened(replicas: list[str]) -> str:
    """The first few by name, and how many more there are."""
    return ", ".join(replicas[:5]) + (f" and {len(replicas) - 5} more" if len(replicas) > 5 else "")


class View(Protocol):
    """Shows what happens."""

    def show(self, state: JobState) -> None:
        """Shows the job's current state."""

    def log(self, replica: str, data: bytes) -> None:
        """Shows output of a replica; lines may be cut anywhere."""

    def received(self, size_bytes: int) -> None:
        """Counts bytes of files that have come home since the last call."""

    def note(self, text: str) -> None:
        """Shows a line to the user."""

    def finish(self) -> None:
        """Nothing more comes."""


class Silent:
    """The view of a program that only wants the outcome."""

    def show(self, state: JobState) -> None:
        pass

    def log(self, replica: str, data: bytes) -> None:
        pass

    def received(self, size_bytes: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def finish(self) -> None:
        pass
