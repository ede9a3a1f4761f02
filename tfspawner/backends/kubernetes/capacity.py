"""Whether a job fits into a cluster's quotas and onto its nodes, before launch. Pure: values in, values out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tfspawner.backends.gpu_types import GPU_PRODUCT, is_product
from tfspawner.base.fields import mapping, mappings, names, text, texts
from tfspawner.plan.checks import quantity

Manifest = dict[str, Any]
ENDED = ("Succeeded", "Failed")
GPU = "nvidia.com/gpu"
# The node labels that name a node's GPUs. AKS's kubernetes.azure.com/accelerator is no use: it just says "nvidia".
PRODUCT_LABELS = (
    GPU_PRODUCT,
    "cloud.google.com/gke-accelerator",
    "k8s.amazonaws.com/accelerator",
    "karpenter.k8s.aws/instance-gpu-name",
    "eks.amazonaws.com/instance-gpu-name",
    "karpenter.azure.com/sku-gpu-name",
)
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
MOST_PLACES = 1_000_000  # pods on one node: more than any node takes
Object = Mapping[str, Any]
_HARD_TAINTS = ("NoSchedule", "NoExecute")


def requests_of(pod_spec: Mapping[str, Any]) -> dict[str, float]:
    """What a whole pod requests: {"cpu": cores, "memory": bytes, "nvidia.com/gpu": devices, …}, and "pods": 1.

    Init containers run one by one before the others, so only the largest of their requests counts.
    """
    total: dict[str, float] = {}
    for container in mappings(pod_spec, "containers"):
        _add(total, _requests(container))
    for container in mappings(pod_spec, "initContainers"):
        for key, value in _requests(container).items():
            total[key] = max(total.get(key, 0.0), value)
    return {**total, "pods": 1.0}


def _add(total: dict[str, float], amounts: Mapping[str, float], times: int = 1) -> None:
    for key, value in amounts.items():
        total[key] = total.get(key, 0.0) + value * times


def _requests(container: Mapping[str, Any]) -> dict[str, float]:
    merged = {**mapping(container, "resources", "limits"), **mapping(container, "resources", "requests")}
    return {str(key): amount for key, value in merged.items() if (amount := _read(value)) is not None}


def _read(value: object) -> float | None:
    """A Kubernetes quantity as a number; None if it cannot be read or is negative."""
    try:
        return quantity(str(value)) if isinstance(value, str | int | float) else None
    except ValueError:
        return None


def allocatable(node: Object, resource: str) -> float:
    """How much of a resource a node has for pods; 0 if that cannot be read."""
    return _read(mapping(node, "status", "allocatable").get(resource)) or 0.0


def quota_shortfalls(quotas: Iterable[Manifest], pods: Iterable[tuple[dict[str, float], int]]) -> list[str]:
    """Which quotas a job would exceed, with the numbers; pods: (one pod's requests, number of pods) of each role."""
    requested: dict[str, float] = {}
    for requests, count in pods:
        _add(requested, requests, count)
    shortfalls = []
    for quota in quotas:
        if mapping(quota, "spec").get("scopes") or mapping(quota, "spec").get("scopeSelector"):
            continue  # it may not apply to these pods
        used = mapping(quota, "status", "used")
        for key, hard in mapping(quota, "status", "hard").items():
            name = str(key).removeprefix("requests.").removeprefix("count/")
            bound = _read(hard)
            free = math.inf if bound is None else bound - (_read(used.get(key)) or 0.0)
            if requested.get(name, 0.0) > free:
                shortfalls.append(
                    f"quota {text(quota, 'metadata', 'name')} leaves {_amount(name, free)} of {hard} {key}, "
                    f"and the job asks for {_amount(name, requested[name])}"
                )
    return shortfalls


def _amount(resource: str, value: float) -> str:
    """A quantity in words: memory in Mi or Gi."""
    if resource in ("memory", "ephemeral-storage"):
        return f"{value / 1024**3:.3g}Gi" if value >= 1024**3 else f"{value / 1024**2:.3g}Mi"
    return f"{value:g}"


def fits(nodes: Sequence[Manifest], pods: Sequence[Manifest], pod_spec: Mapping[str, Any], count: int) -> str | None:
    """Why that many pods do not fit on the nodes now, with the numbers; None if they fit."""
    requests = requests_of(pod_spec)
    used = used_by_node(pods)
    places, reasons = 0, Counter[str]()
    for node in nodes:
        reason = _refusal(node, pod_spec)
        if reason:
            reasons[reason] += 1
            continue
        fitting, lacking = _places_on(node, used.get(text(node, "metadata", "name"), {}), requests)
        places += fitting
        if lacking:
            reasons[f"room for {fitting}, lacking {lacking}"] += 1
    if places >= count:
        return None
    summary = "; ".join(f"{number} node{'s' * (number > 1)}: {reason}" for reason, number in reasons.most_common())
    amounts = ", ".join(f"{_amount(k, v)} {k}" for k, v in requests.items() if k != "pods")
    asking = f", each asking for {amounts}" if amounts else ""
    offered = f"; GPUs there: {gpus_offered(nodes, pods) or 'none'}" if requests.get(GPU) else ""
    return f"{places} of {count} pods fit now{asking} ({summary or 'there are no nodes'}){offered}"


def used_by_node(pods: Iterable[Manifest]) -> dict[str, dict[str, float]]:
    """{node: the sum of the requests of its pods that have not ended}."""
    used: dict[str, dict[str, float]] = {}
    for pod in pods:
        node = text(pod, "spec", "nodeName")
        if node and text(pod, "status", "phase") not in ENDED:
            _add(used.setdefault(node, {}), requests_of(mapping(pod, "spec")))
    return used


def _refusal(node: Manifest, pod_spec: Mapping[str, Any]) -> str | None:
    """Why the node would not take such a pod even if it were empty; None if it would."""
    labels, spec = texts(node, "metadata", "labels"), mapping(node, "spec")
    missing = [f"{k}={v}" for k, v in mapping(pod_spec, "nodeSelector").items() if labels.get(k) != v]
    if missing:
        return f"without the label {missing[0]}"
    if not any(_matches(term, labels) for term in _node_terms(pod_spec) or [{}]):
        return f"with other GPUs ({gpus[1]})" if (gpus := product_of(node)) else "not of the pods' node affinity"
    if spec.get("unschedulable"):
        return "cordoned"
    for taint in mappings(spec, "taints"):
        if text(taint, "effect") in _HARD_TAINTS and not any(
            _tolerates(toleration, taint) for toleration in mappings(pod_spec, "tolerations")
        ):
            return f"tainted {text(taint, 'key')}:{text(taint, 'effect')}, to be tolerated by --toleration"
    return None if is_ready(node) else "not ready"


def is_ready(node: Object) -> bool:
    """Whether the node takes new pods: its kubelet says that it is ready, and nobody has cordoned it."""
    if mapping(node, "spec").get("unschedulable"):
        return False
    conditions = mappings(node, "status", "conditions")
    return any(text(condition, "type") == "Ready" and text(condition, "status") == "True" for condition in conditions)


def _tolerates(toleration: Object, taint: Object) -> bool:
    if text(toleration, "effect") not in ("", text(taint, "effect")):
        return False
    if text(toleration, "operator") == "Exists":
        return text(toleration, "key") in ("", text(taint, "key"))
    return text(toleration, "key") == text(taint, "key") and text(toleration, "value") == text(taint, "value")


def _places_on(node: Manifest, used: Mapping[str, float], requests: Mapping[str, float]) -> tuple[int, str]:
    """(how many such pods fit on the node, which resource it lacks for one more)."""
    fitting = {
        key: int(min((allocatable(node, key) - used.get(key, 0.0)) / value + 1e-9, MOST_PLACES))
        for key, value in requests.items()
        if value
    }
    least = min(fitting, key=lambda key: fitting[key])
    return max(0, fitting[least]), least


# ---- GPUs and their products ---------------------------------------------------------------------


def product_of(node: Manifest) -> tuple[str, str] | None:
    """The label that names the node's GPUs, and its value; None if it has none."""
    labels = texts(node, "metadata", "labels")
    return next(((label, labels[label]) for label in PRODUCT_LABELS if label in labels), None)


def labels_of(product: str, nodes: Iterable[Manifest]) -> dict[str, tuple[str, ...]]:
    """{label: its values} of all nodes that offer GPUs of this product."""
    products: dict[str, set[str]] = {}
    for node in nodes:
        label, node_product = product_of(node) or ("", "")
        if label and _offers(node) and is_product(product, node_product):
            products.setdefault(label, set()).add(node_product)
    return {label: tuple(sorted(values)) for label, values in products.items()}


def require_nodes(pod_spec: Manifest, labels: Mapping[str, tuple[str, ...]]) -> None:
    """Adds to a pod's node affinity that the node must have one of these labels, with one of its values."""
    affinity = mapping(pod_spec, "affinity")
    ours = [{"key": label, "operator": "In", "values": list(values)} for label, values in labels.items()]
    terms = [
        {**term, "matchExpressions": [*mappings(term, "matchExpressions"), expression]}
        for term in _node_terms(pod_spec) or [{}]
        for expression in ours
    ]
    nodes = {**mapping(affinity, "nodeAffinity"), _REQUIRED: {"nodeSelectorTerms": terms}}
    pod_spec["affinity"] = {**affinity, "nodeAffinity": nodes}


def _node_terms(pod_spec: Object) -> list[Object]:
    return mappings(pod_spec, "affinity", "nodeAffinity", _REQUIRED, "nodeSelectorTerms")


def _matches(term: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a node's labels match a nodeSelectorTerm; Gt, Lt and matchFields are left to the scheduler."""

    def holds(expression: Mapping[str, Any]) -> bool:
        key, listed = text(expression, "key"), expression.get("values")
        values = names(listed) if isinstance(listed, list) else []
        return {
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }.get(text(expression, "operator"), True)

    return all(map(holds, mappings(term, "matchExpressions")))


def _offers(node: Object) -> float:
    return allocatable(node, GPU)


def gpus_offered(nodes: Iterable[Manifest], pods: Iterable[Manifest]) -> str:
    """The GPUs on ready nodes in words: for each product how many, how many are free, and taints; "" if none."""
    used = used_by_node(pods)
    sums: dict[tuple[str, str], list[float]] = {}
    for node in nodes:
        count, spec = _offers(node), mapping(node, "spec")
        if not count or not is_ready(node):
            continue
        taints = [
            f"{text(taint, 'key')}:{text(taint, 'effect')}"
            for taint in mappings(spec, "taints")
            if text(taint, "effect") in _HARD_TAINTS
        ]
        kind = (product_of(node) or ("", "of unknown kind"))[1], "".join(f", tainted {taint}" for taint in taints)
        free = count - used.get(text(node, "metadata", "name"), {}).get(GPU, 0.0)
        sums[kind] = [a + b for a, b in zip(sums.get(kind, [0.0] * 3), (count, free, 1), strict=True)]
    return ", ".join(
        f"{count:g} {product} on {number:g} node{'s' * (number > 1)} ({free:g} free{taints})"
        for (product, taints), (count, free, number) in sums.items()
    )
