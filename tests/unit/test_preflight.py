"""Quotas and room on the nodes, from objects as the API server gives them."""

from __future__ import annotations

from tfspawner.preflight import fits, quota_shortfalls, requests_of


def pod(node="", phase="Running", **resources):
    return {
        "spec": {"nodeName": node, "containers": [{"resources": {"requests": resources}}]},
        "status": {"phase": phase},
    }


def node(name, taints=(), labels=None, ready="True", unschedulable=False, **allocatable):
    return {
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {"taints": list(taints), "unschedulable": unschedulable},
        "status": {"allocatable": {"pods": "110", **allocatable}, "conditions": [{"type": "Ready", "status": ready}]},
    }


WANTS = {"containers": [{"resources": {"limits": {"cpu": "2", "memory": "4Gi", "nvidia.com/gpu": "1"}}}]}


def test_requests_are_those_of_all_containers_and_of_the_largest_init_container():
    spec = {
        "containers": [{"resources": {"requests": {"cpu": "500m"}}}, {"resources": {"limits": {"cpu": "1"}}}, {}],
        "initContainers": [{"resources": {"requests": {"cpu": "4", "memory": "1Gi"}}}],
    }
    assert requests_of(spec) == {"cpu": 4.0, "memory": 1024.0**3, "pods": 1.0}


def test_a_quota_is_held_against_all_pods_of_the_job():
    quota = {
        "metadata": {"name": "team"}, "spec": {},
        "status": {"hard": {"requests.cpu": "10", "pods": "20"}, "used": {"requests.cpu": "3500m", "pods": "1"}},
    }  # fmt: skip
    assert quota_shortfalls([quota], [({"cpu": 2.0, "pods": 1.0}, 3)]) == []
    assert quota_shortfalls([quota], [({"cpu": 2.0, "pods": 1.0}, 4)]) == [
        "quota team leaves 6.5 of 10 requests.cpu, and the job asks for 8"
    ]
    assert "19 of 20 pods" in quota_shortfalls([quota], [({"pods": 1.0}, 20)])[0]


def test_a_quota_for_some_pods_alone_is_left_to_the_cluster():
    quota = {"metadata": {"name": "best"}, "spec": {"scopes": ["BestEffort"]}, "status": {"hard": {"pods": "0"}}}
    assert quota_shortfalls([quota], [({"pods": 1.0}, 3)]) == []


def test_pods_fit_where_all_that_they_ask_for_is_free():
    nodes = [
        node("a", cpu="8", memory="32Gi", **{"nvidia.com/gpu": "2"}),
        node("b", cpu="3", memory="32Gi", **{"nvidia.com/gpu": "8"}),
    ]
    assert fits(nodes, [], WANTS, 3) is None
    assert fits(nodes, [pod("a", phase="Succeeded", cpu="8")], WANTS, 3) is None
    told = fits(nodes, [pod("a", cpu="6500m")], WANTS, 3)
    assert told.startswith("1 of 3 pods fit now, each asking for 2 cpu, 4Gi memory, 1 nvidia.com/gpu")
    assert "1 node: room for 0, lacking cpu" in told


def test_why_nodes_are_none_for_these_pods_is_told():
    nodes = [
        node("a", taints=[{"key": "gpu", "value": "yes", "effect": "NoSchedule"}], cpu="8"),
        node("b", ready="False", cpu="8"), node("c", unschedulable=True, cpu="8"), node("d", cpu="8"),
    ]  # fmt: skip
    wants = {**WANTS, "nodeSelector": {"pool": "gpu"}}
    assert "4 nodes: without the label pool=gpu" in fits(nodes, [], wants, 1)
    told = fits(nodes[:3], [], {"containers": [{}]}, 1)
    assert all(reason in told for reason in ("tainted gpu:NoSchedule", "not ready", "cordoned"))


def test_tolerations_are_kubernetess():
    tainted = [node("a", taints=[{"key": "gpu", "value": "yes", "effect": "NoSchedule"}])]
    for toleration in ({"operator": "Exists"}, {"key": "gpu", "operator": "Exists"}, {"key": "gpu", "value": "yes"}):
        assert fits(tainted, [], {"containers": [{}], "tolerations": [toleration]}, 1) is None
    for toleration in ({"key": "gpu", "value": "no"}, {"key": "gpu", "operator": "Exists", "effect": "NoExecute"}):
        assert fits(tainted, [], {"containers": [{}], "tolerations": [toleration]}, 1)
