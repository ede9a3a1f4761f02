"""Kubernetes's objects that are not quite what is expected: nothing raises, and nothing foreign becomes a replica."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

from mutating import changed, odd

from tfspawner.backends.kubernetes.capacity import (
    fits,
    gpus_offered,
    is_ready,
    labels_of,
    quota_shortfalls,
    requests_of,
)
from tfspawner.backends.kubernetes.news import News
from tfspawner.backends.kubernetes.objects import LeftOut, ReplicaPod, read_job, read_jobs, read_pod
from tfspawner.backends.kubernetes.pods import explain_failed_create, observe, observe_event
from tfspawner.cli.doctor import _free

# As a real API server gave them (Kubernetes 1.36), shortened: a job, its pods, a warning, a node, a quota.
REAL = json.loads(Path(__file__).with_name("objects.json").read_text())
JOBS, PODS, EVENTS, NODES, QUOTAS = (REAL[kind] for kind in ("jobs", "pods", "events", "nodes", "quotas"))


def test_the_real_objects_are_read():
    (launched,), left_out = read_jobs(JOBS)
    assert not left_out
    assert launched.summary("here").roles == {"worker": 2, "ps": 1} | {"chief": 1}
    read = [read_pod(pod, launched.uids) for pod in PODS]
    assert {pod.replica for pod in read if isinstance(pod, ReplicaPod)} == {"chief-0", "worker-0", "worker-1", "ps-0"}
    assert {observe("worker-0", pod).state for pod in PODS} == {"starting"}
    assert all(map(observe_event, EVENTS))
    assert fits(NODES, PODS, PODS[0]["spec"], 1) is None
    assert quota_shortfalls(QUOTAS, [({"pods": 1.0}, 1000)])


def test_changed_jobs_are_read_or_left_out(fuzz):
    for rng in fuzz.rounds(600):
        found, left_out = read_jobs([changed(job, rng) if rng.random() < 0.7 else job for job in JOBS])
        for launched in found:
            summary = launched.summary("here")
            assert len(summary.replicas) <= 400_000
            assert summary.state in ("failed", "succeeded", "queued", "incomplete", "running", "pending")
            assert math.isfinite(summary.created)
        for stranger in left_out:
            assert str(stranger).isprintable(), str(stranger)
            assert len(str(stranger)) < 1000
        assert len(found) + len(left_out) <= len(JOBS)


def test_changed_pods_are_replicas_that_the_job_has_or_left_out(fuzz):
    (launched,), _ = read_jobs(JOBS)
    replicas = set(launched.summary("here").replicas)
    for rng in fuzz.rounds(600):
        pod = changed(rng.choice(PODS), rng)
        read = read_pod(pod, launched.uids)
        if isinstance(read, LeftOut):
            assert str(read).isprintable()
        else:
            assert read.replica in replicas
            assert "/" not in read.name
            assert ".." not in read.name.split("/")
        seen = observe("worker-0", pod if isinstance(pod, dict) else {})
        assert all(isinstance(word, str) for word in (seen.state, seen.message, seen.node))


def test_the_watches_bring_anything_and_only_the_jobs_replicas_are_told_of(fuzz):
    (launched,), _ = read_jobs(JOBS)
    replicas = {None, *launched.summary("here").replicas}
    for rng in fuzz.rounds(120):
        news = News(launched, {})
        things = [("job", job) for job in JOBS] + [("pod", pod) for pod in PODS] + [("event", e) for e in EVENTS]
        rng.shuffle(things)
        for kind, thing in things * 2:
            thing = changed(thing, rng) if rng.random() < 0.5 else copy.deepcopy(thing)
            event = {"type": rng.choice(("ADDED", "MODIFIED", "DELETED", odd(rng))), "object": thing}
            for seen in news.read(kind, changed(event, rng) if rng.random() < 0.1 else event):
                assert seen.replica in replicas
                assert isinstance(seen.message, str)
        assert set(news.pods) <= replicas


def test_changed_events_are_told_or_not(fuzz):
    for rng in fuzz.rounds(300):
        told = observe_event(changed(rng.choice(EVENTS), rng))
        if told:
            text, hint = explain_failed_create(told[1])
            assert isinstance(text, str)
            assert hint is None or isinstance(hint, str)


def test_changed_nodes_pods_and_quotas_are_counted_or_left_out(fuzz):
    """As preflight and doctor count them."""
    for rng in fuzz.rounds(400):
        nodes, pods = ([changed(rng.choice(kind), rng) for _ in range(3)] for kind in (NODES, PODS))
        nodes, pods = ([item for item in kind if isinstance(item, dict)] for kind in (nodes, pods))
        quotas = [quota for quota in (changed(rng.choice(QUOTAS), rng),) if isinstance(quota, dict)]
        told = fits([*NODES, *nodes], pods, PODS[0]["spec"], 2)
        assert told is None or isinstance(told, str)
        assert isinstance(gpus_offered(nodes, pods), str)
        assert isinstance(labels_of("A100", nodes), dict)
        assert all(isinstance(text, str) for text in quota_shortfalls(quotas, [(requests_of(PODS[0]["spec"]), 3)]))
        free = _free([node for node in nodes if is_ready(node)], pods)
        assert all(math.isfinite(value) for value in free.values())
        pod_spec = changed(PODS[0]["spec"], rng)
        told = fits(NODES, PODS, pod_spec if isinstance(pod_spec, dict) else {}, 1)
        assert told is None or isinstance(told, str)


def test_a_changed_job_is_never_read_with_another_name_than_its_own(fuzz):
    for rng in fuzz.rounds(300):
        read = read_job(changed(rng.choice(JOBS), rng))
        if not isinstance(read, LeftOut):
            assert read.name == f"{read.job}-{read.role}"
            assert read.id
