"""What others put into the namespace under a job's labels and names: it is left out, named, never asked, never deleted."""

from __future__ import annotations

import base64
import json

import pytest
from strangers import apply, asked, get, job_like, labels_of, server_pod

OURS = {"app.kubernetes.io/managed-by": "tf-spawner"}
INDEXED = {"completionMode": "Indexed", "completions": 1}


@pytest.fixture
def at_the_gate(cluster_place, gate_code):
    """A job called mine, of two workers that wait at their gates, followed by the run that launched it."""
    script = cluster_place.script(
        gate_code + "import os\nopen(os.environ['TFSPAWNER_OUTPUT'] + '/model', 'w').write('m')"
    )
    running = cluster_place.start_run(script, "--name", "mine", "-w", "2", "--env", f"GATE={cluster_place.gate}")
    running.prints("worker-0 | at the gate", "worker-1 | at the gate")
    return running


def token_of(place, secret: str) -> str:
    return base64.b64decode(get(place, "secret", secret)["data"]["TFSPAWNER_TOKEN"]).decode()


def test_jobs_with_our_labels_and_without_the_rest_are_left_out_named_and_never_deleted(cluster_place, at_the_gate):
    apply(cluster_place, job_like("bare", OURS | {"tf-spawner/job": "bare"}))
    apply(cluster_place, job_like("not-indexed-worker", OURS | labels_of("not-indexed"), {"tf-spawner/id": "0" * 16}))
    apply(cluster_place, job_like("no-id", OURS | {"tf-spawner/job": "mine"}, **INDEXED))
    huge = {"completionMode": "Indexed", "completions": 2**31 - 1, "parallelism": 1}
    apply(cluster_place, job_like("huge-worker", OURS | labels_of("huge"), {"tf-spawner/id": "0" * 16}, **huge))
    done = cluster_place.of("list")
    assert (done.code, [line.split()[0] for line in done.out.splitlines()]) == (0, ["JOB", "mine"])
    assert done.err == "4 objects left out: tf-spawner list -v\n"
    told = cluster_place.of("list", "-v").err
    assert (
        "left out: Job bare: its label tf-spawner/role" in told
        or "left out: Job bare: it has no label tf-spawner/role" in told
    )
    for words in (
        "Job not-indexed-worker: it is not an Indexed Job",
        "Job no-id: ",
        "Job huge-worker: it has 2147483647 completions",
    ):
        assert words in told
    for name in ("bare", "huge", "not-indexed"):
        for verb in ("status", "delete", "logs"):
            done = cluster_place.of(verb, name)
            assert (done.code, "Traceback" in done.err) == (3, False), done.err
            assert f"there is no job '{name}'" in done.err
            assert "tf-spawner list -v" in done.err
    assert cluster_place.of("delete", "--all", "-y").out == "mine is deleted; its files were not fetched and are lost\n"
    assert {item["metadata"]["name"] for item in get(cluster_place, "jobs")["items"]} == {
        "bare", "not-indexed-worker", "no-id", "huge-worker",
    }  # fmt: skip


def test_a_pod_with_a_jobs_labels_gets_no_token_and_its_end_ends_no_job(cluster_place, at_the_gate):
    """Neither one that says it is a replica, nor one that names the job's Job as an owner that did not make it."""
    (job,) = get(cluster_place, "jobs")["items"]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "mine-worker", "uid": job["metadata"]["uid"]}
    server_pod(cluster_place, "stranger", labels_of("mine"))
    server_pod(cluster_place, "claims", labels_of("mine", index="1"), ownerReferences=[owner])
    server_pod(cluster_place, "no-such-index", labels_of("mine", index="7"))
    server_pod(cluster_place, "of-no-role", labels_of("mine", role="cook"))
    names = ["claims", "no-such-index", "of-no-role", "stranger"]
    for verb in ("status", "logs"):
        done = cluster_place.of(verb, "mine")
        assert done.code == 0, done.err
        assert verb == "status" or "at the gate" in done.out
    fetched = cluster_place.of("fetch", "mine", "--keep", "--out", cluster_place.folder / "fetched")
    assert fetched.code == 0, fetched.err
    told = cluster_place.of("list", "-v").err.splitlines()
    assert sorted(line.split(":")[1] for line in told) == [f" Pod {name}" for name in names]
    assert {name: asked(cluster_place, name) for name in names} == {name: [] for name in names}
    cluster_place.kubectl("-n", cluster_place.namespace, "delete", "pod", *names, "--wait")
    cluster_place.open_gate("mine")
    done = at_the_gate.done()
    assert done.code == 0, done.err
    assert (cluster_place.runs / "mine/files/worker-0/model").read_text() == "m"
    assert cluster_place.leftovers() == []


def test_a_run_follows_its_own_job_to_the_end_beside_one_that_copies_its_id(cluster_place, at_the_gate):
    """The launcher knows the uid that it made, whatever becomes of the Secret that tells it to others."""
    (mine,) = get(cluster_place, "jobs")["items"]
    id = mine["metadata"]["annotations"]["tf-spawner/id"]
    apply(cluster_place, job_like("mine-chief", OURS | labels_of("mine", "chief"), {"tf-spawner/id": id}, **INDEXED))
    cluster_place.kubectl("-n", cluster_place.namespace, "delete", "secret", "mine")
    cluster_place.open_gate("mine")
    done = at_the_gate.done()
    assert done.code == 0, done.err
    assert [item["metadata"]["name"] for item in get(cluster_place, "jobs")["items"]] == ["mine-chief"]


