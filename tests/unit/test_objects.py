"""Which Jobs and pods are a job's, and what is left out with its reason."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tfspawner.backends.kubernetes.backend import KubernetesBackend
from tfspawner.backends.kubernetes.manifests import ID, JOB_LABEL, render
from tfspawner.backends.kubernetes.news import News
from tfspawner.backends.kubernetes.objects import LeftOut, RoleJob, read_job, read_jobs, read_pod
from tfspawner.errors import NotFoundError

CREATED = "2026-11-29T20:00:00Z"


@pytest.fixture
def jobs(make_fixed_plan) -> list[dict[str, Any]]:
    """A chief's, two workers' and a parameter server's Job, as the API server stores them; the first owns the others."""
    made = [m for m in render(make_fixed_plan("digits", chief=True, workers=2, ps=1)) if m["kind"] == "Job"]
    for number, job in enumerate(made):
        job["metadata"].update(uid=f"uid-{number}", creationTimestamp=CREATED)
        if number:
            job["metadata"]["ownerReferences"] = [{"kind": "Job", "name": "digits-chief", "uid": "uid-0"}]
    return made


def pod(owner: str, index: str, *, name: str = "digits-worker-0-abcde", uid: str = "pod-0") -> dict[str, Any]:
    labels = {JOB_LABEL: "digits", "tf-spawner/role": "worker", "batch.kubernetes.io/job-completion-index": index}
    owners = [{"kind": "Job", "name": "digits-worker", "uid": owner, "controller": True}]
    return {
        "metadata": {
            "name": name,
            "uid": uid,
            "labels": labels,
            "ownerReferences": owners,
            "creationTimestamp": CREATED,
        }
    }


def test_the_jobs_of_all_roles_are_one_job(jobs):
    found, left_out = read_jobs(reversed(jobs))
    assert not left_out
    (launched,) = found
    summary = launched.summary("here")
    assert (summary.job, summary.roles, summary.state) == ("digits", {"chief": 1, "worker": 2, "ps": 1}, "incomplete")
    assert (launched.first.uid, summary.id, summary.created) == ("uid-0", launched.first.id, 1795982400)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda m: m["metadata"]["labels"].pop(JOB_LABEL), "it has no label tf-spawner/job"),
        (lambda m: m["metadata"]["labels"].update({JOB_LABEL: "A.b"}), "label tf-spawner/job is 'A.b', not a job's name"),
        (lambda m: m["metadata"]["labels"].update({"tf-spawner/role": "cook"}), "label tf-spawner/role is 'cook', not a role"),
        (lambda m: m["metadata"]["labels"].pop("tf-spawner/role"), "it has no label tf-spawner/role"),
        (lambda m: m["metadata"].pop("annotations"), f"it has no annotation {ID}"),
        (lambda m: m["metadata"].update(name="other"), "the chiefs' Job of job digits is called digits-chief"),
        (lambda m: m["spec"].pop("completions"), "it is not an Indexed Job"),
        (lambda m: m["spec"].update(completionMode="NonIndexed"), "it is not an Indexed Job"),
        (lambda m: m["spec"].update(completions=0), "it has 0 completions"),
        (lambda m: m["spec"].update(completions=2**31 - 1), "it has 2147483647 completions, and 1 to 100,000"),
        (lambda m: m["metadata"].pop("creationTimestamp"), "no time of its creation"),
    ],
)  # fmt: skip
def test_a_job_that_is_not_as_tf_spawner_makes_them_is_left_out_with_the_reason(jobs, change, why):
    change(jobs[0])
    read = read_job(jobs[0])
    assert isinstance(read, LeftOut)
    assert why in str(read)
    found, left_out = read_jobs(jobs)
    assert found == [], "what its first Job owned has no first Job"
    assert len(left_out) == 3


def test_a_jobs_name_is_shown_without_what_a_terminal_would_obey(jobs):
    jobs[0]["metadata"]["name"] = "x\x1b[2J"
    assert "\x1b" not in str(read_job(jobs[0]))


