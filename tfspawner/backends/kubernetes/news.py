"""Turns the events of one job's watches into observations, but only those of its own Jobs and pods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from tfspawner.backends.base import Observation
from tfspawner.base.fields import mapping, text
from tfspawner.base.states import PodState

from .objects import Launched, LeftOut, ReplicaPod, RoleJob, belongs, controller_uid, read_job, read_pod
from .pods import LOST_POD, explain_failed_create, observe, observe_event

MOST_WAITING = 1000  # objects whose warnings are kept while it is unknown whether they are the job's
EVENTS_EACH = 8  # warnings kept for each


class News:
    """One job's state as its watches have shown it so far; read() turns their next event into observations."""

    def __init__(self, launched: Launched, pods: dict[str, str]) -> None:
        self.first, self.pods = launched.first, pods
        self.unfinished = set(launched.uids)  # the job's Jobs that are not complete
        self.jobs: dict[str, RoleJob] = {}  # uid -> Job, for the Jobs that the watch has shown
        self.replicas: dict[str, str | None] = {}  # uid of an object of the job -> its replica, None for a Job
        self.newest: dict[str, tuple[str, bool]] = {}  # replica -> its pod's ReplicaPod.newness
        self.pull_notes: dict[str, str] = {}  # a pod's uid -> what is wrong with its image pull secrets
        self.waiting_pods: dict[str, dict[str, Mapping[str, Any]]] = {}  # a Job's uid -> pods that came before it
        self.unclaimed: dict[str, list[Mapping[str, Any]]] = {}  # an object's uid -> events that came before it
        self.replacing: set[str] = set()  # roles whose Jobs replace a lost replica's pod
        self.lost: dict[str, Observation] = {}  # replica -> how it was lost, while its pod is being replaced

    def read(self, kind: str, event: Mapping[str, Any]) -> Iterator[Observation]:
        thing, change = mapping(event, "object"), text(event, "type")
        if kind == "event":
            yield from self.event(thing)
        elif kind == "pod":
            yield from self.pod(change, thing)
        else:
            yield from self.job_object(change, thing)

    def pod(self, change: str, pod: Mapping[str, Any]) -> Iterator[Observation]:
        """What a change of a pod says of its replica; a pod whose Job is not known yet is kept for later."""
        owner, uid = controller_uid(pod), text(pod, "metadata", "uid")
        if owner not in self.jobs:
            self._keep(owner, uid, change, pod)
            return
        read = read_pod(pod, self.jobs)
        if isinstance(read, LeftOut):
            return
        yield from self._pod(change, read, pod)
        for waiting in self.unclaimed.pop(uid, []):
            yield from self.event(waiting)

    def _keep(self, owner: str, uid: str, change: str, pod: Mapping[str, Any]) -> None:
        """Keeps a pod until its Job is known, which another watch brings."""
        if change == "DELETED":
            self.waiting_pods.get(owner, {}).pop(uid, None)
        elif owner:
            self.waiting_pods.setdefault(owner, {})[uid] = pod

    def _pod(self, change: str, read: ReplicaPod, pod: Mapping[str, Any]) -> Iterator[Observation]:
        replica = read.replica
        if change == "DELETED":
            if self.pods.get(replica) == read.name:
                yield self.unless_replaced(Observation(replica=replica, state=PodState.GONE, message=LOST_POD))
            return
        self.replicas[read.uid] = replica
        if self.pods.get(replica, read.name) != read.name and read.newness < self.newest.get(replica, ("", False)):
            return  # a newer pod has replaced it
        self.pods[replica], self.newest[replica] = read.name, read.newness
        seen = observe(replica, pod)
        note = self.pull_notes.get(read.uid)
        yield self.unless_replaced(replace(seen, message=f"{seen.message}; {note}") if note and seen.fatal else seen)

    def unless_replaced(self, seen: Observation) -> Observation:
        """The observation; for a lost replica whose pod will be replaced, one that says it is pending."""
        if str(seen.replica).rpartition("-")[0] not in self.replacing or seen.state not in (
            PodState.FAILED,
            PodState.GONE,
        ):
            self.lost.pop(seen.replica or "", None)
            return seen
        self.lost[seen.replica or ""] = seen
        return replace(seen, state=PodState.PENDING, message=f"{seen.message}; another pod takes its place")

    def job_object(self, change: str, manifest: Mapping[str, Any]) -> Iterator[Observation]:
        """What a change of one of the job's Job objects says of the job."""
        uid = text(manifest, "metadata", "uid")
        if change == "DELETED":
            if uid == self.first.uid or uid in self.jobs:
                yield Observation(replica=None, state=PodState.GONE, message=f"job {self.first.job} was deleted")
            return
        read = read_job(manifest)
        if isinstance(read, LeftOut) or not (uid == self.first.uid or belongs(read, self.first)):
            return
        self.jobs[uid], self.replicas[uid] = read, None
        (self.replacing.add if read.replaces and not read.condition else self.replacing.discard)(read.role)
        if read.condition and read.condition[0] == "Failed":
            yield from self.lost.values()
            yield Observation(replica=None, state=PodState.FAILED, message=f"the {read.role}s' Job {read.condition[1]}")
        if not read.condition:
            self.unfinished.add(uid)  # it may have been created after the others were read
        elif read.condition[0] == "Complete" and uid in self.unfinished:
            self.unfinished.discard(uid)
            if not self.unfinished:
                yield Observation(replica=None, state=PodState.SUCCEEDED, message="its Jobs are complete")
        for pod in self.waiting_pods.pop(uid, {}).values():
            yield from self.pod("ADDED", pod)
        for waiting in self.unclaimed.pop(uid, []):
            yield from self.event(waiting)

    def event(self, event: Mapping[str, Any]) -> Iterator[Observation]:
        """What an event says of a replica; an event whose object is not known yet is kept for later."""
        explained = observe_event(event)
        if not explained:
            return
        uid = text(event, "involvedObject", "uid")
        if uid not in self.replicas:
            self._keep_event(uid, event)
            return
        reason, message, patience_s = explained
        if reason == "FailedToRetrieveImagePullSecret":
            self.pull_notes[uid] = message
            return
        if reason == "FailedCreate":
            words, hint = explain_failed_create(message)
            yield Observation(
                replica=None, state=PodState.PENDING, message=words, hint=hint, fatal=True, patience_s=patience_s
            )
            return
        yield Observation(
            replica=self.replicas[uid],
            state=PodState.STARTING,
            message=message[:300],
            fatal=True,
            patience_s=patience_s,
        )

    def _keep_event(self, uid: str, event: Mapping[str, Any]) -> None:
        """Keeps an event until its object is known. Most belong to others' objects, so the oldest are dropped."""
        kept = self.unclaimed.setdefault(uid, [])
        kept.append(event)
        del kept[:-EVENTS_EACH]
        if len(self.unclaimed) > MOST_WAITING:
            del self.unclaimed[next(iter(self.unclaimed))]
