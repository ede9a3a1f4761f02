"""What a pod's status or an event means for its replica. Pure: values in, values out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tfspawner.backends.base import Observation
from tfspawner.base.fields import count, mapping, mappings, text, texts
from tfspawner.base.states import PodState

Object = Mapping[str, Any]

UNSCHEDULABLE_PATIENCE_S = 30.0
START_PATIENCE_S = 20.0
MOUNT_PATIENCE_S = 60.0
LOST_POD = "lost its pod: it was deleted"
ADMISSION_HINT = "it is a rule of this cluster; labels and the like that it wants go into --pod-file or --template-dir"
WEBHOOK_HINT = (
    "try again later, or tell those who run the cluster: "
    "kubectl get validatingwebhookconfigurations,mutatingwebhookconfigurations"
)

_PULL = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")
_CREATE = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_JOB_REASONS = {
    "DeadlineExceeded": "passed its deadline (activeDeadlineSeconds)",
    "BackoffLimitExceeded": "lost too many pods",
    "FailedIndexes": "has failed replicas",
}


def observe(replica: str, pod: Object) -> Observation:
    """The replica's state, from its pod's manifest."""
    status, spec = mapping(pod, "status"), mapping(pod, "spec")
    node = text(spec, "nodeName")
    early = _failed_init(replica, node, status, spec)
    if early:
        return early
    container = _container(status)
    state = mapping(container, "state")
    if mapping(state, "terminated"):
        return _terminated(replica, node, mapping(state, "terminated"), pod)
    if text(status, "phase") == "Failed":
        message = _sentence(text(status, "reason") or "lost", text(status, "message"))
        return Observation(replica=replica, state=PodState.FAILED, node=node, message=message)
    if text(pod, "metadata", "deletionTimestamp"):
        return Observation(replica=replica, state=PodState.GONE, node=node, message=_disruption(status) or LOST_POD)
    if "running" in state:
        return Observation(replica=replica, state=PodState.RUNNING, node=node)
    waiting = mapping(state, "waiting")
    if waiting:
        return _waiting(replica, node, waiting, _image(spec, "containers", text(container, "name")))
    for condition in mappings(status, "conditions"):
        if (text(condition, "type"), text(condition, "status")) == ("PodScheduled", "False"):
            if text(condition, "reason") == "SchedulingGated":
                return Observation(replica=replica, state=PodState.PENDING, message="is held by a scheduling gate")
            return _unschedulable(replica, condition, spec)
    return Observation(replica=replica, state=PodState.STARTING if node else PodState.PENDING, node=node)


def observe_event(event: Object) -> tuple[str, str, float] | None:
    """(reason, message, patience in s) of an event that explains why a job's pods do not start; None for other events.

    A patience of 0 means that waiting does not help.
    """
    reason, message = text(event, "reason"), text(event, "message")
    if reason == "FailedCreate":
        return reason, message, START_PATIENCE_S if "Internal error occurred" in message else 0.0
    if reason == "FailedToRetrieveImagePullSecret":
        return reason, message.split(";")[0], START_PATIENCE_S
    if reason in ("FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox"):
        return reason, message, MOUNT_PATIENCE_S
    return None


def explain_failed_create(message: str) -> tuple[str, str | None]:
    """Kubernetes's refusal to create a pod as a sentence, and what to do next."""
    reason = re.sub(r'^Error creating: (pods "[^"]*" is forbidden: )?', "", message)
    if denied_by_admission(reason):
        return f"the cluster's admission control refuses the pods: {reason}", ADMISSION_HINT
    if "failed calling webhook" in reason:
        return f"an admission webhook of the cluster fails: {reason}", WEBHOOK_HINT
    if "violates PodSecurity" in reason:
        return f"the namespace's Pod Security refuses the pods: {reason}", "check what --pod-file and --volume ask for"
    if "exceeded quota" in reason:
        return (
            f"the namespace's quota does not allow the pods: {reason}",
            "ask for less: -w, --cpu, --memory, --gpus; or wait",
        )
    if "failed quota" in reason:
        return f"the namespace's quota wants a request: {reason}", "name it: --cpu, --memory"
    if "per Container is" in reason or "per Pod is" in reason:
        return f"the namespace's LimitRange refuses the pods: {reason}", "change --cpu or --memory"
    if "service account" in reason or "serviceaccount" in reason:
        return f"the pods cannot be created: {reason}", "name one that exists: --service-account"
    return f"the pods cannot be created: {reason}", None


def denied_by_admission(message: str) -> bool:
    """Whether one of the cluster's webhooks or policies has refused an object."""
    return bool(
        re.search(r"^admission webhook .* denied the request|ValidatingAdmissionPolicy .* denied request", message)
    )


def job_condition(job: object) -> tuple[str, str] | None:
    """("Failed", why) or ("Complete", "") once the Job has that condition."""
    for condition in mappings(job, "status", "conditions"):
        kind = text(condition, "type")
        if kind in ("Failed", "Complete") and text(condition, "status") == "True":
            return kind, _JOB_REASONS.get(text(condition, "reason"), text(condition, "message"))
    return None


def _container(status: Object) -> Object:
    statuses = mappings(status, "containerStatuses")
    return next((s for s in statuses if text(s, "name") == "tensorflow"), statuses[0] if statuses else {})


