"""What render prints is what run creates, and the API server accepts it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from typing import Any

import pytest
import yaml

# What the API server and its controllers put into an object that is created and unsuspended.
SERVERS_OWN = ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "ownerReferences")
OPTIONS = (
    "--name", "shown", "--chief", "-w", "2", "--cpu", "100m", "--memory", "256Mi", "-t", "a-tag", "-p", "3333",
    "--env", "PASSWORD=not-to-be-seen", "--timeout", "1h", "--toleration", "some-taint=some-value:NoSchedule",
    "--volume", "some-claim:/data:ro", "--node-selector", "kubernetes.io/os=linux", "--image-pull-secret", "some-secret",
)  # fmt: skip


def essence(manifest: dict[str, Any]) -> dict[str, Any]:
    """An object without what belongs to the server, to be compared with another."""
    found = json.loads(json.dumps(manifest))
    found.pop("status", None)
    for key in SERVERS_OWN:
        found["metadata"].pop(key, None)
    annotations = found["metadata"].get("annotations", {})
    annotations.pop("kubectl.kubernetes.io/last-applied-configuration", None)
    if annotations.pop("tf-spawner/id", None):  # each launch's own
        annotations["tf-spawner/id"] = "some"
    if not annotations:
        found["metadata"].pop("annotations", None)
    if found["kind"] == "Job":
        found["spec"].pop("suspend", None)
        for labels in (found["spec"]["selector"]["matchLabels"], found["spec"]["template"]["metadata"]["labels"]):
            labels.pop("controller-uid", None)
            labels.pop("batch.kubernetes.io/controller-uid", None)
    if found["kind"] == "Secret":
        found["data"] = sorted(found.get("data", {}))  # render shows no value
    if found["kind"] == "Service":
        found["spec"] = {k: v for k, v in found["spec"].items() if k not in ("clusterIP", "clusterIPs")}
        found["spec"]["selector"].pop(
            "batch.kubernetes.io/controller-uid", None
        )  # the first Job's, known once it is there
    return dict(found)


def by_name(manifests: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(m["kind"], m["metadata"]["name"]): essence(m) for m in manifests}


def without_id(text: str) -> str:
    """Manifests without the number that each launch has of its own."""
    return re.sub(r'(tf-spawner/id"?: "?)\w+', r"\1some", text)


@pytest.fixture
def rendered(cluster_place) -> str:
    script = cluster_place.script("print('hi')")
    done = cluster_place.tf("render", script, "-n", cluster_place.namespace, *OPTIONS)
    assert done.code == 0, done.err
    return str(done.out)


def test_rendered_manifests_are_accepted_by_kubectl_and_equal_what_run_creates(cluster_place, rendered):
    namespace, kubectl = cluster_place.namespace, cluster_place.kubectl
    accepted = json.loads(kubectl("apply", "--dry-run=server", "-f", "-", "-o", "json", stdin=rendered))["items"]
    assert cluster_place.leftovers() == [], "dry-run created something"
    script = cluster_place.folder / "code/train.py"
    launched = cluster_place.run(script, "--detach", *OPTIONS)
    assert launched.code == 0, launched.err
    kinds = "jobs,services,configmaps,secrets,networkpolicies"
    created = json.loads(kubectl("-n", namespace, "get", kinds, "-o", "json"))["items"]
    created = [m for m in created if m["metadata"]["name"] != "kube-root-ca.crt"]
    assert by_name(created) == by_name(accepted)
    owner = next(m for m in created if m["metadata"]["name"] == "shown-chief")
    for manifest in created:
        owners = [reference["uid"] for reference in manifest["metadata"].get("ownerReferences", [])]
        assert owners == ([] if manifest is owner else [owner["metadata"]["uid"]])
    assert not [m["metadata"]["name"] for m in created if m["kind"] == "Job" and m["spec"].get("suspend")]


def test_rendered_manifests_hold_no_value_and_are_the_same_as_the_records(cluster_place, rendered):
    assert "not-to-be-seen" not in rendered
    running = cluster_place.start_run(cluster_place.folder / "code/train.py", "-n", cluster_place.namespace, *OPTIONS)
    running.prints("cannot be scheduled", stream="stderr")  # there is no such claim
    record = (cluster_place.runs / "shown/manifests.yaml").read_text()
    assert without_id(record) == without_id(rendered)


def test_rendered_json_is_a_list_that_kubectl_accepts(cluster_place, rendered):
    script = cluster_place.folder / "code/train.py"
    done = cluster_place.tf("render", script, "-n", cluster_place.namespace, *OPTIONS, "--output", "json")
    assert yaml.safe_load(without_id(done.out))["items"] == list(yaml.safe_load_all(without_id(rendered)))
    cluster_place.kubectl("apply", "--dry-run=server", "-f", "-", stdin=done.out)


def test_what_is_rendered_runs_when_kubectl_creates_it(cluster_place):
    """The secret's values are the only thing that is missing in it."""
    script = cluster_place.script("print('by kubectl')")
    namespace = cluster_place.namespace
    rendered = cluster_place.tf("render", script, "-n", namespace, "--name", "by-hand", "-w", "1").out
    manifests = list(yaml.safe_load_all(rendered))
    for manifest in manifests:
        if manifest["kind"] == "Secret" and "token" in manifest["stringData"]:
            manifest["stringData"]["token"] = "any"
        if manifest["kind"] == "Job":
            assert manifest["spec"].pop("suspend") is True
    cluster_place.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(manifests))
    done = cluster_place.of("wait", "by-hand")
    assert done.code == 0, done.err
    assert cluster_place.of("logs", "by-hand").out == "worker-0 | by kubectl\n"