def test_a_job_that_is_owned_by_another_is_no_role_of_this_one(cluster_place, at_the_gate):
    (mine,) = get(cluster_place, "jobs")["items"]
    id = mine["metadata"]["annotations"]["tf-spawner/id"]
    config = apply(cluster_place, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "another"}})
    foreign = job_like("mine-ps", OURS | labels_of("mine", "ps"), {"tf-spawner/id": id}, **INDEXED)
    foreign["metadata"]["ownerReferences"] = [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "another", "uid": config["metadata"]["uid"]}
    ]
    apply(cluster_place, foreign)
    assert [line["replica"] for line in cluster_place.of("status", "mine", "-o", "json").json["replicas"]] == [
        "worker-0",
        "worker-1",
    ]
    assert cluster_place.of("delete", "mine").code == 0
    assert [item["metadata"]["name"] for item in get(cluster_place, "jobs")["items"]] == ["mine-ps"]
    assert at_the_gate.done().code != 0


def test_no_token_is_taken_from_a_secret_that_the_job_does_not_own(cluster_place, at_the_gate):
    manifest = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "mine"},
        "stringData": {"TFSPAWNER_TOKEN": "x" * 32},
    }
    cluster_place.kubectl("-n", cluster_place.namespace, "delete", "secret", "mine")
    apply(cluster_place, manifest)
    for words in (("status",), ("fetch", "--out", "elsewhere"), ("logs",)):
        done = cluster_place.of(*words, "mine")
        assert (done.code, "Traceback" in done.err) == (3, False), done.err
        assert "the Secret mine" in done.err
        assert "is not job mine's" in done.err
    assert "Secret mine: job mine does not own it" in cluster_place.of("list", "-v").err
    cluster_place.open_gate("mine")
    assert at_the_gate.done().code == 0, "the launcher has its token in memory"
    assert [n for n in cluster_place.leftovers() if "secret" in n] == ["secret/mine"], "it is not ours to delete"


def test_no_token_is_taken_from_an_owned_secret_that_was_changed(cluster_place, at_the_gate):
    secret = get(cluster_place, "secret", "mine")
    owners = secret["metadata"]["ownerReferences"]
    cluster_place.kubectl("-n", cluster_place.namespace, "delete", "secret", "mine")
    apply(cluster_place, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mine", "ownerReferences": owners},
                          "stringData": {"TFSPAWNER_TOKEN": "x" * 32}})  # fmt: skip
    done = cluster_place.of("status", "mine")
    assert (done.code, "does not hold the token of job mine" in done.err) == (3, True), done.err


def test_foreign_objects_under_a_jobs_name_outlive_it(cluster_place, at_the_gate):
    for kind in ("service", "networkpolicy"):
        cluster_place.kubectl("-n", cluster_place.namespace, "delete", kind, "mine")
    apply(
        cluster_place,
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "mine"}, "spec": {"ports": [{"port": 1}]}},
    )
    assert "Service mine: job mine does not own it" in cluster_place.of("list", "-v").err
    cluster_place.open_gate("mine")
    assert at_the_gate.done().code == 0
    assert cluster_place.leftovers() == ["service/mine"]


@pytest.fixture
def launched(cluster_place, gate_code):
    """A function that launches a job called again, which waits at its gate, and returns."""
    script = cluster_place.script(gate_code)

    def launch() -> None:
        done = cluster_place.run(
            script, "--name", "again", "-w", "1", "--detach", "--env", f"GATE={cluster_place.gate}"
        )
        assert done.code == 0, done.err
        cluster_place.kubectl("-n", cluster_place.namespace, "wait", "--for=condition=Ready", "pod",
                              "-l", "tf-spawner/job=again", "--timeout=60s")  # fmt: skip

    return launch


def test_one_backend_lists_a_later_job_of_the_same_name_and_reaches_it(cluster_place, launched, wait_until):
    """As `top` does, which looks again and again."""
    from tfspawner.backends.choice import backend_for
    from tfspawner.jobs.job import summaries

    backend = backend_for("kubernetes", kubeconfig=cluster_place.folder / "kubeconfig")
    ids = []
    for _ in range(2):
        launched()
        wait_until(lambda: summaries(backend)[0].brief, "an answer of its coordinator, to its own token")
        (summary,) = summaries(backend)
        ids.append(summary.id)
        assert cluster_place.of("delete", "again").code == 0
    assert ids[0] != ids[1]


def test_the_api_server_stores_the_egress_that_was_asked_for(cluster_place, gate_code):
    done = cluster_place.run(cluster_place.script("print('hi')"), "--name", "out", "-w", "2", "--keep",
                             "--egress", "192.0.2.0/24:443", "--egress", "2001:db8::/32")  # fmt: skip
    assert done.code == 0, done.err
    spec = get(cluster_place, "networkpolicy", "out")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    own, names, *named = spec["egress"]
    assert own == {"to": [{"podSelector": {"matchLabels": {"tf-spawner/job": "out"}}}]}
    assert {json.dumps(port, sort_keys=True) for port in names["ports"]} == {
        '{"port": 53, "protocol": "TCP"}', '{"port": 53, "protocol": "UDP"}',
    }  # fmt: skip
    assert named == [
        {"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}], "ports": [{"port": 443, "protocol": "TCP"}]},
        {"to": [{"ipBlock": {"cidr": "2001:db8::/32"}}]},
    ]
