"""Jobs of others that say they are a job of ours: the one that owns the Secret of that name is meant, and no other."""

from __future__ import annotations

import json

import pytest
from strangers import apply, get, job_like, labels_of, server_pod

OURS = {"app.kubernetes.io/managed-by": "tf-spawner"}
INDEXED = {"completionMode": "Indexed", "completions": 1}


def rival(place, role: str, id: str, **metadata) -> None:
    manifest = job_like(f"mine-{role}", OURS | labels_of("mine", role), {"tf-spawner/id": id}, **INDEXED)
    manifest["metadata"] |= metadata
    apply(place, manifest)


def jobs_there(place) -> set[str]:
    return {item["metadata"]["name"] for item in get(place, "jobs")["items"]}


def id_of(place) -> str:
    return get(place, "job", "mine-worker")["metadata"]["annotations"]["tf-spawner/id"]


@pytest.fixture
def launched(cluster_place, gate_code):
    """A function that launches a job called mine, of two workers that wait at their gates, and returns."""
    script = cluster_place.script(
        gate_code + "import os\nopen(os.environ['TFSPAWNER_OUTPUT'] + '/model', 'w').write('m')"
    )

    def launch() -> None:
        done = cluster_place.run(script, "--name", "mine", "-w", "2", "--detach", "--env", f"GATE={cluster_place.gate}")
        assert done.code == 0, done.err
        cluster_place.start("logs", "--on", "kubernetes", "-f", "mine").prints("worker-0 | at", "worker-1 | at")

    return launch


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_job_is_reached_beside_others_that_say_they_are_it(cluster_place, launched, when):
    """Two of them; the one that came later copies the id, too."""
    place = cluster_place
    if when == "before":
        rival(place, "chief", "0" * 16)
    launched()
    rival(place, "ps", id_of(place))
    if when == "after":
        rival(place, "chief", "0" * 16)
    listed = place.of("list", "-v")
    assert [line.split()[0] for line in listed.out.splitlines()] == ["JOB", "mine"], listed.err
    for name in ("mine-chief", "mine-ps"):
        assert f"left out: Job {name}: the Secret mine is not its own, but Job mine-worker's\n" in listed.err
    assert len(listed.err.splitlines()) == 2, "nothing of ours is left out"
    status = place.of("status", "mine", "-o", "json")
    assert [(line["replica"], line["state"]) for line in status.json["replicas"]] == [
        ("worker-0", "running"), ("worker-1", "running"),
    ]  # fmt: skip
    assert "worker-1 | at the gate" in place.of("logs", "mine").out
    place.open_gate("mine")
    assert place.of("wait", "mine").code == 0
    fetched = place.of("fetch", "mine")
    assert fetched.code == 0, fetched.err
    assert (place.runs / "mine/files/worker-1/model").read_text() == "m"
    done = place.of("delete", "mine")
    assert (done.code, done.out) == (0, "mine is deleted\n"), done.err
    assert jobs_there(place) == {"mine-chief", "mine-ps"}


def test_which_is_meant_is_not_guessed_where_no_secret_tells_and_what_to_do_is_told(cluster_place, launched):
    place = cluster_place
    launched()
    rival(place, "chief", id_of(place))
    place.kubectl("-n", place.namespace, "delete", "secret", "mine")
    for verb in ("status", "delete", "fetch", "logs"):
        done = place.of(verb, "mine")
        assert (done.code, done.out, "Traceback" in done.err) == (3, "", False), done.err
        told, hint = done.err.splitlines()
        assert "Job mine-chief" in told
        assert "Job mine-worker" in told
        assert "the Secret mine, which would show it, is gone" in told
        assert f"kubectl delete job -n {place.namespace} mine-chief" in hint
        assert f"kubectl delete job -n {place.namespace} mine-worker" in hint
    listed = place.of("list", "-v")
    assert listed.out == ""
    assert "Job mine-worker: several Jobs say that they are job mine's first" in listed.err
    assert jobs_there(place) == {"mine-chief", "mine-worker"}


def test_a_run_whose_job_is_deleted_leaves_one_that_copies_its_id(cluster_place, gate_code):
    place = cluster_place
    running = place.start_run(place.script(gate_code), "--name", "mine", "-w", "1", "--env", f"GATE={place.gate}")
    running.prints("at the gate")
    rival(place, "chief", id_of(place))
    place.kubectl("-n", place.namespace, "delete", "job", "mine-worker")
    assert running.done().code == 125
    assert jobs_there(place) == {"mine-chief"}


