"""The states and results of a job, each set in one place. They print, compare and serialize as plain words."""

from __future__ import annotations

from enum import StrEnum


class Result(StrEnum):
    """How a job has ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"


class Phase(StrEnum):
    """Where a job stands: pending until its coordinator is heard, and then what that says."""

    PENDING = "pending"
    FORMING = "forming"
    MEETING = "meeting"
    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"


class State(StrEnum):
    """Where a replica stands: what its agent says, or what the backend sees of it while no agent speaks."""

    PENDING = "pending"
    STARTING = "starting"
    GETTING_THE_CODE = "getting the code"
    MEETING = "meeting"
    READY = "ready"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    GONE = "gone"


class PodState(StrEnum):
    """What the backend sees of a replica's pod or process, or of the whole job."""

    PENDING = "pending"
    STARTING = "starting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    GONE = "gone"
