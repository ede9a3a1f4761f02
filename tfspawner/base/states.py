"""The states and results of a job, each set in one place. They print, compare and serialize as plain words."""

from __future__ import annotations

from enum import StrEnum


class Result(StrEnum):
    """How a job has ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"


class PodState(StrEnum):
    """What the backend sees of a replica's pod or process, or of the whole job."""

    PENDING = "pending"
    STARTING = "starting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    GONE = "gone"
