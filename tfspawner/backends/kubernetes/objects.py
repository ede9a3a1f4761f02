"""Which of the cluster's objects are tf-spawner's: reads each into a typed value, or leaves it out with a reason.

Anybody can copy labels and ids. A Job is ours if it has all that tf-spawner gives one; if several claim to be the same
job, it is the one that owns the Secret of that name. Any other object belongs to a job if its owner, by uid, is one of
the job's Jobs.
"""

from __future__ import annotations

import calendar
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tfspawner.backends.base import JobSummary
from tfspawner.base.fields import count, mapping, mappings, text, texts
from tfspawner.base.names import shown
from tfspawner.errors import ClusterError
from tfspawner.plan.checks import is_name
from tfspawner.plan.spec import ROLES

from .manifests import ID, JOB_LABEL, ROLE_LABEL
from .pods import job_condition

TAG_LABEL = "tf-spawner/tag"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
MOST_REPLICAS = 100_000  # of one Job: Kubernetes's limit with a backoffLimitPerIndex
CONTROLLER_LABEL = "batch.kubernetes.io/controller-uid"  # a pod's label: the uid of the Job that created it
_INDEX = re.compile(r"0|[1-9][0-9]{0,5}")
_POD_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_UID = re.compile(r"[A-Za-z0-9-]{1,128}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """An object that looks like one of tf-spawner's but is not."""

    kind: str
    name: str
    why: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleJob:
    """The Job of one role of a job."""

    uid: str
    name: str
    job: str
    id: str
    role: str
    tag: str
    completions: int
    owner: str  # the uid of the job's first Job; "" for the first itself
    created: float
    condition: tuple[str, str] | None
    succeeded: int
    ready: int
    is_suspended: bool
    is_queued: bool
    replaces: bool  # whether it gives a lost replica another pod


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaPod:
    """A pod of one of the job's Jobs."""

    uid: str
    name: str
    replica: str
    newness: tuple[str, bool]  # sorts the pods of one replica: a pod is replaced only after it has ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """One job in the cluster: its first Job, and the Jobs that the first one owns."""

    roles: tuple[RoleJob, ...]  # in TF_CONFIG's order

    @property
    def first(self) -> RoleJob:
        return next(role for role in self.roles if not role.owner)

    @property
    def job(self) -> str:
        return self.first.job

    @property
    def uids(self) -> dict[str, RoleJob]:
        return {role.uid: role for role in self.roles}

    def summary(self, namespace: str) -> JobSummary:
        """The job as a line of `tf-spawner list`, by its Job objects alone."""
        first = self.first
        return JobSummary(
            job=first.job,
            on="kubernetes",
            namespace=namespace,
            tag=first.tag,
            created=first.created,
            roles={role.role: role.completions for role in self.roles},
            state=self._state(),
            id=first.id,
        )

    def _state(self) -> str:
        if any(role.condition and role.condition[0] == "Failed" for role in self.roles):
            return "failed"
        if all(role.succeeded == role.completions for role in self.roles):
            return "succeeded"
        if self.first.is_suspended:
            return "queued" if self.first.is_queued else "incomplete"
        return "running" if any(role.ready for role in self.roles) else "pending"


def read_job(manifest: object) -> RoleJob | LeftOut:
    """Reads a Job; LeftOut if tf-spawner would not have created it so."""
    labels, name, uid = texts(manifest, "metadata", "labels"), _name(manifest), text(manifest, "metadata", "uid")
    job, role, completions = (
        labels.get(JOB_LABEL, ""),
        labels.get(ROLE_LABEL, ""),
        count(manifest, "spec", "completions"),
    )
    id, created = text(manifest, "metadata", "annotations", ID), created_at(manifest)
    owners = owner_uids(manifest)
    why = ""
    if not is_name(job):
        why = f"its label {JOB_LABEL} is {shown(job)}, not a job's name" if job else f"it has no label {JOB_LABEL}"
    elif role not in ROLES:
        why = f"its label {ROLE_LABEL} is {shown(role)}, not a role" if role else f"it has no label {ROLE_LABEL}"
    elif not id:
        why = f"it has no annotation {ID}"
    elif name != f"{job}-{role}":
        why = f"the {role}s' Job of job {job} is called {job}-{role}"
    elif text(manifest, "spec", "completionMode") != "Indexed" or completions is None:
        why = "it is not an Indexed Job"
    elif not 1 <= completions <= MOST_REPLICAS:
        why = f"it has {shown(completions)} completions, and 1 to {MOST_REPLICAS:,} are possible"
    elif not _UID.fullmatch(uid) or created is None:
        why = "it has no uid or no time of its creation"
    elif len(owners) > 1:
        why = "it has several owners"
    if why:
        return LeftOut(kind="Job", name=shown_name(manifest), why=why)
    return RoleJob(
        uid=uid,
        name=name,
        job=job,
        id=id,
        role=role,
        tag=labels.get(TAG_LABEL, ""),
        completions=completions or 0,
        owner="".join(owners),
        created=created or 0.0,
        condition=job_condition(manifest),
        succeeded=count(manifest, "status", "succeeded") or 0,
        ready=count(manifest, "status", "ready") or 0,
        is_suspended=mapping(manifest, "spec").get("suspend") is True,
        is_queued=QUEUE_LABEL in labels,
        replaces=bool(count(manifest, "spec", "backoffLimitPerIndex")),
    )


def read_jobs(manifests: Iterable[object]) -> tuple[list[Launched], list[LeftOut]]:
    """The jobs that these Jobs make up, oldest first, and the Jobs that belong to none."""
    roles: dict[str, RoleJob] = {}
    left_out = []
    for manifest in manifests:
        read = read_job(manifest)
        if isinstance(read, LeftOut):
            left_out.append(read)
        else:
            roles[read.uid] = read
    members: dict[str, list[RoleJob]] = {uid: [role] for uid, role in roles.items() if not role.owner}
    for role in roles.values():
        if not role.owner:
            continue
        first = roles.get(role.owner)
        if first and belongs(role, first):
            members[first.uid].append(role)
        else:
            left_out.append(
                LeftOut(kind="Job", name=role.name, why=f"its owner is not the first Job of job {role.job}")
            )
    jobs = [Launched(roles=tuple(sorted(group, key=lambda r: ROLES.index(r.role)))) for group in members.values()]
    return sorted(jobs, key=lambda launched: launched.first.created), left_out


def belongs(role: RoleJob, first: RoleJob) -> bool:
    """Whether this is the Job of a later role of the same job as the given first Job."""
    is_later = ROLES.index(role.role) > ROLES.index(first.role)
    return not first.owner and is_later and role.owner == first.uid and (role.job, role.id) == (first.job, first.id)


def is_secret_of(first: RoleJob, secret: object) -> bool:
    """Whether the job owns the Secret, or the Secret was created by hand from `render`: no owner, but the job's id."""
    owners = owner_uids(secret)
    return first.uid in owners or (not owners and text(secret, "metadata", "annotations", ID) == first.id)


def claimants(candidates: Iterable[Launched], job: str) -> list[Launched]:
    """The candidates that claim to be the job of that name."""
    return [launched for launched in candidates if launched.job == job]


def ambiguous(namespace: str, job: str, rivals: Iterable[Launched]) -> ClusterError:
    """The error if several jobs claim one name and it is not clear which one is meant."""
    names = [launched.first.name for launched in rivals]
    listed = " and ".join(f"Job {name}" for name in names)
    removing = ", or ".join(f"kubectl delete job -n {namespace} {name}" for name in names)
    return ClusterError(
        f"{listed} in namespace {namespace} say that they are job {job}: which one it is cannot be known,"
        f" because the Secret {job}, which would show it, is gone or does not belong to exactly one of them",
        hint=f"see whose they are: kubectl get jobs -n {namespace} -l {JOB_LABEL}={job}; "
        f"remove what is not yours: {removing}",
    )


def read_pod(pod: object, jobs: Mapping[str, RoleJob]) -> ReplicaPod | LeftOut:
    """Reads a pod as a replica of one of these Jobs, {uid: Job}; LeftOut if it is not one."""
    owner = controller_uid(pod)
    role = jobs.get(owner)
    name, uid, index = _name(pod), text(pod, "metadata", "uid"), text(pod, "metadata", "labels", INDEX_LABEL)
    why = ""
    if role is None:
        why = "its owner is none of the job's Jobs" if owner else "no Job made it"
    elif not _INDEX.fullmatch(index):
        why = f"its index is {shown(index)}" if index else "it has no index"
    elif int(index) >= role.completions:
        why = f"its index is {index}, and job {role.job} has {role.completions} {role.role}s"
    elif not _POD_NAME.fullmatch(name) or not _UID.fullmatch(uid):
        why = "it has no name or no uid"
    if why or role is None:
        return LeftOut(kind="Pod", name=shown_name(pod), why=why)
    newness = text(pod, "metadata", "creationTimestamp"), text(pod, "status", "phase") not in ("Failed", "Succeeded")
    return ReplicaPod(uid=uid, name=name, replica=f"{role.role}-{index}", newness=newness)


def owner_uids(manifest: object) -> set[str]:
    """The uids of the objects that own this one."""
    return {uid for owner in mappings(manifest, "metadata", "ownerReferences") if (uid := text(owner, "uid"))}


def is_created(existing: object, manifest: object) -> bool:
    """Whether the existing object is the one we tried to create, judged by the job's id or the owner's uid."""
    ids = [text(m, "metadata", "annotations", ID) for m in (existing, manifest)]
    return (ids[0] == ids[1] != "") or bool(owner_uids(existing) & owner_uids(manifest))


def controller_uid(pod: object) -> str:
    """The uid of the Job whose controller created the pod; "" if none did."""
    owners = mappings(pod, "metadata", "ownerReferences")
    return next((text(o, "uid") for o in owners if o.get("controller") is True and o.get("kind") == "Job"), "")


def select_pods_of(owner: dict[str, Any], service: dict[str, Any]) -> None:
    """Makes the Service select only pods that this Job created: other pods may have copies of its labels."""
    selector, role = mapping(service, "spec", "selector"), text(owner, "metadata", "labels", ROLE_LABEL)
    if selector.get(ROLE_LABEL) == role:
        service["spec"]["selector"] = {**selector, CONTROLLER_LABEL: owner["metadata"]["uid"]}


def created_at(manifest: object) -> float | None:
    """When the object was created, in seconds since the epoch; None if that cannot be read."""
    try:
        return calendar.timegm(time.strptime(text(manifest, "metadata", "creationTimestamp"), "%Y-%m-%dT%H:%M:%SZ"))
    except ValueError:
        return None


def shown_name(manifest: object) -> str:
    """The object's name for a message; escaped if it is not a valid name."""
    name = _name(manifest)
    return name if _POD_NAME.fullmatch(name) else shown(name)


def _name(manifest: object) -> str:
    return text(manifest, "metadata", "name")
