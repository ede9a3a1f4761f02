"""The facts about a job that may end it, and since when. Pure: the time is an argument, of time.monotonic()."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from tfspawner.backends.base import Observation
from tfspawner.base.states import Phase, PodState

from .state import JobState

ENDED = (PodState.SUCCEEDED, PodState.FAILED, PodState.GONE)  # in which no agent can answer


@dataclass(frozen=True, slots=True)
class Doom:
    """Why a replica cannot start or has ended, according to the backend, and since when."""

    since: float
    seen: Observation


@dataclass(slots=True, kw_only=True)
class Facts:
    """The facts that a job is judged by. The follower keeps them, and judge() reads them."""

    state: JobState
    changed_at: float  # when output came, or the gang's phase changed, last
    start_timeout_s: float | None = None  # None: the default, and each observation's own patience

    # What the backend has seen.
    platform: dict[str, Observation] = field(default_factory=dict)  # the last of each replica
    first_seen_at: float | None = None  # when the backend saw the first replica
    doomed: dict[str | None, Doom] = field(default_factory=dict)  # by replica; None: the whole job
    lost_at: dict[str, float] = field(
        default_factory=dict
    )  # since when a replica's pod or process has failed or is gone
    succeeded_at: float | None = None  # when the backend said that the whole job has succeeded

    # What the agents have reported.
    heard: bool = False  # the coordinator has reported something
    reported: set[str] = field(default_factory=set)  # replicas whose agents have reported, since the last restart
    silent_since: float | None = None  # since when the coordinator does not answer; the streaming thread sets it, too
    first_answer_at: float = -math.inf  # of the backend, when it was asked because the coordinator is silent
    last_answer_at: float = -math.inf
    stream_ended_at: float | None = None
    impostor: Observation | None = None  # something else answers in the coordinator's place

    @property
    def coordinator(self) -> str:
        return next(iter(self.state.replicas))

    @property
    def are_all_seen(self) -> bool:
        return len(self.platform) == len(self.state.replicas)

    @property
    def is_ended_by_agents(self) -> bool:
        """Whether the gang itself ends the job, and will say why."""
        return self.heard and self.state.phase in (Phase.STOPPING, Phase.ENDED)

    def has_ended(self, replica: str) -> bool:
        """Whether the backend has seen that this replica's agent can no longer answer."""
        return replica in self.platform and self.platform[replica].state in ENDED

    def see(self, seen: Observation, now: float) -> None:
        """Takes in what the backend sees of a replica or of the whole job."""
        if seen.replica is None:
            return self._see_job(seen, now)
        replica, before = seen.replica, self.platform.get(seen.replica)
        self.platform[replica] = seen
        if self.first_seen_at is None:
            self.first_seen_at = now
        if self.are_all_seen:
            self._forget_refusal()
        if seen.state in ENDED:
            self.state.gone.add(replica)
        else:
            self.state.gone.discard(replica)
        self._see_loss(replica, seen, now)
        if replica == self.coordinator:
            self._see_coordinator(seen, before, now)

    def _see_job(self, seen: Observation, now: float) -> None:
        if seen.state == PodState.SUCCEEDED:
            self.succeeded_at = now
        elif seen.state in (PodState.FAILED, PodState.GONE) or seen.fatal:
            self.doomed.setdefault(None, Doom(now, seen))

    def _forget_refusal(self) -> None:
        """Forgets why pods could not be created, once all pods exist."""
        if None in self.doomed and self.doomed[None].seen.patience_s:
            del self.doomed[None]

    def _see_loss(self, replica: str, seen: Observation, now: float) -> None:
        is_lost = seen.state in (PodState.FAILED, PodState.GONE)
        if is_lost:
            self.lost_at.setdefault(replica, now)
        else:
            self.lost_at.pop(replica, None)
        if seen.fatal:
            since = self.doomed[replica].since if replica in self.doomed else now
            self.doomed[replica] = Doom(since, seen)
        elif not is_lost:
            self.doomed.pop(replica, None)

    def _see_coordinator(self, seen: Observation, before: Observation | None, now: float) -> None:
        if seen.state in ENDED:
            self.doomed.setdefault(self.coordinator, Doom(now, seen))
        elif seen.state == PodState.RUNNING and before and before.state != PodState.RUNNING:
            self.silent_since = None  # another pod has taken its place

    @property
    def has_backend_answered(self) -> bool:
        """Whether the backend has answered since the coordinator fell silent."""
        return self.silent_since is not None and self.first_answer_at > self.silent_since

    def hear_backend(self, now: float) -> None:
        """The backend answers, and the coordinator does not."""
        if not self.has_backend_answered:
            self.first_answer_at = now
        self.last_answer_at = now
