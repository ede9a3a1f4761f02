"""--pod-file: a Pod as its user wrote it, of the shape that Kubernetes documents as far as tf-spawner reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfspawner.base.userfile import LOADER, load_yaml, named, no_json, read_text
from tfspawner.errors import ConfigurationError

# {} is a mapping of anything, [{}] a list of mappings; what is not named here is the API server's to check.
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
    told = f"--pod-file {named(path)}"
    documents = [
        document for document in load_yaml(read_text(path, "--pod-file"), LOADER, told, unique=True) if document
    ]
    if len(documents) != 1 or not isinstance(documents[0], dict) or documents[0].get("kind") != "Pod":
        raise ConfigurationError(f"{told} must hold one manifest of kind Pod")
    pod: dict[str, Any] = documents[0]
    if reason := no_json(pod):
        raise ConfigurationError(f"{told}: {reason}")
    if reason := _misshapen(pod, {"metadata": SHAPE["metadata"], "spec": {}}):
        raise ConfigurationError(f"{told}: {reason}")
    containers = (pod.get("spec") or {}).get("containers")
    if not isinstance(containers, list) or not containers or not all(isinstance(c, dict) for c in containers):
        raise ConfigurationError(f"{told}: the Pod has no containers")
    if reason := _misshapen(pod, SHAPE):
        raise ConfigurationError(f"{told}: {reason}")
    return pod


def _misshapen(value: Any, shape: Any, name: str = "the file") -> str | None:
    """What in a value is no mapping or list and should be; what is left out or null is fine."""
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
