"""What pods and events mean, by statuses as Kubernetes 1.36 gives them."""

import pytest

from tfspawner.backends.kubernetes.pods import (
    LOST_POD,
    MOUNT_PATIENCE_S,
    START_PATIENCE_S,
    UNSCHEDULABLE_PATIENCE_S,
    explain_failed_create,
    job_condition,
    observe,
    observe_event,
)


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
    (pod({"waiting": {"reason": "PodInitializing"}}), "starting", False, "PodInitializing"),
    (pod({"running": {}}, phase="Running"), "running", False, ""),
    (pod({"terminated": {"exitCode": 0}}, phase="Succeeded"), "succeeded", False, ""),
    (pod(node="", conditions=unschedulable(NO_ROOM), limits={"nvidia.com/gpu": "8"}), "pending", True,
     "cannot be scheduled: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu (it asks for nvidia.com/gpu 8)"),
    (pod({"waiting": {"reason": "ErrImagePull", "message": "not found"}}), "starting", True, "cannot pull its image img:1: not found"),
    (pod({"waiting": {"reason": "InvalidImageName"}}), "starting", True, "cannot pull its image img:1: InvalidImageName"),
    (pod({"waiting": {"reason": "ErrImageNeverPull", "message": "is not present\nwith policy Never\n"}}), "starting", True,
     "cannot pull its image img:1: is not present with policy Never"),
    (pod({"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "img:1": ErrImagePull: no such host'}}),
     "starting", True, "cannot pull its image img:1: no such host"),
    (pod({"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "img:1"'}}), "starting", True,
     'cannot pull its image img:1: Back-off pulling image "img:1"'),
    (pod({"waiting": {"reason": "RunContainerError"}}), "starting", True, "cannot start: RunContainerError"),
    (pod({"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "s" not found'}}), "starting", True,
     'cannot start: secret "s" not found'),
    (pod({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}, phase="Failed", limits={"memory": "2Gi"}), "failed", False,
     "was killed: out of memory (limit 2Gi)"),
    (pod({"terminated": {"exitCode": 128, "reason": "StartError", "message": 'exec: "python3": not found'}}, phase="Failed"),
     "failed", False, "could not start: its image has no python3"),
    (pod({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}, phase="Failed"), "failed", False, "was killed: out of memory"),
    (pod({"terminated": {"exitCode": 128, "reason": "ContainerCannotRun", "message": " no such device\n"}}, phase="Failed"),
     "failed", False, "could not start: no such device"),
    (pod({"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown"}}, phase="Failed"), "failed", False,
     "ended with exit code 137 (ContainerStatusUnknown)"),
    (pod({"terminated": {"exitCode": 3, "reason": "Error"}}, phase="Failed"), "failed", False, "ended with exit code 3"),
    (pod({"terminated": {"exitCode": 143, "reason": "Error"}}, phase="Failed", conditions=DISRUPTED), "failed", False,
     "was lost: PreemptionByScheduler: for a better pod"),
    (pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory."), "failed", False,
     "was lost: Evicted: The node was low on resource: memory."),
    (pod(phase="Failed"), "failed", False, "was lost: lost"),
    (pod({"running": {}}, phase="Running", conditions=DISRUPTED), "running", False, ""),
    (pod(node="", conditions=[{"type": "PodScheduled", "status": "True"}]), "pending", False, ""),
    (pod(node="", containerStatuses=None), "pending", False, ""),
    ({"metadata": {"name": "p"}}, "pending", False, ""),
]  # fmt: skip


@pytest.mark.parametrize(("status", "state", "fatal", "message"), CASES)
def test_a_pods_status_becomes_a_state_and_a_reason(status, state, fatal, message):
    seen = observe("worker-0", status)
    assert (seen.state, seen.fatal, seen.message) == (state, fatal, message)


@pytest.mark.parametrize(
    ("status", "state", "message"),
    [
        (pod({"running": {}}, phase="Running"), "gone", LOST_POD),
        (pod(node="", conditions=unschedulable(NO_ROOM)), "gone", LOST_POD),
        (pod({"waiting": {"reason": "ErrImagePull"}}), "gone", LOST_POD),
        (pod({"running": {}}, conditions=DISRUPTED), "gone", "was lost: PreemptionByScheduler: for a better pod"),
        (pod({"terminated": {"exitCode": 0}}, phase="Running"), "succeeded", ""),
        (pod({"terminated": {"exitCode": 3}}, phase="Running"), "failed", "ended with exit code 3"),
    ],
)
def test_a_pod_that_is_being_deleted_is_gone_unless_it_has_ended(status, state, message):
    deleted = {**status, "metadata": {"name": "p", "deletionTimestamp": "2026-01-01T00:00:00Z"}}
    seen = observe("worker-0", deleted)
    assert (seen.state, seen.message, seen.fatal) == (state, message, False)


@pytest.mark.parametrize(
    ("reason", "patience_s"),
    [("InvalidImageName", 0), ("ErrImageNeverPull", 0), ("ErrImagePull", 20), ("ImagePullBackOff", 20), ("CreateContainerError", 10)],
)  # fmt: skip
def test_what_may_pass_is_waited_for_and_what_cannot_is_not(reason, patience_s):
    seen = observe("worker-0", pod({"waiting": {"reason": reason}}))
    assert (seen.fatal, seen.patience_s, seen.replica, seen.node) == (True, patience_s, "worker-0", "n1")


def test_room_may_come_and_is_waited_for_longer_than_images():
    seen = observe("worker-0", pod(node="", conditions=unschedulable(NO_ROOM)))
    assert seen.patience_s == UNSCHEDULABLE_PATIENCE_S > START_PATIENCE_S


def test_a_pod_that_is_held_at_a_gate_is_not_short_of_room():
    message = "Scheduling is blocked due to non-empty scheduling gates"
    held = [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": message}]
    seen = observe("worker-0", pod(node="", conditions=held))
    assert (seen.state, seen.fatal) == ("pending", False)


def test_a_side_car_does_not_speak_for_the_replica():
    both = pod({"running": {}}, phase="Running")
    both["status"]["containerStatuses"].insert(0, {"name": "side", "state": {"terminated": {"exitCode": 1}}})
    assert observe("worker-0", both).state == "running"


def test_an_init_container_that_keeps_the_replica_from_starting_is_named():
    waiting = pod({"waiting": {"reason": "PodInitializing"}})
    waiting["spec"]["initContainers"] = [{"name": "fetch-data", "image": "init:1"}]
    pull = {"waiting": {"reason": "ErrImagePull", "message": "not found"}}
    waiting["status"]["initContainerStatuses"] = [{"name": "fetch-data", "state": pull}]
    seen = observe("worker-0", waiting)
    assert (seen.state, seen.fatal) == ("starting", True)
    assert "init:1: not found" in seen.message


def test_an_init_container_that_failed_is_named():
    failed = pod({"waiting": {"reason": "PodInitializing"}}, phase="Failed")
    ended = {"terminated": {"exitCode": 2, "reason": "Error"}}
    failed["status"]["initContainerStatuses"] = [{"name": "fetch-data", "state": ended}]
    seen = observe("worker-0", failed)
    assert seen.state == "failed"
    assert "fetch-data" in seen.message
    assert "exit code 2" in seen.message


@pytest.mark.parametrize("status", [status for status, _, fatal, _ in CASES if fatal])
def test_every_reason_that_waiting_will_not_mend_has_a_next_step(status):
    assert observe("worker-0", status).hint


@pytest.mark.parametrize(
    ("message", "words", "hint"),
    [
        ('violates PodSecurity "restricted:latest": hostPath volumes', "Pod Security", "--pod-file"),
        ("exceeded quota: q, requested: pods=2, used: pods=0, limited: pods=1", "quota does not allow", "ask for less"),
        ("failed quota: q: must specify requests.cpu", "quota wants a request", "--cpu"),
        ("maximum cpu usage per Container is 500m, but limit is 1", "LimitRange", "--cpu"),
        (
            "ValidatingAdmissionPolicy 'team' with binding 'b' denied request: failed expression: x",
            "admission control",
            "--pod-file",
        ),
        ('error looking up service account ns/x: serviceaccount "x" not found', "service account", "--service-account"),
    ],
)
def test_a_refusal_to_create_pods_is_explained(message, words, hint):
    text, step = explain_failed_create(f'Error creating: pods "j-worker-0-" is forbidden: {message}')
    assert words in text
    assert hint in step


@pytest.mark.parametrize(
    ("message", "words", "hint"),
    [
        ('admission webhook "team.example.com" denied the request: no label team', "admission control refuses", "--pod-file"),
        ('Internal error occurred: failed calling webhook "team.example.com": context deadline exceeded', "an admission webhook", "later"),
    ],
)  # fmt: skip
def test_what_an_admission_webhook_does_is_explained(message, words, hint):
    text, step = explain_failed_create(f"Error creating: {message}")
    assert words in text
    assert text.endswith(message)
    assert hint in step


def test_another_refusal_is_given_as_it_stands():
    assert explain_failed_create("Error creating: no") == ("the pods cannot be created: no", None)


def test_only_events_that_keep_a_replica_from_coming_count():
    for reason in ("Pulled", "Killing", "FailedScheduling", "BackOff"):
        assert observe_event({"reason": reason, "message": "x"}) is None
    assert observe_event({}) is None
    assert observe_event({"reason": "FailedCreate", "message": "x"}) == ("FailedCreate", "x", 0.0)
    passing = "Error creating: Internal error occurred: failed calling webhook"
    assert observe_event({"reason": "FailedCreate", "message": passing}) == ("FailedCreate", passing, START_PATIENCE_S)
    for reason in ("FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox"):
        assert observe_event({"reason": reason, "message": "x"}) == (reason, "x", MOUNT_PATIENCE_S)
    secret = {"reason": "FailedToRetrieveImagePullSecret", "message": "Unable to retrieve s; attempting to pull"}
    assert observe_event(secret) == (secret["reason"], "Unable to retrieve s", START_PATIENCE_S)


@pytest.mark.parametrize(
    ("conditions", "end"),
    [
        ([], None),
        ([{"type": "Failed", "status": "False", "reason": "DeadlineExceeded"}], None),
        ([{"type": "FailureTarget", "status": "True"}, {"type": "Suspended", "status": "True"}], None),
        ([{"type": "Complete", "status": "True"}], ("Complete", "")),
        ([{"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}], ("Failed", "passed its deadline (activeDeadlineSeconds)")),
        ([{"type": "Suspended", "status": "False"}, {"type": "Failed", "status": "True", "reason": "FailedIndexes"}], ("Failed", "has failed replicas")),
        ([{"type": "Failed", "status": "True", "reason": "Odd", "message": "it says"}], ("Failed", "it says")),
    ],
)  # fmt: skip
def test_a_jobs_end_is_read_from_its_conditions(conditions, end):
    assert job_condition({"status": {"conditions": conditions}}) == end
    assert job_condition({}) is None
