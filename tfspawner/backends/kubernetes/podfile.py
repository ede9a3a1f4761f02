"""Reads --pod-file, a Pod that the user wrote, and checks the shape of the fields that tf-spawner uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfspawner.base.userfile import LOADER, load_yaml, named, no_json, read_text
from tfspawner.errors import ConfigurationError

# {} is a mapping of anything, [{}] a list of mappings; other fields are left for the API server to check.
_CONTAINER: dict[str, Any] = {
    "env": [{}],
    "envFrom": [{}],
    "volumeMounts": [{}],
    "ports": [{}],
    "resources": {"limits": {}, "requests": {}},
}
_TERM: dict[str, Any] = {"matchExpressions": [{"values": []}], "matchFields": [{}]}
SHAPE: dict[str, Any] = {
    "metadata": {"labels": {}, "annotations": {}},
    "spec": {
        "containers": [_CONTAINER],
        "initContainers": [_CONTAINER],
        "volumes": [{}],
        "tolerations": [{}],
        "imagePullSecrets": [{}],
        "nodeSelector": {},
        "securityContext": {},
        "affinity": {
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [_TERM]}}
        },
    },
}


def read_pod(path: Path) -> dict[str, Any]:
    """The Pod of the file. Raises ConfigurationError."""
    label = f"--pod-file {named(path)}"
    documents = [
        document for document in load_yaml(read_text(path, "--pod-file"), LOADER, label, unique=True) if document
    ]
    if len(documents) != 1 or not isinstance(documents[0], dict) or documents[0].get("kind") != "Pod":
        raise ConfigurationError(f"{label} must hold one manifest of kind Pod")
    pod: dict[str, Any] = documents[0]
    if reason := no_json(pod):
        raise ConfigurationError(f"{label}: {reason}")
    if reason := _misshapen(pod, {"metadata": SHAPE["metadata"], "spec": {}}):
        raise ConfigurationError(f"{label}: {reason}")
    containers = (pod.get("spec") or {}).get("containers")
    if not isinstance(containers, list) or not containers or not all(isinstance(c, dict) for c in containers):
        raise ConfigurationError(f"{label}: the Pod has no containers")
    if reason := _misshapen(pod, SHAPE):
        raise ConfigurationError(f"{label}: {reason}")
    return pod


def _misshapen(value: Any, shape: Any, name: str = "the file") -> str | None:
    """Says which part of a value should be a mapping or a list and is not; parts may be missing or null."""
    if value is None:
        return None
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{name} must be a mapping"
        parts = [(value.get(key), inner, key) for key, inner in shape.items()]
    else:
        if not isinstance(value, list):
            return f"{name} must be a list"
        if shape and None in value:
            return f"{name} must be a list without empty items"
        parts = [(item, inner, f"each of {name}") for item in value for inner in shape]
    return next((reason for part in parts if (reason := _misshapen(*part))), None)
