"""Kubernetes as a backend: Indexed Jobs and their objects, through the API server and nothing else."""

from __future__ import annotations

import base64
import calendar
import math
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from .. import agent
from ..agent import AGENT_MARK
from ..client import AgentClient
from ..diagnose import LOST_POD, explain_failed_create, job_condition, observe, observe_event
from ..errors import AgentUnreachable, ClusterError, ConfigurationError, NotFoundError
from ..keras import wheel_for
from ..preflight import GPU_PRODUCT, as_label, fits, gpus_offered, labels_of, quota_shortfalls, requests_of
from ..render import ID, JOB_LABEL, MANAGED_BY, Manifest, render, role_manifest, travels_in_configmap
from ..spec import JobSpec
from . import JobSummary, Observation
from .kubernetes_api import Api, Conflict

if TYPE_CHECKING:
    from ..plan import Plan

KINDS = {  # kind -> (its API, its plural)
    "Job": ("apis/batch/v1", "jobs"),
    "Service": ("api/v1", "services"),
    "ConfigMap": ("api/v1", "configmaps"),
    "Secret": ("api/v1", "secrets"),
    "NetworkPolicy": ("apis/networking.k8s.io/v1", "networkpolicies"),
}
PARTS = ("Service", "ConfigMap", "Secret", "NetworkPolicy")  # each has the job's name
PREFLIGHT_RIGHTS = (("pods", "create"), ("resourcequotas", "list"), ("nodes", "list"))
MANY = 100  # replicas: from here on, not every pod's first steps are watched
MANY_START_S = 10.0
LISTED_S = 30.0  # so long a look at a job's pods holds: another may take the coordinator's place
FIRST_INDEX = "batch.kubernetes.io/job-completion-index=0"


