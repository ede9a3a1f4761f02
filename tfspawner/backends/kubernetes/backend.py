"""Kubernetes as a backend: Indexed Jobs and their objects, through the API server alone."""

from __future__ import annotations

import base64
import itertools
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tfspawner.backends.base import JobSummary, Observation
from tfspawner.backends.client import AgentClient
from tfspawner.backends.gpu_types import GPU_PRODUCT, as_label
from tfspawner.backends.tf_keras import wheel_for
from tfspawner.base.fields import text
from tfspawner.base.names import shown
from tfspawner.errors import AgentUnreachable, ClusterError, Command, ConfigurationError, Hint, NotFoundError
from tfspawner.plan.checks import is_name
from tfspawner.plan.plan import id_of
from tfspawner.plan.spec import JobSpec
from tfspawner.replica.protocol import AGENT_MARK, PORT, TOKEN

from .api import Api, Conflict
from .capacity import fits, gpus_offered, labels_of, quota_shortfalls, requests_of
from .leaving import Leaving, delete_object
from .manifests import JOB_LABEL, MANAGED_BY, Manifest, render, travels_in_configmap
from .news import News
from .objects import (
    Launched,
    LeftOut,
    ReplicaPod,
    RoleJob,
    ambiguous,
    claimants,
    is_created,
    is_secret_of,
    owner_uids,
    read_jobs,
    read_pod,
    select_pods_of,
)
from .rights import Rights

if TYPE_CHECKING:
    from tfspawner.plan.plan import Plan

KINDS = {  # kind -> (its API, its plural)
    "Job": ("apis/batch/v1", "jobs"),
    "Service": ("api/v1", "services"),
    "ConfigMap": ("api/v1", "configmaps"),
    "Secret": ("api/v1", "secrets"),
    "NetworkPolicy": ("apis/networking.k8s.io/v1", "networkpolicies"),
}
PARTS = ("Service", "ConfigMap", "Secret", "NetworkPolicy")  # each has the job's name
PREFLIGHT_RIGHTS = (("pods", "create"), ("resourcequotas", "list"), ("nodes", "list"))
MANY = 100  # above this number of replicas, not every pod is watched while it starts
MANY_START_S = 10.0
LISTED_S = 30.0  # how long a list of a job's pods is used: a new pod may replace the coordinator's
MOST_STRANGERS = 1000
FIRST_INDEX = "batch.kubernetes.io/job-completion-index=0"