def test_a_job_that_is_looked_at_again_and_again_is_ours_once_it_is_there(cluster_place, launched):
    """As `top` does, which sees a rival first, while it is alone."""
    from tfspawner.backends.choice import backend_for
    from tfspawner.jobs.job import summaries

    rival(cluster_place, "chief", "0" * 16)
    backend = backend_for("kubernetes", kubeconfig=cluster_place.folder / "kubeconfig")
    assert [summary.roles for summary in summaries(backend)] == [{"chief": 1}]
    launched()
    assert [summary.roles for summary in summaries(backend)] == [{"worker": 2}]


def test_a_job_that_names_ours_as_its_owner_is_not_its_coordinator(cluster_place, launched):
    """A job's first Job has the first of its roles: one of an earlier role is not its own, whatever it says."""
    launched()
    first = get(cluster_place, "job", "mine-worker")
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "mine-worker", "uid": first["metadata"]["uid"]}
    rival(cluster_place, "chief", id_of(cluster_place), ownerReferences=[owner])
    status = cluster_place.of("status", "mine", "-o", "json")
    assert [line["replica"] for line in status.json["replicas"]] == ["worker-0", "worker-1"], status.err
    assert "Job mine-chief: " in cluster_place.of("list", "-v").err


def test_a_copy_of_a_job_by_kubectl_is_left_out_and_outlives_it(cluster_place, launched):
    """`kubectl get job -o yaml`, with another name: all its labels, its id and its pods' are a copy."""
    place = cluster_place
    launched()
    copy = get(place, "job", "mine-worker")
    copy["metadata"] = {"name": "copy-worker", "labels": copy["metadata"]["labels"],
                        "annotations": {"tf-spawner/id": id_of(place)}}  # fmt: skip
    del copy["status"], copy["spec"]["selector"]
    labels = copy["spec"]["template"]["metadata"]["labels"]
    copy["spec"]["template"]["metadata"]["labels"] = {k: v for k, v in labels.items() if "tf-spawner" in k}
    apply(place, copy)
    place.kubectl(
        "-n", place.namespace, "wait", "--for=condition=Ready", "pod", "-l", "job-name=copy-worker", "--timeout=60s"
    )
    listed = place.of("list", "-v")
    assert [line.split()[0] for line in listed.out.splitlines()] == ["JOB", "mine"], listed.err
    assert "Job copy-worker: the workers' Job of job mine is called mine-worker" in listed.err
    for verb in ("status", "logs"):
        done = place.of(verb, "mine")
        assert done.code == 0, done.err
    done = place.of("delete", "mine")
    assert done.code == 0, done.err
    assert jobs_there(place) == {"copy-worker"}


def test_pods_with_a_coordinators_labels_do_not_stand_behind_its_name(cluster_place, launched, wait_until):
    def addresses() -> set[str]:
        slices = get(cluster_place, "endpointslices", "-l", "kubernetes.io/service-name=mine")["items"]
        return {address for item in slices for end in item["endpoints"] or [] for address in end["addresses"]}

    server_pod(cluster_place, "stranger", labels_of("mine"))
    launched()
    first = "job-name=mine-worker,batch.kubernetes.io/job-completion-index=0"
    (coordinator,) = get(cluster_place, "pods", "-l", first)["items"]
    wait_until(lambda: coordinator["status"]["podIP"] in addresses(), "the coordinator behind the job's name")
    assert addresses() == {coordinator["status"]["podIP"]}


def test_objects_of_others_with_our_labels_are_neither_read_nor_deleted(cluster_place, launched):
    place = cluster_place
    launched()
    labels = OURS | labels_of("mine")
    for kind in ("Secret", "ConfigMap", "Service"):
        more = {"spec": {"ports": [{"port": 1}]}} if kind == "Service" else {}
        metadata = {"name": "other", "labels": labels, "annotations": {"tf-spawner/id": id_of(place)}}
        apply(place, {"apiVersion": "v1", "kind": kind, "metadata": metadata, **more})
    assert json.loads(place.of("status", "mine", "-o", "json").out)["phase"] == "running"
    assert place.of("delete", "mine").code == 0
    assert set(place.leftovers()) == {"secret/other", "configmap/other", "service/other"}
