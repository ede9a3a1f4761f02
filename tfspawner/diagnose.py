"""What a pod's status, or an event, means for its replica. Pure: values in, values out."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from .backends import Observation

UNSCHEDULABLE_PATIENCE_S = 30.0
START_PATIENCE_S = 20.0
MOUNT_PATIENCE_S = 60.0
LOST_POD = "lost its pod: it was deleted"
ADMISSION_HINT = "it is a rule of this cluster; labels and the like that it wants go into --pod-file or --template-dir"
WEBHOOK_HINT = "try again later, or tell those who run the cluster: kubectl get validatingwebhookconfigurations,mutatingwebhookconfigurations"

_PULL = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")
_CREATE = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_JOB_REASONS = {
    "DeadlineExceeded": "passed its deadline (activeDeadlineSeconds)",
    "BackoffLimitExceeded": "lost too many pods",
    "FailedIndexes": "has failed replicas",
}


def observe(replica: str, pod: dict[str, Any]) -> Observation:
    """The replica's state, from its pod as the API server gives it."""
    status, spec = pod.get("status", {}), pod.get("spec", {})
    node = spec.get("nodeName", "")
    early = _failed_init(replica, node, status, spec)
    if early:
        return early
    container = _container(status)
    state: dict[str, Any] = container.get("state", {})
    if "terminated" in state:
        return _terminated(replica, node, state["terminated"], pod)
    if status.get("phase") == "Failed":
        reason = status.get("reason") or "lost"
        return Observation(replica=replica, state="failed", node=node, message=_sentence(reason, status.get("message")))
    if pod["metadata"].get("deletionTimestamp"):
        return Observation(replica=replica, state="gone", node=node, message=_disruption(status) or LOST_POD)
    if "running" in state:
        return Observation(replica=replica, state="running", node=node)
    waiting = state.get("waiting", {})
    if waiting:
        return _waiting(replica, node, waiting, _image(spec, "containers", container["name"]))
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            if condition.get("reason") == "SchedulingGated":
                return Observation(replica=replica, state="pending", message="is held by a scheduling gate")
            return _unschedulable(replica, condition, spec)
    return Observation(replica=replica, state="starting" if node else "pending", node=node)


def observe_event(event: dict[str, Any]) -> tuple[str, str, float] | None:
    """(reason, message, patience in s) of an event that explains why a job's pods do not come, or None.

    A patience of 0 means that waiting cannot help.
    """
    reason, message = event.get("reason", ""), event.get("message", "")
    if reason == "FailedCreate":
        return reason, message, START_PATIENCE_S if "Internal error occurred" in message else 0.0
    if reason == "FailedToRetrieveImagePullSecret":
        return reason, message.split(";")[0], START_PATIENCE_S
    if reason in ("FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox"):
        return reason, message, MOUNT_PATIENCE_S
    return None


def explain_failed_create(message: str) -> tuple[str, str | None]:
    """Kubernetes's refusal to create a pod, in a sentence, and the next step."""
    text = re.sub(r'^Error creating: (pods "[^"]*" is forbidden: )?', "", message)
    if denied_by_admission(text):
        return f"the cluster's admission control refuses the pods: {text}", ADMISSION_HINT
    if "failed calling webhook" in text:
        return f"an admission webhook of the cluster fails: {text}", WEBHOOK_HINT
    if "violates PodSecurity" in text:
        return f"the namespace's Pod Security refuses the pods: {text}", "check what --pod-file and --volume ask for"
    if "exceeded quota" in text:
        return (
            f"the namespace's quota does not allow the pods: {text}",
            "ask for less: -w, --cpu, --memory, --gpus; or wait",
        )
    if "failed quota" in text:
        return f"the namespace's quota wants a request: {text}", "name it: --cpu, --memory"
    if "per Container is" in text or "per Pod is" in text:
        return f"the namespace's LimitRange refuses the pods: {text}", "change --cpu or --memory"
    if "service account" in text or "serviceaccount" in text:
        return f"the pods cannot be created: {text}", "name one that exists: --service-account"
    return f"the pods cannot be created: {text}", None


def denied_by_admission(message: str) -> bool:
    """Whether a webhook or a policy of the cluster's own refuses an object."""
    return bool(
        re.search(r"^admission webhook .* denied the request|ValidatingAdmissionPolicy .* denied request", message)
    )


def job_condition(job: dict[str, Any]) -> tuple[str, str] | None:
    """("Failed", why) or ("Complete", "") once the Job object says so."""
    for condition in job.get("status", {}).get("conditions", []):
        if condition["type"] in ("Failed", "Complete") and condition["status"] == "True":
            why = _JOB_REASONS.get(condition.get("reason", ""), condition.get("message", ""))
            return condition["type"], why
    return None


def _container(status: dict[str, Any]) -> dict[str, Any]:
    statuses: list[dict[str, Any]] = status.get("containerStatuses") or []
    return next((s for s in statuses if s["name"] == "tensorflow"), statuses[0] if statuses else {})