class KubernetesBackend:
    """Replicas are pods of one Indexed Job per role; the first Job owns all the job's other objects."""

    name = "kubernetes"

    def __init__(self, *, namespace: str | None, context: str | None, kubeconfig: Path | None) -> None:
        self._target = (kubeconfig, context, namespace)
        self.known: dict[str, Launched] = {}  # name -> the job that this process means by it
        # The next four are keyed by the uid of a job's first Job: another job may take the name later.
        self.tokens: dict[str, str] = {}
        self.pods: dict[str, dict[str, str]] = {}  # -> replica -> pod
        self.listed_at: dict[str, float] = {}  # when the job's pods were listed
        self.starting: set[str] = set()  # jobs of many replicas that were launched here and are not watched yet
        self.strangers: dict[tuple[str, str], LeftOut] = {}  # what was left out, by its kind and name

    @cached_property
    def api(self) -> Api:
        """The API server; connected on first use, because a dry run needs no cluster."""
        return Api.from_kubeconfig(*self._target)

    @cached_property
    def rights(self) -> Rights:
        """What this user may do in the namespace."""
        return Rights(self.api)

    @property
    def namespace(self) -> str:
        return self.api.namespace

    def reserve(self, spec: JobSpec, job: str) -> str:
        """The Service's address; the Service selects only the coordinator's pod."""
        return f"{job}:{PORT}"

    def check(self, spec: JobSpec) -> list[str]:
        self.rights.check()
        return []

    @cached_property
    def capacity(self) -> tuple[list[Manifest], list[Manifest]] | None:
        """The cluster's nodes, and the pods that use them; None if this user may not list them."""
        if not self.rights.allow("", "nodes", "list"):
            return None
        try:
            nodes = self.api.list("/api/v1/nodes")
            return nodes, self.api.list("/api/v1/pods", "fieldSelector=status.phase!=Succeeded,status.phase!=Failed")
        except ClusterError:  # for example if the right is bound for the namespace alone
            return None

    def gpus(self, spec: JobSpec, jobs: int = 1) -> tuple[Mapping[str, tuple[str, ...]], list[str]]:
        """The labels of nodes with GPUs of --gpu-type; if nodes may not be listed, the label that is likely."""
        if not spec.gpu_type:
            return {}, []
        if self.capacity is None:
            label = as_label(spec.gpu_type)
            why = "is not looked up, since you may not list nodes and pods: the nodes' label has to be"
            return label, [f"--gpu-type {spec.gpu_type} {why} {GPU_PRODUCT}={label[GPU_PRODUCT][0]}"]
        labels = labels_of(spec.gpu_type, self.capacity[0])
        if not labels:
            raise ConfigurationError(
                f"--gpu-type {spec.gpu_type}: no node offers such GPUs; "
                f"there are {gpus_offered(*self.capacity) or 'none'}",
                hint="for nodes that come when they are asked for, name the pool: --node-selector KEY=VALUE",
            )
        return labels, []

    def preflight(self, plan: Plan) -> list[str]:
        """Checks what this user's rights allow: a dry run of each role's pod, the quotas, and the nodes' capacity."""
        warnings, pods = [], []
        if not any(self.rights.allow("", *right) for right in PREFLIGHT_RIGHTS):
            return []
        for manifest in render(plan)[: len(plan.spec.roles)]:
            template = manifest["spec"]["template"]
            admitted = (
                self._dry_run(template, manifest["metadata"]["name"])
                if self.rights.allow("", "pods", "create")
                else None
            )
            pods.append(((admitted or template)["spec"], manifest["spec"]["completions"]))
        if self.rights.allow("", "resourcequotas", "list"):
            quotas = self.api.list(f"/api/v1/namespaces/{self.namespace}/resourcequotas")
            warnings += quota_shortfalls(quotas, [(requests_of(spec), count) for spec, count in pods])
        if self.capacity and not plan.spec.queue:
            shortfalls = [fits(*self.capacity, spec, count) for spec, count in pods]
            warnings += [text for text in shortfalls if text]
        return warnings

    def _dry_run(self, template: Manifest, name: str) -> Manifest | None:
        """The pod as the API server would accept it, with the LimitRange's defaults. Raises ClusterError."""
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            **template,
            "metadata": {**template["metadata"], "generateName": f"{name}-"},
        }
        try:
            admitted: Manifest = self.api.request("POST", f"/api/v1/namespaces/{self.namespace}/pods?dryRun=All", pod)
        except NotFoundError:
            return None  # for example a service account that will be created later
        return admitted

    def provide_tf_keras(self, spec: JobSpec) -> tuple[tuple[Path, ...], list[str]]:
        try:
            wheel = wheel_for(spec.image)
        except OSError as error:
            return (), [f"tf-keras could not be downloaded ({error}); the image must have it"]
        return ((wheel,) if wheel else ()), []

    def launch(self, plan: Plan) -> None:
        manifests = render(plan)
        created: list[Manifest] = []
        try:
            owner = self._create_owner(plan, manifests[0])
            reference = {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "name": owner["metadata"]["name"],
                "uid": owner["metadata"]["uid"],
            }
            created.append(owner)
            self._know(plan, created)
            for manifest in manifests[1:]:
                manifest["metadata"]["ownerReferences"] = [reference]
                if manifest["kind"] == "Service":
                    select_pods_of(owner, manifest)
                created.append(self._create(plan, manifest))
            launched = self._know(plan, created[: len(plan.spec.roles)])
            if not plan.spec.queue:  # Kueue starts what it admits
                for role in launched.roles:
                    self.api.patch(self._path("Job", role.name), {"spec": {"suspend": False}}, "Job")
            self.tokens[launched.first.uid] = plan.token
            if len(plan.spec.replicas) > MANY:
                self.starting.add(launched.first.uid)
        except BaseException:
            for made in created[:1]:  # by uid, in case its labels were changed; the other objects go with it
                delete_object(self.api, self._path("Job", made["metadata"]["name"]), made["metadata"]["uid"])
            self.delete(plan.job, 30, plan.id)
            raise

    def _know(self, plan: Plan, created: list[Manifest]) -> Launched:
        """The job that these stored Jobs make up; from now on it is the known one of this name."""
        jobs, left_out = read_jobs(created)
        if left_out or len(jobs) != 1:
            why = "; ".join(map(str, left_out)) or "they are of several jobs"
            raise ClusterError(
                f"the API server stores the Jobs of job {plan.job} otherwise than they were sent: {why}",
                hint="see what the cluster's mutating webhooks change: kubectl get mutatingwebhookconfigurations",
            )
        self.known[plan.job] = jobs[0]
        return jobs[0]

    def must_upload(self, plan: Plan) -> bool:
        """Whether the code is too large for the ConfigMap."""
        return not travels_in_configmap(plan)

    def find(self, job: str) -> JobSummary:
        return self._find(job).summary(self.namespace)

    def jobs(self) -> list[JobSummary]:
        self.strangers.clear()
        listed = []
        for launched in self._meant(self._launched(f"{MANAGED_BY}=tf-spawner")):
            self.known[launched.job] = launched
            listed.append(launched.summary(self.namespace))
        return listed

    def _meant(self, candidates: list[Launched]) -> list[Launched]:
        """For each name the job that is meant, if that is clear; the other candidates are left out."""
        meant = []
        for name in dict.fromkeys(launched.job for launched in candidates):
            same = self._same(self._rightful(claimants(candidates, name)))
            if len(same) == 1:
                meant += same
            else:
                why = f"several Jobs say that they are job {name}'s first"
                for rival in same:
                    self._leave_out(LeftOut(kind="Job", name=rival.first.name, why=why))
        return meant

    def left_out(self, *, thorough: bool = False) -> list[str]:
        """What looked like an object of a job but is not; thorough: look at all objects with a job's label or name."""
        if thorough:
            self._look_for_strangers(self._meant(self._launched(f"{MANAGED_BY}=tf-spawner")))
        return [str(stranger) for stranger in self.strangers.values()]

    def watch(self, job: str, stop: threading.Event) -> Iterator[Observation | None]:
        """Runs three watches for any number of replicas: pods, Jobs, and the namespace's warnings.

        While a large job starts, only each role's first pod is watched: to report on a thousand pods would cost the
        API server as much as starting them.
        """
        launched = self._known(job)
        first = launched.first.uid
        news: queue.Queue[tuple[str, Manifest] | Exception] = queue.Queue()
        ours = f"labelSelector={JOB_LABEL}={job}"
        namespace = f"/api/v1/namespaces/{self.namespace}"

        def follow(kind: str, path: str, which: str) -> None:
            try:
                if kind == "pod" and first in self.starting:
                    self.starting.discard(first)
                    for event in self.api.watch(path, f"{which},{FIRST_INDEX}", stop, MANY_START_S):
                        if event["type"] != "SYNCED":
                            news.put((kind, event))
                for event in self.api.watch(path, which, stop):
                    news.put((kind, event))
            except Exception as error:  # raised again in the thread that reads the news
                news.put(error)

        for kind, path, labels in (
            ("pod", f"{namespace}/pods", ours),
            ("job", self._path("Job"), ours),
            ("event", f"{namespace}/events", "fieldSelector=type=Warning"),
        ):
            threading.Thread(target=follow, args=(kind, path, labels), daemon=True).start()
        self.listed_at.pop(first, None)  # from now on the watch reports each new pod
        reader = News(launched, self.pods.setdefault(first, {}))
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
        first = self._known(job).first
        if first.uid not in self.tokens:
            self.tokens[first.uid] = self._token(first)
        url = f"{self.api.host}/api/v1/namespaces/{self.namespace}/pods/{pod}:{PORT}/proxy"
        return AgentClient(
            replica=replica, url=url, token=self.tokens[first.uid], pool=self.api.pool, headers=self.api.headers
        )

    def last_output(self, job: str, replica: str) -> bytes | None:
        """The container's log, as far as the kubelet still has it."""
        pod = self._pod_of(job, replica)
        if pod is None:
            return None
        try:
            log = self.api.read(f"/api/v1/namespaces/{self.namespace}/pods/{pod}/log?container=tensorflow")
        except ClusterError:
            return None
        return b"".join(line for line in log.splitlines(keepends=True) if not line.startswith(AGENT_MARK))

    def delete(
        self, job: str, timeout_s: float, id: str | None = None, note: Callable[[str], None] | None = None
    ) -> None:
        """Deletes the job's Jobs and all that they own; returns when everything is gone."""
        claims, known = self._claiming(job, id), self.known.get(job)
        if known and id in (None, known.first.id):  # any other job of this name is not meant
            same = [launched for launched in claims if self._is_known(launched)]
            claims = same or [known]  # not among them if its labels were changed
        if len(claims) > 1:
            raise ambiguous(self.namespace, job, claims)
        for launched in claims:
            leaving = Leaving(self.api, launched, note)
            for role in sorted(launched.roles, key=lambda role: role.owner != ""):
                leaving.delete(self._path("Job", role.name), role.uid)
            for kind in PARTS:
                leaving.delete_part(self._path(kind, job), kind)
            leaving.wait(timeout_s)

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
            existing: Manifest = self.api.request("GET", self._path(kind, manifest["metadata"]["name"]), kind=kind)
            if is_created(existing, manifest):
                return existing  # it was created, but the reply got lost
            taken = "another job" if kind == "Job" else f"a {kind}"
            remove = (", or remove that job: ", Command("delete", plan.job)) if kind == "Job" else ()
            raise ConfigurationError(
                f"the name {plan.job!r} is in use by {taken} in namespace {self.namespace}",
                hint=Hint("choose another --name", *remove),
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

    def _launched(self, selector: str) -> list[Launched]:
        launched, left_out = read_jobs(self.api.list(self._path("Job"), f"labelSelector={selector}"))
        for stranger in left_out:
            self._leave_out(stranger)
        return launched

    def _leave_out(self, stranger: LeftOut) -> None:
        if len(self.strangers) < MOST_STRANGERS:
            self.strangers[stranger.kind, stranger.name] = stranger

    def _claiming(self, job: str, id: str | None = None) -> list[Launched]:
        """The jobs with that name, and that id if given; only the known one if it is among them.

        Raises NotFoundError if this cannot be a job's name.
        """
        if not is_name(job):  # the name goes into paths and selectors
            raise NotFoundError(f"{shown(job)} is not a job's name", hint=Hint(Command("list")))
        named = claimants(self._launched(f"{JOB_LABEL}={job}"), job)
        matching = [launched for launched in named if id in (None, launched.first.id)]
        same = self._same(matching)
        return same if any(map(self._is_known, same)) else self._rightful(matching)

    def _rightful(self, rivals: list[Launched]) -> list[Launched]:
        """The one of several jobs of one name that owns the Secret of that name; all of them if none does.

        Anybody can copy labels, annotations and ids, but there is only one Secret of that name: the launcher's.
        """
        if len(rivals) < 2:
            return rivals
        try:
            secret = self.api.request("GET", self._path("Secret", rivals[0].job), kind="Secret")
        except NotFoundError:
            return rivals
        owners = [rival for rival in rivals if is_secret_of(rival.first, secret)]
        if len(owners) != 1:
            return rivals
        for rival in rivals:
            if rival is not owners[0]:
                why = f"the Secret {rival.job} is not its own, but Job {owners[0].first.name}'s"
                self._leave_out(LeftOut(kind="Job", name=rival.first.name, why=why))
        return owners

    def _same(self, rivals: list[Launched]) -> list[Launched]:
        """The known one of several jobs of one name; all of them if it is not among them."""
        return [launched for launched in rivals if self._is_known(launched)] or rivals

    def _is_known(self, launched: Launched) -> bool:
        known = self.known.get(launched.job)
        return known is not None and known.first.uid == launched.first.uid

    def _known(self, job: str) -> Launched:
        """The job that this process launched, or first found, under this name. Raises NotFoundError."""
        return self.known.get(job) or self._find(job)

    def _find(self, job: str) -> Launched:
        """The job as it is now, but not another that has taken its name. Raises NotFoundError, ClusterError."""
        claims = self._claiming(job)
        is_other = job in self.known and not any(map(self._is_known, claims))
        if not claims or is_other:
            error = NotFoundError(f"there is no job {job!r} in namespace {self.namespace}", hint=Hint(Command("list")))
            if is_other and claims:
                error = NotFoundError(f"job {job} is gone; another has its name now", hint=Hint(Command("attach", job)))
            elif self.strangers:
                error.hint = Hint("what looks like one and is none: ", Command("list", "-v"))
            error.namespace = self.namespace
            raise error
        if len(claims) > 1:
            raise ambiguous(self.namespace, job, claims)
        self.known[job] = claims[0]
        return claims[0]

    def _look_for_strangers(self, jobs: list[Launched]) -> None:
        """Looks for strangers: one request for all pods, and one for each object with a job's name."""
        uids = {uid: role for launched in jobs for uid, role in launched.uids.items()}
        for pod in self.api.list(f"/api/v1/namespaces/{self.namespace}/pods", f"labelSelector={JOB_LABEL}"):
            read = read_pod(pod, uids)
            if isinstance(read, LeftOut):
                self._leave_out(read)
        for launched, kind in itertools.product(jobs, PARTS):
            try:
                existing = self.api.request("GET", self._path(kind, launched.job), kind=kind)
            except NotFoundError:
                continue
            if launched.first.uid not in owner_uids(existing):
                self._leave_out(LeftOut(kind=kind, name=launched.job, why=f"job {launched.job} does not own it"))

    def _token(self, first: RoleJob) -> str:
        """The token in the job's Secret. Raises ClusterError if the Secret of its name is not the job's.

        A Secret created by hand, from what `render` prints, has no owner, and a token of its creator's choice.
        """
        try:
            secret = self.api.request("GET", self._path("Secret", first.job), kind="Secret")
        except NotFoundError:
            raise AgentUnreachable(f"job {first.job} has no token: it was not launched whole") from None
        if not is_secret_of(first, secret):
            raise ClusterError(
                f"the Secret {first.job} in namespace {self.namespace} is not job {first.job}'s: "
                "no token is taken from it",
                hint=f"see whose it is: kubectl get secret -n {self.namespace} {first.job} -o yaml",
            )
        try:
            token = base64.b64decode(text(secret, "data", TOKEN), validate=True).decode("ascii")
        except ValueError:
            token = ""
        if not token or (id_of(token) != first.id and owner_uids(secret)):
            raise ClusterError(
                f"the Secret {first.job} in namespace {self.namespace} does not hold the token of job {first.job}",
                hint=Hint("the job cannot be reached any more: ", Command("delete", first.job)),
            )
        return token

    def _pod_of(self, job: str, replica: str) -> str | None:
        launched = self._known(job)
        first = launched.first.uid
        is_old = time.monotonic() - self.listed_at.get(first, math.inf) > LISTED_S
        if replica not in self.pods.get(first, {}) or is_old:
            self.listed_at[first] = time.monotonic()
            listed = self.api.list(f"/api/v1/namespaces/{self.namespace}/pods", f"labelSelector={JOB_LABEL}={job}")
            read = [read_pod(pod, launched.uids) for pod in listed]
            for stranger in (r for r in read if isinstance(r, LeftOut)):
                self._leave_out(stranger)
            for pod in sorted((r for r in read if isinstance(r, ReplicaPod)), key=lambda pod: pod.newness):
                self.pods.setdefault(first, {})[pod.replica] = pod.name
        return self.pods.get(first, {}).get(replica)
