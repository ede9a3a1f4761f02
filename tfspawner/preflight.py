"""What a cluster says of a job before it is launched: quotas and room on the nodes. Pure: values in, values out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from .spec import quantity

Manifest = dict[str, Any]
ENDED = ("Succeeded", "Failed")
_HARD_TAINTS = ("NoSchedule", "NoExecute")


def requests_of(pod_spec: Mapping[str, Any]) -> dict[str, float]:
    """What a pod asks for in all: {"cpu": cores, "memory": bytes, "nvidia.com/gpu": devices, …}, and "pods": 1.

    Of init containers, which run before the others, the largest counts.
    """
    total: dict[str, float] = {}
    for container in pod_spec.get("containers") or []:
        _add(total, _requests(container))
    for container in pod_spec.get("initContainers") or []:
        for key, value in _requests(container).items():
            total[key] = max(total.get(key, 0.0), value)
    return {**total, "pods": 1.0}


def _add(total: dict[str, float], more: Mapping[str, float], times: int = 1) -> None:
    for key, value in more.items():
        total[key] = total.get(key, 0.0) + value * times


def _requests(container: Mapping[str, Any]) -> dict[str, float]:
    resources = container.get("resources") or {}
    merged = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {key: quantity(str(value)) for key, value in merged.items()}


def quota_shortfalls(quotas: Iterable[Manifest], pods: Iterable[tuple[dict[str, float], int]]) -> list[str]:
    """Which quotas a job's pods, (requests, how many) of each role, would go over, with the numbers."""
    wanted: dict[str, float] = {}
    for requests, count in pods:
        _add(wanted, requests, count)
    found = []
    for quota in quotas:
        if quota["spec"].get("scopes") or quota["spec"].get("scopeSelector"):
            continue  # it may not be meant for these pods
        used = quota.get("status", {}).get("used", {})
        for key, hard in quota.get("status", {}).get("hard", {}).items():
            name = key.removeprefix("requests.").removeprefix("count/")
            left = quantity(str(hard)) - quantity(str(used.get(key, "0")))
            if wanted.get(name, 0.0) > left:
                found.append(f"quota {quota['metadata']['name']} leaves {_amount(name, left)} of {hard} {key}, "
                             f"and the job asks for {_amount(name, wanted[name])}")  # fmt: skip
    return found


def _amount(resource: str, value: float) -> str:
    """A quantity for people: memory in Mi or Gi."""
    if resource in ("memory", "ephemeral-storage"):
        return f"{value / 1024**3:.3g}Gi" if value >= 1024**3 else f"{value / 1024**2:.3g}Mi"
    return f"{value:g}"


def fits(nodes: Iterable[Manifest], pods: Iterable[Manifest], pod_spec: Mapping[str, Any], count: int) -> str | None:
    """Why that many pods do not fit on the nodes as they are now, with the numbers; None where they do."""
    requests = requests_of(pod_spec)
    used = used_by_node(pods)
    places, reasons = 0, Counter[str]()
    for node in nodes:
        reason = _refusal(node, pod_spec)
        if reason:
            reasons[reason] += 1
            continue
        room, lacking = _room(node, used.get(node["metadata"]["name"], {}), requests)
        places += room
        if lacking:
            reasons[f"room for {room}, lacking {lacking}"] += 1
    if places >= count:
        return None
    told = "; ".join(f"{number} node{'s' * (number > 1)}: {reason}" for reason, number in reasons.most_common())
    asked = ", ".join(f"{_amount(k, v)} {k}" for k, v in requests.items() if k != "pods")
    asking = f", each asking for {asked}" if asked else ""
    return f"{places} of {count} pods fit now{asking} ({told or 'there are no nodes'})"


def used_by_node(pods: Iterable[Manifest]) -> dict[str, dict[str, float]]:
    """What the pods that have not ended ask for in all, by node."""
    used: dict[str, dict[str, float]] = {}
    for pod in pods:
        node = pod["spec"].get("nodeName")
        if node and pod.get("status", {}).get("phase") not in ENDED:
            _add(used.setdefault(node, {}), requests_of(pod["spec"]))
    return used


def _refusal(node: Manifest, pod_spec: Mapping[str, Any]) -> str | None:
    """Why no such pod runs on the node, however empty it is."""
    labels, spec = node["metadata"].get("labels", {}), node.get("spec", {})
    missing = [f"{k}={v}" for k, v in (pod_spec.get("nodeSelector") or {}).items() if labels.get(k) != v]
    if missing:
        return f"without the label {missing[0]}"
    if spec.get("unschedulable"):
        return "cordoned"
    for taint in spec.get("taints") or []:
        if taint["effect"] in _HARD_TAINTS and not any(
            _tolerates(toleration, taint) for toleration in pod_spec.get("tolerations") or []
        ):
            return f"tainted {taint['key']}:{taint['effect']}"
    ready = [c for c in node.get("status", {}).get("conditions", []) if c["type"] == "Ready"]
    return "not ready" if ready and ready[0]["status"] != "True" else None


def _tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    return bool(toleration.get("key") == taint["key"] and toleration.get("value", "") == taint.get("value", ""))


def _room(node: Manifest, used: Mapping[str, float], requests: Mapping[str, float]) -> tuple[int, str]:
    """(how many such pods the node has room for, what it lacks for one more)."""
    allocatable = node.get("status", {}).get("allocatable", {})
    room = {
        key: int((quantity(str(allocatable.get(key, "0"))) - used.get(key, 0.0)) / value + 1e-9)
        for key, value in requests.items()
        if value
    }
    least = min(room, key=lambda key: room[key])
    return max(0, room[least]), least
