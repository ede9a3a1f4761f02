"""How much tf-spawner asks of the API server, counted by a server of the test's own in between."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from between import Between, between

# How often the pods are looked at while they go depends on how long they take; and an object that the API server's
# garbage collector has removed by then is not deleted again.
VARYING = ("GET ", "DELETE ")


@pytest.fixture
def counting(cluster_place) -> Iterator[Between]:
    with between(cluster_place.folder / "kubeconfig") as server:
        yield server


def general(request: str, name: str) -> str:
    """A request without what differs from one call to the next: the job's name, versions."""
    method, address = request.split(" ", 1)
    url = urlsplit(address)
    query = urlencode([(key, value) for key, value in parse_qsl(url.query) if key != "resourceVersion"])
    return f"{method} {url.path}?{query}".replace(name, "JOB")


def test_the_requests_of_a_run_do_not_grow_with_its_replicas(cluster_place, counting):
    script = cluster_place.script("print('hi')")
    asked: dict[int, Counter[str]] = {}
    for replicas in (2, 6):
        counting.requests.clear()
        name = f"with-{replicas}"
        done = cluster_place.run(script, "-w", str(replicas), "--name", name)
        assert done.code == 0, done.err
        asked[replicas] = Counter(general(r, name) for r in counting.requests if "/proxy/" not in r)
    steady = {n: {r: c for r, c in found.items() if not r.startswith(VARYING)} for n, found in asked.items()}
    assert steady[2] == steady[6]
    looks = {n: {r for r in found if r.startswith("GET ")} for n, found in asked.items()}
    assert looks[2] == looks[6]
    assert [r for r in asked[6] if re.search(r"/pods/[^?]", r)] == []
    deletes = [r for r in asked[6].elements() if r.startswith("DELETE ")]
    assert len(deletes) <= 6, "more than one for each object"
    watches = [r for r in asked[6].elements() if "watch=1" in r]
    assert len(watches) <= 4, "pods, jobs and events, and the pods once more until all are gone"


def test_following_asks_each_agent_for_its_files_and_the_coordinator_alone_for_the_rest(cluster_place, counting):
    script = cluster_place.script("print('hi')")
    done = cluster_place.run(script, "-w", "4", "--name", "asked")
    assert done.code == 0, done.err
    agents: dict[str, Counter[str]] = {}
    for request in counting.requests:
        if match := re.search(r"^(\w+) .*/pods/asked-(worker-\d)-\w+:\d+/proxy(/\w+)", request):
            agents.setdefault(match[2], Counter())[f"{match[1]} {match[3]}"] += 1
    assert set(agents) == {f"worker-{index}" for index in range(4)}
    for replica, asked in agents.items():
        assert ("POST /stream" in asked) == (replica == "worker-0")
        assert asked["GET /files"] == 1
        assert asked.total() - asked["POST /stream"] <= 5, asked  # it is begun as often as it takes to reach the agent


def test_looking_at_jobs_takes_few_requests(cluster_place, counting):
    name = cluster_place.run(cluster_place.script("print('hi')"), "-w", "3", "--detach").out.strip()
    assert cluster_place.of("wait", name).code == 0
    counting.requests.clear()
    assert cluster_place.jobs() == [name]
    # the Jobs, the pods; for a job that has not ended by them, its token and its coordinator
    assert len(counting.requests) <= 4, counting.requests
    counting.requests.clear()
    assert cluster_place.of("status", name).code == 0
    assert len(counting.requests) <= 10, counting.requests


def test_detaching_makes_one_request_for_each_object(cluster_place, counting):
    done = cluster_place.run(cluster_place.script("print('hi')"), "-w", "3", "--detach")
    assert done.code == 0, done.err
    # may I?, 1 Job, 1 Service, 1 ConfigMap, 1 Secret, 1 NetworkPolicy, and the Job's start
    assert [request.split()[0] for request in counting.requests] == ["POST"] * 6 + ["PATCH"]
