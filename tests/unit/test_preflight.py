"""Quotas and room on the nodes, from objects as the API server gives them."""

from __future__ import annotations

import pytest

from tfspawner.backends.gpu_types import GPU_PRODUCT, is_product
from tfspawner.backends.kubernetes.capacity import (
    GPU,
    fits,
    gpus_offered,
    labels_of,
    quota_shortfalls,
    requests_of,
    require_nodes,
)


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


# ---- GPUs and their products -----------------------------------------------------------------------

GKE = "cloud.google.com/gke-accelerator"
A100, T4 = {GPU_PRODUCT: "NVIDIA-A100-SXM4-40GB"}, {GPU_PRODUCT: "Tesla-T4"}
POOL = [
    node("a", labels=A100, **{GPU: "2"}),
    node("b", labels={GPU_PRODUCT: "NVIDIA-A100-SXM4-80GB"}, **{GPU: "4"}),
    node("c", labels={GKE: "nvidia-tesla-a100", "x": "y"}, taints=[{"key": GPU, "effect": "NoSchedule"}], **{GPU: "1"}),
    node("d", labels=T4, **{GPU: "4"}),
    node("e", labels=T4, **{GPU: "1"}),
    node("f", labels={GPU_PRODUCT: "NVIDIA-H100-80GB-HBM3"}, ready="False", **{GPU: "8"}),
    node("g", **{GPU: "1"}),
    node("h"),
]


@pytest.mark.parametrize(
    ("asked", "product", "fits"),
    [
        ("a100", "NVIDIA-A100-SXM4-40GB", True),
        ("A100", "NVIDIA A100-SXM4-40GB", True),
        ("A100-40GB", "NVIDIA-A100-SXM4-40GB", True),
        ("A100 80gb", "NVIDIA-A100-SXM4-40GB", False),
        ("t4", "Tesla-T4", True),
        ("nvidia-l4", "nvidia-l4", True),
        ("L4", "NVIDIA-L40S", False),
        ("A10", "NVIDIA-A100-SXM4-40GB", False),
        ("A100", "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb", False),
        ("a100-mig-1g.5gb", "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb", True),
        ("T4", "Tesla-T4-SHARED", False),
        ("T4-SHARED", "Tesla-T4-SHARED", True),
        (None, "Tesla-T4", True),
    ],
)
def test_a_product_is_known_by_words_of_its_name(asked, product, fits):
    assert is_product(asked, product) is fits


def test_the_labels_of_all_nodes_with_such_gpus_are_found_whoever_set_them():
    assert labels_of("a100", POOL) == {
        GPU_PRODUCT: ("NVIDIA-A100-SXM4-40GB", "NVIDIA-A100-SXM4-80GB"), GKE: ("nvidia-tesla-a100",)
    }  # fmt: skip
    assert labels_of("v100", POOL) == {}
    assert labels_of("t4", [node("x", labels=T4)]) == {}  # whose device plugin is away


def test_the_gpus_that_are_offered_are_told_by_product_with_what_is_free_and_what_keeps_pods_away():
    told = gpus_offered(POOL, [pod("a", **{GPU: "1"}), pod("d", **{GPU: "3"}), pod("d", phase="Failed", **{GPU: "1"})])
    assert told.split(", ", 1)[0] == "2 NVIDIA-A100-SXM4-40GB on 1 node (1 free)"
    assert "1 nvidia-tesla-a100 on 1 node (1 free, tainted nvidia.com/gpu:NoSchedule)" in told
    assert "5 Tesla-T4 on 2 nodes (2 free)" in told
    assert told.endswith(", 1 of unknown kind on 1 node (1 free)")
    assert "H100" not in told
    assert gpus_offered([node("h")], []) == ""