@pytest.mark.parametrize("owner", ["another", ""])
def test_a_job_that_copies_labels_and_id_belongs_only_to_what_owns_it(jobs, owner):
    stranger = copy.deepcopy(jobs[1])
    stranger["metadata"].update(name="digits-evaluator", uid="uid-9")
    stranger["metadata"]["labels"]["tf-spawner/role"] = "evaluator"
    stranger["metadata"]["ownerReferences"] = [{"uid": owner}]
    found, left_out = read_jobs([stranger, *jobs])
    assert "evaluator" not in next(job for job in found if job.first.uid == "uid-0").summary("here").roles
    assert [str(left) for left in left_out] == (
        ["Job digits-evaluator: its owner is not the first Job of job digits"] if owner else []
    )
    assert len(found) == (1 if owner else 2), "one without an owner says that it is a job of its own"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"owner": "uid-9"}, "its owner is none of the job's Jobs"),
        ({"index": "2"}, "its index is 2, and job digits has 2 workers"),
        ({"index": "7"}, "its index is 7"),
        ({"index": "-1"}, "its index is '-1'"),
        ({"index": "00"}, "its index is '00'"),
        ({"index": "²"}, "its index is '²'"),
        ({"index": ""}, "it has no index"),
        ({"name": "../secrets/digits"}, "it has no name or no uid"),
    ],
)
def test_a_pod_is_a_replica_by_its_jobs_uid_and_an_index_that_the_job_has(jobs, changed, why):
    (launched,) = read_jobs(jobs)[0]
    good = {"owner": "uid-1", "index": "1"}
    assert read_pod(pod(**good), launched.uids).replica == "worker-1"
    read = read_pod(pod(**good | changed), launched.uids)
    assert isinstance(read, LeftOut)
    assert why in read.why


def test_an_owner_that_does_not_control_a_pod_did_not_make_it(jobs):
    (launched,) = read_jobs(jobs)[0]
    copied = pod("uid-1", "0")
    copied["metadata"]["ownerReferences"][0]["controller"] = False
    assert read_pod(copied, launched.uids).why == "no Job made it"


@pytest.fixture
def news(jobs):
    (launched,) = read_jobs(jobs)[0]
    return News(launched, {})


def test_a_job_has_succeeded_once_all_its_jobs_are_complete_those_too_that_came_after_it_was_read(jobs):
    first, later, _ = jobs
    (launched,) = read_jobs([first])[0]
    news = News(launched, {})

    def told(manifest, *condition):
        manifest["status"] = {"conditions": [{"type": kind, "status": "True"} for kind in condition]}
        seen = list(news.read("job", {"type": "MODIFIED", "object": manifest}))
        return [(one.replica, one.state) for one in seen]

    assert told(first) == told(later) == []
    assert told(first, "Complete") == []
    assert told(later, "Complete") == [(None, "succeeded")]


def test_pods_that_come_before_their_job_are_told_once_it_is_there(news, jobs):
    assert list(news.read("pod", {"type": "ADDED", "object": pod("uid-1", "0")})) == []
    seen = list(news.read("job", {"type": "ADDED", "object": jobs[1]}))
    assert [(o.replica, o.state) for o in seen] == [("worker-0", "pending")]
    assert news.pods == {"worker-0": "digits-worker-0-abcde"}


def test_foreign_pods_and_jobs_change_nothing_when_they_come_fail_or_go(news, jobs):
    for job in jobs:
        list(news.read("job", {"type": "ADDED", "object": job}))
    list(news.read("pod", {"type": "ADDED", "object": pod("uid-1", "0")}))
    stranger = pod("uid-9", "0", name="stranger", uid="pod-9")
    bare = pod("", "7", name="bare", uid="pod-8")
    failed = {"phase": "Failed"}
    foreign = copy.deepcopy(jobs[1])
    foreign["metadata"].update(uid="uid-9", ownerReferences=[], name="digits-evaluator")
    foreign["metadata"]["labels"]["tf-spawner/role"] = "evaluator"
    foreign["status"] = {"conditions": [{"type": "Failed", "status": "True", "message": "foreign"}]}
    for change in ("ADDED", "MODIFIED", "DELETED"):
        for thing in (stranger, bare):
            assert list(news.read("pod", {"type": change, "object": thing | {"status": failed}})) == []
        assert list(news.read("job", {"type": change, "object": foreign})) == []
    assert news.pods == {"worker-0": "digits-worker-0-abcde"}


def test_events_of_objects_that_never_come_are_forgotten_after_a_while(news):
    for number in range(5000):
        event = {"reason": "FailedMount", "message": "no", "involvedObject": {"uid": f"other-{number % 2500}"}}
        assert list(news.read("event", {"type": "ADDED", "object": event})) == []
    assert len(news.unclaimed) <= 1000


def test_the_first_job_is_of_the_first_role(jobs):
    assert isinstance(read_job(jobs[0]), RoleJob)
    assert [role.role for role in read_jobs(jobs)[0][0].roles] == ["chief", "worker", "ps"]


@pytest.mark.parametrize("name", ["../secrets/x", "a,b=c", "a/b", "%2e%2e", "a;b", "a\n", "", "A"])
def test_what_is_no_jobs_name_never_comes_into_a_path(name):
    backend = KubernetesBackend(namespace=None, context=None, kubeconfig=None)
    for verb in (backend.find, lambda job: backend.agent(job, "worker-0"), lambda job: backend.delete(job, 1)):
        with pytest.raises(NotFoundError, match="not a job's name"):
            verb(name)