class KubernetesBackend:
    """Replicas are pods of one Indexed Job per role; the first Job owns all the job's other objects."""

    name = "kubernetes"

    def __init__(self, *, namespace: str | None, context: str | None, kubeconfig: Path | None) -> None:
        self._target = (kubeconfig, context, namespace)
        self.tokens: dict[str, str] = {}
        self.rules: list[dict[str, list[str]]] = []  # what this user may do here
        self.pods: dict[str, dict[str, str]] = {}  # job -> replica -> pod
        self.listed_at: dict[str, float] = {}  # when a job's pods were looked up
        self.starting: set[str] = set()  # jobs of many replicas that were launched here and are not yet watched

    @cached_property
    def api(self) -> Api:
        """Made when it is first asked for: what a job would be can be said without a cluster."""
        return Api.from_kubeconfig(*self._target)

    @property
    def namespace(self) -> str:
        return self.api.namespace

    def coordinator_address(self, spec: JobSpec, job: str) -> str:
        """The Service's name, behind which there is the coordinator's pod alone."""
        return f"{job}:{agent.PORT}"

    def check(self, spec: JobSpec) -> list[str]:
        self.check_rights()
        return []

    def check_rights(self) -> None:
        """One request: what may this user do here? It also shows that the API server answers. Raises ClusterError."""
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview",
                  "spec": {"namespace": self.namespace}}  # fmt: skip
        status = self.api.request("POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", review)["status"]
        self.rules = status.get("resourceRules", [])
        if status.get("incomplete"):
            return  # the authorizer cannot list its rules: the requests themselves will tell
        missing = [
            f"{verb} {resource}"
            for group, resource, verb in _needed_rules(role_manifest(None))
            if not self._may(group, resource, verb)
        ]
        if missing:
            raise ClusterError(
                f"you may not {', '.join(missing)} in namespace {self.namespace}",
                hint=f"have the Role applied and bound that allows it: tf-spawner rbac -n {self.namespace}",
            )

    def _may(self, group: str, resource: str, verb: str) -> bool:
        return any(_allows(rule, group, resource, verb) for rule in self.rules)

    @cached_property
    def room(self) -> tuple[list[Manifest], list[Manifest]] | None:
        """The cluster's nodes, and the pods that take room on them; None where this user may not see them."""
        if not self._may("", "nodes", "list"):
            return None
        try:
            nodes = self.api.list("/api/v1/nodes")
            return nodes, self.api.list("/api/v1/pods", "fieldSelector=status.phase!=Succeeded,status.phase!=Failed")
        except ClusterError:  # such as for a right that was bound for the namespace alone
            return None

    def gpus(self, spec: JobSpec, jobs: int = 1) -> tuple[Mapping[str, tuple[str, ...]], list[str]]:
        """The labels of the nodes that offer GPUs of --gpu-type; where they may not be seen, what was given counts."""
        if not spec.gpu_type:
            return {}, []
        if self.room is None:
            label = as_label(spec.gpu_type)
            told = "is not looked up, since you may not list nodes and pods: the nodes' label has to be"
            return label, [f"--gpu-type {spec.gpu_type} {told} {GPU_PRODUCT}={label[GPU_PRODUCT][0]}"]
        found = labels_of(spec.gpu_type, self.room[0])
        if not found:
            raise ConfigurationError(
                f"--gpu-type {spec.gpu_type}: no node offers such GPUs; there are {gpus_offered(*self.room) or 'none'}",
                hint="for nodes that come when they are asked for, name the pool: --node-selector KEY=VALUE",
            )
        return found, []

    def preflight(self, plan: Plan) -> list[str]:
        """What this user's rights allow to ask: a dry run of each role's pod, the quotas, and room on the nodes."""
        warnings, pods = [], []
        if not any(self._may("", *right) for right in PREFLIGHT_RIGHTS):
            return []
        for manifest in render(plan)[: len(plan.spec.roles)]:
            template = manifest["spec"]["template"]
            admitted = (
                self._dry_run(template, manifest["metadata"]["name"]) if self._may("", "pods", "create") else None
            )
            pods.append(((admitted or template)["spec"], manifest["spec"]["completions"]))
        if self._may("", "resourcequotas", "list"):
            quotas = self.api.list(f"/api/v1/namespaces/{self.namespace}/resourcequotas")
            warnings += quota_shortfalls(quotas, [(requests_of(spec), count) for spec, count in pods])
        if self.room and not plan.spec.queue:
            told = [fits(*self.room, spec, count) for spec, count in pods]
            warnings += [text for text in told if text]
        return warnings

    def _dry_run(self, template: Manifest, name: str) -> Manifest | None:
        """The pod as the API server would take it, with the LimitRange's defaults. Raises ClusterError."""
        pod = {"apiVersion": "v1", "kind": "Pod", **template,
               "metadata": {**template["metadata"], "generateName": f"{name}-"}}  # fmt: skip
        try:
            admitted: Manifest = self.api.request("POST", f"/api/v1/namespaces/{self.namespace}/pods?dryRun=All", pod)
        except NotFoundError:
            return None  # such as a service account that is made later
        return admitted

    def provide_tf_keras(self, spec: JobSpec) -> tuple[tuple[Path, ...], list[str]]:
        try:
            wheel = wheel_for(spec.image)
        except OSError as error:
            return (), [f"tf-keras could not be downloaded ({error}); the image must have it"]
        return ((wheel,) if wheel else ()), []

    def launch(self, plan: Plan) -> None:
        manifests = render(plan)
        try:
            owner = self._create_owner(plan, manifests[0])
            reference = {"apiVersion": "batch/v1", "kind": "Job", "name": owner["metadata"]["name"],
                         "uid": owner["metadata"]["uid"]}  # fmt: skip
            for manifest in manifests[1:]:
                manifest["metadata"]["ownerReferences"] = [reference]
                self._create(plan, manifest)
            if not plan.spec.queue:  # Kueue starts what it admits
                for manifest in manifests[: len(plan.spec.roles)]:
                    self.api.patch(self._path("Job", manifest["metadata"]["name"]), {"spec": {"suspend": False}})
            self.tokens[plan.job] = plan.token
            if len(plan.spec.replicas) > MANY:
                self.starting.add(plan.job)
        except BaseException:
            self.delete(plan.job, 30, plan.id)
            raise

    def must_upload(self, plan: Plan) -> bool:
        """Whether the code is too large for the ConfigMap."""
        return not travels_in_configmap(plan)

    def find(self, job: str) -> JobSummary:
        found = self._summaries(f"{JOB_LABEL}={job}")
        if not found:
            error = NotFoundError(f"there is no job {job!r} in namespace {self.namespace}", hint="tf-spawner list")
            error.namespace = self.namespace
            raise error
        return found[0]

    def jobs(self) -> list[JobSummary]:
        return self._summaries(f"{MANAGED_BY}=tf-spawner")

    def watch(self, job: str, stop: threading.Event) -> Iterator[Observation | None]:
        """Three watches, whatever the number of replicas: pods, the Jobs, and the namespace's warnings.

        Of many that were just launched, each role's first pod stands for all at first: the news of a thousand
        pods coming up would take the API server as much work as starting them.
        """
        news: queue.Queue[tuple[str, Manifest] | Exception] = queue.Queue()
        ours = f"labelSelector={JOB_LABEL}={job}"
        namespace = f"/api/v1/namespaces/{self.namespace}"

        def follow(kind: str, path: str, which: str) -> None:
            try:
                if kind == "pod" and job in self.starting:
                    self.starting.discard(job)
                    for event in self.api.watch(path, f"{which},{FIRST_INDEX}", stop, MANY_START_S):
                        if event["type"] != "SYNCED":
                            news.put((kind, event))
                for event in self.api.watch(path, which, stop):
                    news.put((kind, event))
            except Exception as error:  # raised by who reads the news
                news.put(error)

        for kind, path, labels in (
            ("pod", f"{namespace}/pods", ours),
            ("job", self._path("Job"), ours),
            ("event", f"{namespace}/events", "fieldSelector=type=Warning"),
        ):
            threading.Thread(target=follow, args=(kind, path, labels), daemon=True).start()
        self.listed_at.pop(job, None)  # the watch tells of each new pod
        reader = _News(job, self.pods.setdefault(job, {}))
        synced: set[str] = set()
        while not stop.is_set():
            try:
                item = news.get(timeout=0.2)
            except queue.Empty:
                if len(synced) == 3:
                    yield None
                continue
            if isinstance(item, Exception):
                raise item
            kind, event = item
            if event["type"] == "SYNCED":
                synced.add(kind)
            else:
                yield from reader.read(kind, event)

    def agent(self, job: str, replica: str) -> AgentClient:
        pod = self._pod_of(job, replica)
        if pod is None:
            raise AgentUnreachable(f"{replica} has no pod")
        if job not in self.tokens:
            self.tokens[job] = self._token(job)
        url = f"{self.api.host}/api/v1/namespaces/{self.namespace}/pods/{pod}:{agent.PORT}/proxy"
        return AgentClient(
            replica=replica, url=url, token=self.tokens[job], pool=self.api.pool, headers=self.api.headers
        )

    def last_output(self, job: str, replica: str) -> bytes | None:
        """The container's log: what the kubelet still has of it."""
        pod = self._pod_of(job, replica)
        if pod is None:
            return None
        try:
            log = self.api.read(f"/api/v1/namespaces/{self.namespace}/pods/{pod}/log?container=tensorflow")
        except ClusterError:
            return None
        return b"".join(line for line in log.splitlines(keepends=True) if not line.startswith(AGENT_MARK))

    def delete(self, job: str, timeout_s: float, id: str | None = None) -> None:
        """Deletes the Jobs, of that id if one is given, and what they own; returns when the last pod is gone."""
        selector = f"{JOB_LABEL}={job}"
        jobs = [j for j in self._jobs(selector) if id in (None, j["metadata"].get("annotations", {}).get(ID))]
        owners = {manifest["metadata"]["uid"] for manifest in jobs}
        for manifest in sorted(jobs, key=lambda j: "ownerReferences" in j["metadata"]):
            self._delete(self._path("Job", manifest["metadata"]["name"]), manifest["metadata"]["uid"])
        for kind in PARTS if jobs else ():
            self._delete_part(self._path(kind, job), owners)
        if jobs and not self._pods_go(selector, owners, timeout_s):
            raise ClusterError(
                f"pods of job {job} are still there after {timeout_s:g} s",
                hint=f"see: kubectl get pods -n {self.namespace} -l {selector}",
            )

    # -- objects

    def _path(self, kind: str, name: str = "") -> str:
        api, plural = KINDS[kind]
        return f"/{api}/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else "")

    def _create(self, plan: Plan, manifest: Manifest) -> Manifest:
        try:
            created: Manifest = self.api.request("POST", self._path(manifest["kind"]), manifest)
            return created
        except Conflict:
            kind = manifest["kind"]
            there: Manifest = self.api.request("GET", self._path(kind, manifest["metadata"]["name"]))
            if _is_same(there, manifest):
                return there  # the reply to its creation was lost
            taken = "another job" if kind == "Job" else f"a {kind}"
            raise ConfigurationError(
                f"the name {plan.job!r} is in use by {taken} in namespace {self.namespace}",
                hint="choose another --name"
                + (f", or remove that job: tf-spawner delete {plan.job}" if kind == "Job" else ""),
            ) from None

    def _create_owner(self, plan: Plan, manifest: Manifest) -> Manifest:
        created = self._create(plan, manifest)
        for warning in self.api.warnings:
            if "would violate PodSecurity" in warning:
                raise ClusterError(
                    f"the Pod Security of namespace {self.namespace} refuses the pods: {warning}",
                    hint="check what --pod-file, --volume and --template-dir ask for",
                )
        return created

    def _delete(self, path: str, uid: str) -> None:
        try:
            self.api.request("DELETE", path, {"propagationPolicy": "Background", "preconditions": {"uid": uid}})
        except (NotFoundError, Conflict):
            pass  # it is gone, or another's by now

    def _delete_part(self, path: str, owners: set[str]) -> None:
        """Deletes an object if it belongs to one of the owners: only its name is known."""
        try:
            metadata = self.api.request("GET", path)["metadata"]
        except NotFoundError:
            return
        if owners & {owner["uid"] for owner in metadata.get("ownerReferences", [])}:
            self._delete(path, metadata["uid"])

    def _pods_go(self, selector: str, owners: set[str], timeout_s: float) -> bool:
        """Waits by one watch until no pod of these owners is left; False if some are after timeout_s."""
        left: set[str] = set()
        pods = f"/api/v1/namespaces/{self.namespace}/pods"
        for event in self.api.watch(pods, f"labelSelector={selector}", threading.Event(), timeout_s):
            metadata = event["object"].get("metadata", {})
            if event["type"] == "DELETED":
                left.discard(metadata["uid"])
            elif owners & {owner["uid"] for owner in metadata.get("ownerReferences", [])}:
                left.add(metadata["uid"])
            if not left and event["type"] in ("SYNCED", "DELETED"):
                return True
        return False

    def _jobs(self, selector: str) -> list[Manifest]:
        return self.api.list(self._path("Job"), f"labelSelector={selector}")

    def _summaries(self, selector: str) -> list[JobSummary]:
        grouped: dict[str, list[Manifest]] = {}
        for manifest in self._jobs(selector):
            grouped.setdefault(manifest["metadata"]["labels"][JOB_LABEL], []).append(manifest)
        found = [self._summary(job, manifests) for job, manifests in grouped.items()]
        return sorted(found, key=lambda summary: summary.created)

    def _summary(self, job: str, manifests: list[Manifest]) -> JobSummary:
        manifests.sort(
            key=lambda m: ["chief", "worker", "ps", "evaluator"].index(m["metadata"]["labels"]["tf-spawner/role"])
        )
        roles = {m["metadata"]["labels"]["tf-spawner/role"]: m["spec"]["completions"] for m in manifests}
        labels = manifests[0]["metadata"]["labels"]
        conditions = [job_condition(m) for m in manifests]
        if any(c and c[0] == "Failed" for c in conditions):
            state = "failed"
        elif all(m["status"].get("succeeded") == m["spec"]["completions"] for m in manifests):
            state = "succeeded"
        elif manifests[0]["spec"].get("suspend"):
            state = "queued" if "kueue.x-k8s.io/queue-name" in labels else "incomplete"
        elif any(m["status"].get("ready") for m in manifests):
            state = "running"
        else:
            state = "pending"
        return JobSummary(
            job=job, on="kubernetes", namespace=self.namespace, tag=labels.get("tf-spawner/tag", ""), roles=roles,
            created=_seconds(manifests[0]["metadata"]["creationTimestamp"]), state=state,
            id=manifests[0]["metadata"].get("annotations", {}).get(ID, ""),
        )  # fmt: skip

    def _token(self, job: str) -> str:
        try:
            secret = self.api.request("GET", self._path("Secret", job))
        except NotFoundError:
            raise AgentUnreachable(f"job {job} has no token: it was not launched whole") from None
        return base64.b64decode(secret["data"][agent.TOKEN]).decode()

    def _pod_of(self, job: str, replica: str) -> str | None:
        is_old = time.monotonic() - self.listed_at.get(job, math.inf) > LISTED_S
        if replica not in self.pods.get(job, {}) or is_old:
            self.listed_at[job] = time.monotonic()
            found = self.api.list(f"/api/v1/namespaces/{self.namespace}/pods", f"labelSelector={JOB_LABEL}={job}")
            for pod in sorted(found, key=_newness):
                self.pods.setdefault(job, {})[_replica(pod)] = pod["metadata"]["name"]
        return self.pods.get(job, {}).get(replica)


