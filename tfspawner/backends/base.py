"""Where replicas run: a backend launches a plan, watches the replicas, and says how to reach their agents."""

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
    """What the backend itself sees of one replica, or of the job where replica is None.

    A state of "failed" ends the job where no agent can tell more; "succeeded" of the whole job counts whatever became of
    its replicas since.
    """

    replica: str | None
    state: PodState
    message: str = ""
    hint: str | None = None
    node: str = ""
    fatal: bool = False  # it will not get better by waiting
    patience_s: float = 0.0  # fatal only if it stays so long


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
    id: str = ""  # tells it from former and foreign jobs of the same name
    told: dict[str, Any] = field(default_factory=dict)  # what its coordinator says of all, in brief
    warning: str = ""  # what is damaged of it, or wrong with what it says
    is_bare: bool = False  # nothing is left of it but its name, and so nothing that is another's

    @property
    def replicas(self) -> list[str]:
        return [f"{role}-{index}" for role, count in self.roles.items() for index in range(count)]


class Left(Holder, Protocol):
    """A replica's files without their agent."""

    def is_missed(self) -> bool:
        """Whether there are any, and nobody has fetched them."""

    def mark_fetched(self) -> None:
        """Notes that the files were fetched, so that is_missed says no from then on."""


@runtime_checkable
class KeepsFiles(Protocol):
    """A backend on which a replica's files outlive its agent: on this machine, and not in pods."""

    def left(self, job: str, replica: str) -> Left | None:
        """What still gives the files of a replica whose agent was killed; None where there are none."""


class Backend(Protocol):
    """The verbs of a backend."""

    name: str

    def reserve(self, spec: JobSpec, job: str) -> str:
        """Takes the place where the coordinator's agent will listen, and says it as "host:port".

        It is all that the other replicas have to know. Raises ClusterError where there is none.
        """

    def check(self, spec: JobSpec) -> list[str]:
        """Raises what would stop a launch, before anything is created; returns warnings."""

    def gpus(self, spec: JobSpec, jobs: int = 1) -> tuple[Mapping[str, tuple[str, ...]], list[str]]:
        """Which GPUs --gpus and --gpu-type get in so many jobs, by the variable or the node labels that name them; warnings.

        Raises ConfigurationError where there are none such.
        """

    def preflight(self, plan: Plan) -> list[str]:
        """Raises what would refuse the plan's replicas; returns warnings, such as that there is no room for them."""

    def provide_tf_keras(self, spec: JobSpec) -> tuple[tuple[Path, ...], list[str]]:
        """Wheels to send along so that the replicas have tf-keras, and warnings; raises where it must fail."""

    def must_upload(self, plan: Plan) -> bool:
        """Whether the code has to be uploaded to the coordinator after launch."""

    def launch(self, plan: Plan) -> None:
        """Creates all of the job, or raises and leaves nothing."""

    def find(self, job: str) -> JobSummary:
        """Raises NotFoundError."""

    def jobs(self) -> list[JobSummary]:
        """All jobs that were launched here, oldest first."""

    def left_out(self, *, thorough: bool = False) -> list[str]:
        """What looked like a job, or a part of one, and is none: what it is, and why. Thorough: where jobs() does not look."""

    def watch(self, job: str, stop: threading.Event) -> Iterator[Observation | None]:
        """What happens to the job's replicas, until stop is set; None when all that is so far was told."""

    def agent(self, job: str, replica: str) -> AgentClient:
        """The way to a replica's agent. Raises AgentUnreachable where there is none now."""

    def last_output(self, job: str, replica: str) -> bytes | None:
        """The replica's output as far as the backend itself has it, for when the agent is gone."""

    def delete(
        self, job: str, timeout_s: float, id: str | None = None, note: Callable[[str], None] | None = None
    ) -> None:
        """Removes all of the job, if it has that id, and returns when it is gone; what is waited for long is told by note.

        With an id, raises ClusterError where the job's own cannot be read: it may be another job.
        """