def _failed_init(replica: str, node: str, status: Object, spec: Object) -> Observation | None:
    """The observation if an init container of --pod-file keeps the replica from starting, else None."""
    for container in mappings(status, "initContainerStatuses"):
        name, waiting = text(container, "name"), mapping(container, "state", "waiting")
        code = count(container, "state", "terminated", "exitCode")
        if code:
            return Observation(
                replica=replica,
                state=PodState.FAILED,
                node=node,
                message=f"did not start: its init container {name} ended with exit code {code}",
                hint="check --pod-file's initContainers",
            )
        if text(waiting, "reason") in (*_PULL, *_CREATE):
            seen = _waiting(replica, node, waiting, _image(spec, "initContainers", name))
            return replace(seen, message=f"{seen.message} (init container {name})")
    return None


def _image(spec: Object, kind: str, name: str) -> str:
    containers = mappings(spec, kind) or [{}]
    return text(next((c for c in containers if text(c, "name") == name), containers[0]), "image")


def _terminated(replica: str, node: str, ended: Object, pod: Object) -> Observation:
    code, reason = count(ended, "exitCode"), text(ended, "reason")
    if code == 0:
        return Observation(replica=replica, state=PodState.SUCCEEDED, node=node)
    hint = None
    if reason == "OOMKilled":
        limit = _limits(mapping(pod, "spec")).get("memory")
        message = f"was killed: out of memory (limit {limit})" if limit else "was killed: out of memory"
        hint = "give it more: --memory"
    elif reason in ("StartError", "ContainerCannotRun"):
        message = f"could not start: {text(ended, 'message').strip()[-300:]}"
        if "python3" in message:
            message, hint = "could not start: its image has no python3", "use an image with Python 3.9 or newer: -i"
    else:
        disruption = _disruption(mapping(pod, "status"))
        how = "ended" if code is None else f"ended with exit code {code}"
        message = disruption or how + (f" ({reason})" if reason not in ("", "Error") else "")
    return Observation(replica=replica, state=PodState.FAILED, node=node, message=message, hint=hint)


def _waiting(replica: str, node: str, waiting: Object, image: str) -> Observation:
    reason, message = text(waiting, "reason"), text(waiting, "message")
    if reason in _PULL:
        never = reason in ("InvalidImageName", "ErrImageNeverPull")
        return Observation(
            replica=replica,
            state=PodState.STARTING,
            node=node,
            fatal=True,
            patience_s=0.0 if never else START_PATIENCE_S,
            message=f"cannot pull its image {image}: {_short(message) or reason}",
            hint="check the image's name, and --image-pull-secret for a private registry",
        )
    if reason in _CREATE:
        return Observation(
            replica=replica,
            state=PodState.STARTING,
            node=node,
            fatal=True,
            patience_s=START_PATIENCE_S / 2,
            message=f"cannot start: {_short(message) or reason}",
            hint="check the names in --pod-file and --template-dir",
        )
    return Observation(
        replica=replica, state=PodState.STARTING, node=node, message="" if reason == "ContainerCreating" else reason
    )


_SCHEDULING = (
    ("Insufficient", "ask for less, or wait for room: --start-timeout 1h"),
    ("persistentvolumeclaim", "see which claims there are: kubectl get pvc"),
    ("affinity/selector", "see what labels the nodes have: kubectl get nodes --show-labels"),
    ("untolerated taint", "tolerate it: --toleration KEY, or choose other nodes"),
    ("", "ask for less, or wait for room: --start-timeout 1h"),
)  # what the scheduler's message has in it -> the next step


def _unschedulable(replica: str, condition: Object, spec: Object) -> Observation:
    asks = ", ".join(f"{key} {value}" for key, value in _limits(spec).items())
    message = re.split(r" preemption:|[,.] no new claims", text(condition, "message"))[0].rstrip(". ")
    message = message.replace("not found. not found", "not found")  # the scheduler says so of a missing claim
    return Observation(
        replica=replica,
        state=PodState.PENDING,
        fatal=True,
        patience_s=UNSCHEDULABLE_PATIENCE_S,
        message=f"cannot be scheduled: {message}" + (f" (it asks for {asks})" if asks else ""),
        hint=next(hint for words, hint in _SCHEDULING if words in message),
    )


def _limits(spec: Object) -> dict[str, str]:
    containers = mappings(spec, "containers") or [{}]
    return {**texts(containers[0], "resources", "requests"), **texts(containers[0], "resources", "limits")}


def _disruption(status: Object) -> str:
    for condition in mappings(status, "conditions"):
        if (text(condition, "type"), text(condition, "status")) == ("DisruptionTarget", "True"):
            return _sentence(text(condition, "reason") or "disrupted", text(condition, "message"))
    return ""


def _sentence(reason: str, message: str) -> str:
    return f"was lost: {reason}" + (f": {message}" if message else "")


def _short(message: str) -> str:
    """The kubelet's message, without its repetition of the image's name."""
    words = message.strip().replace("\n", " ")
    words = re.sub(r'^Back-off pulling image "[^"]*": ?', "", words)
    words = re.sub(r"^(ErrImagePull|rpc error): ?", "", words)
    return words[:300]