def test_the_printed_role_and_binding_are_accepted_as_they_are(cluster_place):
    printed = cluster_place.tf("rbac", "-n", cluster_place.namespace, "--user", "jane@example.org").out
    done = subprocess.run(
        ["kubectl", "apply", "--dry-run=server", "-f", "-"], input=printed, text=True, capture_output=True,
        env=dict(os.environ),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_pod_files_env_volumes_and_settings_are_kept(cluster_place):
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "mine", "labels": {"team": "physics"}, "annotations": {"note": "kept"}},
        "spec": {
            "volumes": [{"name": "scratch", "emptyDir": {}}, {"name": "notes", "configMap": {"name": "notes"}}],
            "containers": [
                {
                    "name": "tensorflow",
                    "image": "no/such:image",
                    "env": [{"name": "FROM_POD", "value": "kept"}],
                    "volumeMounts": [
                        {"name": "scratch", "mountPath": "/scratch"},
                        {"name": "notes", "mountPath": "/notes"},
                    ],
                    "resources": {"limits": {"memory": "300Mi"}},
                }
            ],
        },
    }
    (cluster_place.folder / "pod.yaml").write_text(yaml.safe_dump(pod))
    namespace = cluster_place.namespace
    cluster_place.kubectl("-n", namespace, "create", "configmap", "notes", "--from-literal=text=read from the pod file")
    script = cluster_place.script("""
        import os, pathlib
        pathlib.Path("/scratch/written").write_text("yes")
        print(os.environ["FROM_POD"], os.environ["FROM_FLAG"], pathlib.Path("/notes/text").read_text())
    """)
    done = cluster_place.run(
        script, "-w", "1", "--name", "from-pod", "--pod-file", cluster_place.folder / "pod.yaml",
        "--env", "FROM_FLAG=added", "--collect", "/scratch/*", "--keep",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.out == "worker-0 | kept added read from the pod file\n"
    collected = cluster_place.runs / "from-pod/files/worker-0/collected/scratch/written"
    assert collected.read_text() == "yes"
    (made,) = json.loads(cluster_place.kubectl("-n", namespace, "get", "pods", "-o", "json"))["items"]
    assert made["metadata"]["labels"]["team"] == "physics"
    assert made["metadata"]["annotations"]["note"] == "kept"
    assert made["spec"]["containers"][0]["resources"]["limits"] == {"memory": "300Mi"}


def test_a_queue_leaves_the_jobs_suspended_for_kueue_to_admit(cluster_place):
    namespace, kubectl = cluster_place.namespace, cluster_place.kubectl
    name = cluster_place.run(
        cluster_place.script("print('admitted')"), "--detach", "--chief", "-w", "1", "--queue", "team-a"
    ).out.strip()
    jobs = json.loads(kubectl("-n", namespace, "get", "jobs", "-o", "json"))["items"]
    assert len(jobs) == 2
    for job in jobs:
        assert job["spec"]["suspend"] is True
        assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert cluster_place.pods(name) == []
    (entry,) = cluster_place.of("list", "--output", "json").json
    assert (entry["job"], entry["state"]) == (name, "queued")
    for job in jobs:  # what Kueue does
        patch = '{"spec": {"suspend": false}}'
        kubectl("-n", namespace, "patch", "job", job["metadata"]["name"], "--type=merge", "-p", patch)
    assert cluster_place.of("wait", name).code == 0
    assert sorted(cluster_place.of("logs", name).out.splitlines()) == ["chief-0 | admitted", "worker-0 | admitted"]


def test_a_queued_job_is_deleted_whole(cluster_place):
    script = cluster_place.script("print('never')")
    name = cluster_place.run(script, "--detach", "--queue", "team-a").out.strip()
    done = cluster_place.of("delete", name)
    assert done.code == 0, done.err
    assert cluster_place.leftovers() == []


def test_the_pods_run_restricted_and_without_a_token_of_the_clusters(cluster_place):
    script = cluster_place.script("""
        import os
        print("uid", os.getuid(), "groups", os.getgroups())
        print("token", os.path.exists("/var/run/secrets/kubernetes.io/serviceaccount/token"))
        for path in ("/", "/etc", "/opt"):
            print(path, os.access(path, os.W_OK))
        for path in ("/tmp", os.environ["HOME"], ".", os.environ["TFSPAWNER_OUTPUT"], "/script"):
            assert os.access(path, os.W_OK), path
        print("original", open("/script/training-script.py").read() == open("train.py").read())
    """)
    done = cluster_place.run(script, "-w", "1")
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        "worker-0 | uid 1000 groups [1000]",
        "worker-0 | token False",
        "worker-0 | / False",
        "worker-0 | /etc False",
        "worker-0 | /opt False",
        "worker-0 | original True",
    ]
