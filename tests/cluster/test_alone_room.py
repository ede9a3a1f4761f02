"""Jobs that compete for room: one that does not become whole gives back what it has, and tries again.

Alone, since how much room there is, is what these are about.
"""

from __future__ import annotations

import json

import pytest

SCRIPT = "print('all are here', flush=True)\n"


def blocker(place, cpu: str) -> None:
    """A pod that takes room until it is deleted."""
    container = {
        "name": "sleep", "image": place.env["TFSPAWNER_IMAGE"], "imagePullPolicy": "IfNotPresent", "command": ["sleep", "600"],
        "resources": {"requests": {"cpu": cpu}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }  # fmt: skip
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}}  # fmt: skip
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "blocker"}, "spec": spec}
    place.kubectl("-n", place.namespace, "apply", "-f", "-", stdin=json.dumps(pod))
    place.kubectl("-n", place.namespace, "wait", "pod/blocker", "--for=condition=Ready", "--timeout=60s")


def free_millicpus(place) -> int:
    node = json.loads(place.kubectl("get", "node", "testnode", "-o", "json"))
    return int(node["status"]["allocatable"]["cpu"]) * 1000


def test_a_job_with_half_of_its_pods_gives_them_back_and_runs_when_there_is_room(cluster_place):
    place = cluster_place
    if "testnode" not in place.kubectl("get", "nodes", "-o", "name"):
        pytest.skip("needs the test cluster's node, of which the size is known")
    third = free_millicpus(place) * 3 // 10
    blocker(place, f"{2 * third}m")
    asked = ["-w", "2", "--cpu", f"{third}m", "--start-timeout", "5s", "--start-tries", "20"]  # a pod may take a while
    running = place.start_run(place.script(SCRIPT), *asked, "--name", "waits")
    running.prints("there is room for 1 of 2 replicas: all given back; try 2 of 20 in", stream="stderr")
    place.kubectl("-n", place.namespace, "delete", "pod", "blocker", "--wait=false")
    done = running.done()
    assert done.code == 0, done.err
    assert done.out.count("all are here") == 2
    events = [json.loads(line) for line in (place.runs / "waits/events.jsonl").read_text().splitlines()]
    assert next(event["placed"] for event in events if event["event"] == "given back") == 1
    assert place.leftovers() == []


def test_after_the_last_try_nothing_is_left_and_why_is_told(cluster_place):
    place = cluster_place
    done = place.run(place.script(SCRIPT), "-w", "2", "--cpu", "500", "--start-timeout", "1s", "--start-tries", "2")
    assert done.code == 3, done.err
    assert "try 2 of 2 in" in done.err
    assert "error: worker-" in done.err
    assert "cannot be scheduled" in done.err
    assert place.leftovers() == []