class _News:
    """Turns what the watches bring into observations; an event counts only for an object of this job."""

    def __init__(self, job: str, pods: dict[str, str]) -> None:
        self.job, self.pods = job, pods
        self.replicas: dict[str, str | None] = {}  # the job's objects: uid -> replica, None for a Job
        self.newest: dict[str, tuple[str, bool]] = {}  # replica -> how new its pod is
        self.pull_notes: dict[str, str] = {}  # a pod's uid -> what is wrong with its image pull secrets
        self.unclaimed: dict[str, list[Manifest]] = {}  # events that came before their object
        self.replacing: set[str] = set()  # roles whose Jobs give a lost replica another pod
        self.lost: dict[str, Observation] = {}  # how replicas were lost whose places others take

    def read(self, kind: str, event: Manifest) -> Iterator[Observation]:
        thing = event["object"]
        if kind == "event":
            yield from self.event(thing)
            return
        uid = thing["metadata"]["uid"]
        if kind == "pod":
            yield from self.pod(event["type"], thing)
        else:
            yield from self.job_object(event["type"], thing)
        for waiting in self.unclaimed.pop(uid, []):
            yield from self.event(waiting)

    def pod(self, change: str, pod: Manifest) -> Iterator[Observation]:
        replica, name = _replica(pod), pod["metadata"]["name"]
        if change == "DELETED":
            if self.pods.get(replica) == name:
                yield self.unless_replaced(Observation(replica=replica, state="gone", message=LOST_POD))
            return
        self.replicas[pod["metadata"]["uid"]] = replica
        if self.pods.get(replica, name) != name and _newness(pod) < self.newest.get(replica, ("", False)):
            return  # another has taken its place
        self.pods[replica], self.newest[replica] = name, _newness(pod)
        seen = observe(replica, pod)
        note = self.pull_notes.get(pod["metadata"]["uid"])
        yield self.unless_replaced(replace(seen, message=f"{seen.message}; {note}") if note and seen.fatal else seen)

    def unless_replaced(self, seen: Observation) -> Observation:
        """A lost replica waits for its next pod, where there will be one."""
        if str(seen.replica).rpartition("-")[0] not in self.replacing or seen.state not in ("failed", "gone"):
            self.lost.pop(seen.replica or "", None)
            return seen
        self.lost[seen.replica or ""] = seen
        return replace(seen, state="pending", message=f"{seen.message}; another pod takes its place")

    def job_object(self, change: str, manifest: Manifest) -> Iterator[Observation]:
        if change == "DELETED":
            yield Observation(replica=None, state="gone", message=f"job {self.job} was deleted")
            return
        self.replicas[manifest["metadata"]["uid"]] = None
        condition, role = job_condition(manifest), manifest["metadata"]["labels"]["tf-spawner/role"]
        if condition or not manifest["spec"].get("backoffLimitPerIndex"):
            self.replacing.discard(role)
        else:
            self.replacing.add(role)
        if condition and condition[0] == "Failed":
            yield from self.lost.values()
            yield Observation(replica=None, state="failed", message=f"the {role}s' Job {condition[1]}")

    def event(self, event: Manifest) -> Iterator[Observation]:
        told = observe_event(event)
        if not told:
            return
        uid = event.get("involvedObject", {}).get("uid", "")
        if uid not in self.replicas:
            self.unclaimed.setdefault(uid, []).append(event)
            return
        reason, message, patience_s = told
        if reason == "FailedToRetrieveImagePullSecret":
            self.pull_notes[uid] = message
            return
        if reason == "FailedCreate":
            text, hint = explain_failed_create(message)
            yield Observation(replica=None, state="pending", message=text, hint=hint, fatal=True, patience_s=patience_s)
            return
        yield Observation(replica=self.replicas[uid], state="starting", message=message[:300], fatal=True,
                          patience_s=patience_s)  # fmt: skip


