"""What pods and events mean, by statuses as Kubernetes 1.36 gives them."""

import pytest

from tfspawner.diagnose import explain_failed_create, job_condition, observe, observe_event


def pod(state=None, *, phase="Pending", node="n1", conditions=(), limits=None, **status):
    containers = [{"name": "tensorflow", "state": state}] if state else []
    resources = {"limits": limits} if limits else {}
    return {
        "metadata": {"name": "p"},
        "spec": {"nodeName": node, "containers": [{"image": "img:1", "resources": resources}]},
        "status": {"phase": phase, "containerStatuses": containers, "conditions": list(conditions), **status},
    }


def unschedulable(message):
    return [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]


DISRUPTED = [
    {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "for a better pod"}
]
NO_ROOM = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are available."
CASES = [
    (pod(node=""), "pending", False, ""),
    (pod(), "starting", False, ""),
    (pod({"waiting": {"reason": "ContainerCreating"}}), "starting", False, ""),
    (pod({"running": {}}, phase="Running"), "running", False, ""),
    (pod({"terminated": {"exitCode": 0}}, phase="Succeeded"), "succeeded", False, ""),
    (pod(node="", conditions=unschedulable(NO_ROOM), limits={"nvidia.com/gpu": "8"}), "pending", True,
     "cannot be scheduled: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu (it asks for nvidia.com/gpu 8)"),
    (pod({"waiting": {"reason": "ErrImagePull", "message": "not found"}}), "starting", True, "cannot pull its image img:1: not found"),
    (pod({"waiting": {"reason": "InvalidImageName"}}), "starting", True, "cannot pull its image img:1: InvalidImageName"),
    (pod({"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "s" not found'}}), "starting", True,
     'cannot start: secret "s" not found'),
    (pod({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}, phase="Failed", limits={"memory": "2Gi"}), "failed", False,
     "was killed: out of memory (limit 2Gi)"),
    (pod({"terminated": {"exitCode": 128, "reason": "StartError", "message": 'exec: "python3": not found'}}, phase="Failed"),
     "failed", False, "could not start: its image has no python3"),
    (pod({"terminated": {"exitCode": 3, "reason": "Error"}}, phase="Failed"), "failed", False, "ended with exit code 3"),
    (pod({"terminated": {"exitCode": 143, "reason": "Error"}}, phase="Failed", conditions=DISRUPTED), "failed", False,
     "was lost: PreemptionByScheduler: for a better pod"),
    (pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory."), "failed", False,
     "was lost: Evicted: The node was low on resource: memory."),
]  # fmt: skip


@pytest.mark.parametrize(("status", "state", "fatal", "message"), CASES)
def test_a_pods_status_becomes_a_state_and_a_reason(status, state, fatal, message):
    seen = observe("worker-0", status)
    assert (seen.state, seen.fatal, seen.message) == (state, fatal, message)


def test_a_pod_that_is_being_deleted_is_gone():
    deleted = pod({"running": {}}, phase="Running")
    deleted["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert observe("worker-0", deleted).state == "gone"


def test_every_reason_that_waiting_will_not_mend_has_a_next_step():
    for status, _, fatal, _ in CASES:
        if fatal:
            assert observe("worker-0", status).hint


@pytest.mark.parametrize(
    ("message", "words", "hint"),
    [
        ('violates PodSecurity "restricted:latest": hostPath volumes', "Pod Security", "--pod-file"),
        ("exceeded quota: q, requested: pods=2, used: pods=0, limited: pods=1", "quota does not allow", "ask for less"),
        ("failed quota: q: must specify requests.cpu", "quota wants a request", "--cpu"),
        ("maximum cpu usage per Container is 500m, but limit is 1", "LimitRange", "--cpu"),
        ('error looking up service account ns/x: serviceaccount "x" not found', "service account", "--service-account"),
    ],
)
def test_a_refusal_to_create_pods_is_explained(message, words, hint):
    text, step = explain_failed_create(f'Error creating: pods "j-worker-0-" is forbidden: {message}')
    assert words in text
    assert hint in step


def test_only_events_that_keep_a_replica_from_coming_count():
    assert observe_event({"reason": "Pulled", "message": "x"}) is None
    assert observe_event({"reason": "FailedCreate", "message": "x"}) == ("FailedCreate", "x", 0.0)
    assert observe_event({"reason": "FailedMount", "message": "x"})[2] > 0


def test_a_jobs_end_is_read_from_its_conditions():
    assert job_condition({"status": {}}) is None
    ended = {"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}
    assert job_condition({"status": {"conditions": [ended]}}) == (
        "Failed",
        "passed its deadline (activeDeadlineSeconds)",
    )
