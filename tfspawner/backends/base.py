"""The Backend protocol: a backend launches a plan, watches its replicas, and knows how to reach their agents."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from tfspawner.base.states import PodState
from tfspawner.plan.spec import JobSpec

from .client import AgentClient, Holder

if TYPE_CHECKING:
    from tfspawner.plan.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What the backend itself sees of one replica, or of the whole job if replica is None.

    "failed" ends the job if no agent can say more. "succeeded" for the whole job stands, whatever happened to its
    replicas afterwards.
    """

    replica: str | None
    state: PodState
    message: str = ""
    hint: str | None = None
    node: str = ""
    fatal: bool = False  # waiting will not help
    patience_s: float = 0.0  # how long it has to last before it counts as fatal


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSummary:
    """A line of `tf-spawner list`, and of `top`."""

    job: str
    on: str
    namespace: str
    tag: str
    roles: dict[str, int]
    created: float
    state: str
    id: str = ""  # differs from that of any other job of the same name
    brief: dict[str, Any] = field(default_factory=dict)  # its coordinator's summary of the gang
    warning: str = ""  # what is damaged in it, or wrong with its answers
    is_bare: bool = False  # nothing but its name is left, so nothing in it can be another job's

    @property
    def replicas(self) -> list[str]:
        return [f"{role}-{index}" for role, count in self.roles.items() for index in range(count)]


class Left(Holder, Protocol):
    """A replica's files that outlived their agent."""

    def is_missed(self) -> bool:
        """Whether there are files that nobody has fetched."""

    def mark_fetched(self) -> None:
        """Notes that the files were fetched, so that is_missed says no from then on."""


@runtime_checkable
class KeepsFiles(Protocol):
    """A backend on which a replica's files outlive its agent: this machine, but not pods."""

    def left(self, job: str, replica: str) -> Left | None:
        """The files of a replica whose agent was killed; None if there are none."""


class Backend(Protocol):
    """The verbs of a backend."""

    name: str

    def reserve(self, spec: JobSpec, job: str) -> str:
        """Reserves the address where the coordinator's agent will listen, and returns it as "host:port".

        The other replicas need to know no more. Raises ClusterError if no address is free.
        """

    def check(self, spec: JobSpec) -> list[str]:
        """Checks before anything is created whether a launch can work: raises if not, and returns warnings."""

    def gpus(self, spec: JobSpec, jobs: int = 1) -> tuple[Mapping[str, tuple[str, ...]], list[str]]:
        """The GPUs for --gpus and --gpu-type in that many jobs, as {variable or node label: values}; and warnings.

        Raises ConfigurationError if there are no such GPUs.
        """

    def preflight(self, plan: Plan) -> list[str]:
        """Asks whether the replicas would be accepted: raises if not; returns warnings, as for too little capacity."""

    def provide_tf_keras(self, spec: JobSpec) -> tuple[tuple[Path, ...], list[str]]:
        """The wheels to send so that the replicas have tf-keras, and warnings; raises if the job would fail without."""

    def must_upload(self, plan: Plan) -> bool:
        """Whether the code must be uploaded to the coordinator after launch."""

    def launch(self, plan: Plan) -> None:
        """Creates the whole job, or raises and leaves nothing behind."""

    def find(self, job: str) -> JobSummary:
        """Raises NotFoundError."""

    def jobs(self) -> list[JobSummary]:
        """All jobs on this backend, oldest first."""

    def left_out(self, *, thorough: bool = False) -> list[str]:
        """What looked like a job, or a part of one, but is not, and why. thorough: also look where jobs() does not."""

    def watch(self, job: str, stop: threading.Event) -> Iterator[Observation | None]:
        """Yields what happens to the job's replicas until stop is set, and None whenever it is up to date."""

    def agent(self, job: str, replica: str) -> AgentClient:
        """A client for a replica's agent. Raises AgentUnreachable if there is no agent now."""

    def last_output(self, job: str, replica: str) -> bytes | None:
        """The replica's output as far as the backend itself has it, for use when the agent is gone."""

    def delete(
        self, job: str, timeout_s: float, id: str | None = None, note: Callable[[str], None] | None = None
    ) -> None:
        """Removes the whole job and returns when it is gone; calls note with what holds that up for long.

        With an id, removes only the job that has it. Raises ClusterError if the job's id cannot be read: it may be
        another job.
        """