def _is_same(there: Manifest, manifest: Manifest) -> bool:
    """Whether an object is the one that was to be created: by the job's id, or by its owner's uid."""
    ids = [m["metadata"].get("annotations", {}).get(ID) for m in (there, manifest)]
    owners = [{o["uid"] for o in m["metadata"].get("ownerReferences", [])} for m in (there, manifest)]
    return (ids[0] == ids[1] is not None) or bool(owners[0] & owners[1])


def _replica(pod: Manifest) -> str:
    labels = pod["metadata"]["labels"]
    return f"{labels['tf-spawner/role']}-{labels['batch.kubernetes.io/job-completion-index']}"


def _newness(pod: Manifest) -> tuple[str, bool]:
    """Orders the pods of one replica: the next is made when the former has ended."""
    return pod["metadata"]["creationTimestamp"], pod.get("status", {}).get("phase") not in ("Failed", "Succeeded")


def _needed_rules(role: str) -> Iterator[tuple[str, str, str]]:
    import yaml

    for rule in yaml.safe_load(role)["rules"]:
        for resource in rule["resources"]:
            for verb in rule["verbs"]:
                yield rule["apiGroups"][0], resource, verb


def _allows(rule: dict[str, list[str]], group: str, resource: str, verb: str) -> bool:
    def matches(key: str, value: str) -> bool:
        return bool({"*", value} & set(rule.get(key, [])))

    return (
        matches("apiGroups", group)
        and matches("resources", resource)
        and matches("verbs", verb)
        and not rule.get("resourceNames")
    )


def _seconds(timestamp: str) -> float:
    return calendar.timegm(time.strptime(timestamp, "%Y-%m-%dT%H:%M:%SZ"))