def test_only_nodes_of_the_product_count_as_room_and_what_there_is_is_told():
    wants = {"containers": [{"resources": {"limits": {GPU: "4"}}}]}
    assert fits(POOL, [], wants, 2) is None
    require_nodes(wants, labels_of("a100", POOL))
    told = fits(POOL, [], wants, 2)
    assert told.startswith("1 of 2 pods fit now, each asking for 4 nvidia.com/gpu (")
    for reason in (
        "2 nodes: with other GPUs (Tesla-T4)",
        "1 node: room for 0, lacking nvidia.com/gpu",
        "1 node: tainted nvidia.com/gpu:NoSchedule, to be tolerated by --toleration",
        "GPUs there: 2 NVIDIA-A100-SXM4-40GB on 1 node (2 free), 4 NVIDIA-A100-SXM4-80GB on 1 node (4 free)",
    ):
        assert reason in told
    wants["tolerations"] = [{"key": GPU, "operator": "Exists"}]
    wants["containers"][0]["resources"]["limits"][GPU] = "1"
    assert fits(POOL, [], wants, 7) is None
    assert fits(POOL, [], wants, 8).startswith("7 of 8")


@pytest.mark.parametrize("affinity", [None, {"nodeAffinity": None}, {"podAntiAffinity": {"mine": []}}])
def test_a_product_is_asked_for_by_the_pods_node_affinity(affinity):
    spec = {"affinity": affinity}
    require_nodes(spec, {GPU_PRODUCT: ("a", "b"), GKE: ("c",)})
    terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert [term["matchExpressions"] for term in terms] == [
        [{"key": GPU_PRODUCT, "operator": "In", "values": ["a", "b"]}], [{"key": GKE, "operator": "In", "values": ["c"]}]
    ]  # fmt: skip
    assert spec["affinity"].get("podAntiAffinity") == (affinity or {}).get("podAntiAffinity")


def test_the_pods_own_node_affinity_is_kept_and_counts_as_well():
    zone = {"key": "zone", "operator": "NotIn", "values": ["far"]}
    other = {"key": "spot", "operator": "Exists"}
    required = {"nodeSelectorTerms": [{"matchExpressions": [zone]}, {"matchExpressions": [other]}]}
    spec = {
        "containers": [{"resources": {"limits": {GPU: "1"}}}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}},
    }
    require_nodes(spec, {GPU_PRODUCT: ("Tesla-T4",)})
    near, far = node("a", labels=T4, **{GPU: "1"}), node("b", labels={**T4, "zone": "far"}, **{GPU: "1"})
    spot = node("c", labels={**T4, "zone": "far", "spot": ""}, **{GPU: "1"})
    assert fits([near], [], spec, 1) is None
    assert fits([spot], [], spec, 1) is None
    assert fits([far], [], spec, 1)
    assert fits([node("d", **{GPU: "1"})], [], spec, 1)


def test_a_node_that_says_nothing_or_odd_things_of_itself_has_no_room_and_the_others_count():
    odd = [{}, {"metadata": {"name": "bare"}}, node("odd", cpu="many", memory=None), node("less", cpu="-1"),
           {**node("null"), "status": None}, {**node("lists"), "spec": {"taints": [None, "x", {}]}}]  # fmt: skip
    good = node("good", cpu="64", memory="1Ei")
    wanted = {"containers": [{"resources": {"limits": {"cpu": "2"}}}]}
    assert fits([*odd, good], [], wanted, 32) is None
    assert "32 of 33 pods fit now" in fits([*odd, good], [], wanted, 33)


def test_a_pod_whose_requests_cannot_be_read_takes_none_of_the_room():
    pods = [
        {},
        {"spec": {"nodeName": "good"}},
        pod("good", cpu="lots", memory="1"),
        {"spec": {"nodeName": "good", "containers": [None]}},
    ]
    assert fits([node("good", cpu="4")], pods, {"containers": [{"resources": {"limits": {"cpu": "4"}}}]}, 1) is None


def test_a_quota_whose_numbers_cannot_be_read_refuses_nothing():
    quotas = [
        {},
        {"status": {"hard": {"pods": "some"}}},
        {"status": {"hard": ["pods"]}},
        {"spec": None, "status": None},
    ]
    assert quota_shortfalls(quotas, [({"pods": 1.0}, 3)]) == []