def _failed_init(replica: str, node: str, status: dict[str, Any], spec: dict[str, Any]) -> Observation | None:
    """An init container of --pod-file that keeps the replica from starting, named; None where there is none."""
    for found in status.get("initContainerStatuses") or []:
        name, state = found["name"], found.get("state", {})
        ended, waiting = state.get("terminated", {}), state.get("waiting", {})
        if ended.get("exitCode"):
            return Observation(
                replica=replica, state="failed", node=node,
                message=f"did not start: its init container {name} ended with exit code {ended['exitCode']}",
                hint="check --pod-file's initContainers",
            )  # fmt: skip
        if waiting.get("reason") in (*_PULL, *_CREATE):
            told = _waiting(replica, node, waiting, _image(spec, "initContainers", name))
            return replace(told, message=f"{told.message} (init container {name})")
    return None


def _image(spec: dict[str, Any], kind: str, name: str) -> str:
    containers = spec.get(kind) or [{}]
    return str(next((c for c in containers if c.get("name") == name), containers[0]).get("image", ""))


def _terminated(replica: str, node: str, ended: dict[str, Any], pod: dict[str, Any]) -> Observation:
    code, reason = ended.get("exitCode"), ended.get("reason", "")
    if code == 0:
        return Observation(replica=replica, state="succeeded", node=node)
    hint = None
    if reason == "OOMKilled":
        limit = _limits(pod.get("spec", {})).get("memory")
        message = f"was killed: out of memory (limit {limit})" if limit else "was killed: out of memory"
        hint = "give it more: --memory"
    elif reason in ("StartError", "ContainerCannotRun"):
        message = f"could not start: {ended.get('message', '').strip()[-300:]}"
        if "python3" in message:
            message, hint = "could not start: its image has no python3", "use an image with Python 3.9 or newer: -i"
    else:
        disruption = _disruption(pod.get("status", {}))
        message = disruption or f"ended with exit code {code}" + (f" ({reason})" if reason not in ("", "Error") else "")
    return Observation(replica=replica, state="failed", node=node, message=message, hint=hint)


def _waiting(replica: str, node: str, waiting: dict[str, Any], image: str) -> Observation:
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    if reason in _PULL:
        never = reason in ("InvalidImageName", "ErrImageNeverPull")
        return Observation(
            replica=replica, state="starting", node=node, fatal=True,
            patience_s=0.0 if never else START_PATIENCE_S,
            message=f"cannot pull its image {image}: {_short(message) or reason}",
            hint="check the image's name, and --image-pull-secret for a private registry",
        )  # fmt: skip
    if reason in _CREATE:
        return Observation(replica=replica, state="starting", node=node, fatal=True, patience_s=START_PATIENCE_S / 2,
                           message=f"cannot start: {_short(message) or reason}",
                           hint="check the names in --pod-file and --template-dir")  # fmt: skip
    return Observation(
        replica=replica, state="starting", node=node, message="" if reason == "ContainerCreating" else reason
    )


_SCHEDULING = (
    ("Insufficient", "ask for less, or wait for room: --start-timeout 1h"),
    ("persistentvolumeclaim", "see which claims there are: kubectl get pvc"),
    ("affinity/selector", "see what labels the nodes have: kubectl get nodes --show-labels"),
    ("untolerated taint", "tolerate it: --toleration KEY, or choose other nodes"),
    ("", "ask for less, or wait for room: --start-timeout 1h"),
)  # what the scheduler's message has in it -> the next step


def _unschedulable(replica: str, condition: dict[str, Any], spec: dict[str, Any]) -> Observation:
    asks = ", ".join(f"{key} {value}" for key, value in _limits(spec).items())
    message = re.split(r" preemption:|[,.] no new claims", condition.get("message", ""))[0].rstrip(". ")
    message = message.replace("not found. not found", "not found")  # as the scheduler says of a claim
    return Observation(
        replica=replica, state="pending", fatal=True, patience_s=UNSCHEDULABLE_PATIENCE_S,
        message=f"cannot be scheduled: {message}" + (f" (it asks for {asks})" if asks else ""),
        hint=next(hint for words, hint in _SCHEDULING if words in message),
    )  # fmt: skip


def _limits(spec: dict[str, Any]) -> dict[str, str]:
    containers = spec.get("containers") or [{}]
    resources = containers[0].get("resources", {})
    found: dict[str, str] = {**resources.get("requests", {}), **resources.get("limits", {})}
    return found


def _disruption(status: dict[str, Any]) -> str:
    for condition in status.get("conditions", []):
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            return _sentence(condition.get("reason", "disrupted"), condition.get("message"))
    return ""


def _sentence(reason: str, message: str | None) -> str:
    return f"was lost: {reason}" + (f": {message}" if message else "")


def _short(message: str) -> str:
    """The kubelet's message without its repetitions of the image's name."""
    text = message.strip().replace("\n", " ")
    text = re.sub(r'^Back-off pulling image "[^"]*": ?', "", text)
    text = re.sub(r"^(ErrImagePull|rpc error): ?", "", text)
    return text[:300]
