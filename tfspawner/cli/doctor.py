"""What works from here: checks of this machine, the cluster and the data, each finding with its next step."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from tfspawner.backends.kubernetes.backend import KubernetesBackend
from tfspawner.backends.kubernetes.capacity import GPU, allocatable, gpus_offered, is_ready, used_by_node
from tfspawner.backends.tf_keras import installed_tensorflow
from tfspawner.base.fields import mappings, text, texts
from tfspawner.errors import ConfigurationError, SpawnerError, without_secrets
from tfspawner.replica.usage import NO_NVML, Gpus
from tfspawner.replica.usage import text as nvml_text

POD_SECURITY = "pod-security.kubernetes.io/enforce"
KUEUE = "kueue.x-k8s.io"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one check. A note is worth knowing; a problem keeps jobs from running."""

    where: Literal["this machine", "cluster", "data"]
    level: Literal["ok", "note", "problem"]
    text: str
    hint: str = ""


def machine() -> Iterator[Finding]:
    """What workers on this machine have."""

    def finding(level: Literal["ok", "note", "problem"], text: str, hint: str = "") -> Finding:
        return Finding(where="this machine", level=level, text=text, hint=hint)

    yield finding("ok", f"Python {platform.python_version()}")
    tensorflow = installed_tensorflow()
    if not tensorflow:
        yield finding("note", "no TensorFlow: workers here need it", "pip install 'tf-spawner[train]'")
    else:
        try:
            yield finding("ok", f"TensorFlow {tensorflow}, tf-keras {version('tf-keras')}")
        except PackageNotFoundError:
            yield finding("ok", f"TensorFlow {tensorflow}; tf-keras, for Keras on several workers, comes with each job")
    yield finding(*_gpus_here())


def _gpus_here() -> tuple[Literal["ok", "note"], str, str]:
    gpus = Gpus()
    if gpus.missing:
        if gpus.missing == NO_NVML:
            return "note", f"GPUs cannot be looked for: {NO_NVML}", "pip install 'tf-spawner[gpu]'"
        return "note", f"no NVIDIA GPU: {gpus.missing}", ""
    names = Counter(gpu.name for gpu in gpus.devices)
    models = ", ".join(f"{count} {name}" for name, count in names.items())
    return "ok", f"GPUs: {models}, driver {nvml_text(gpus.nvml.nvmlSystemGetDriverVersion())}", ""


def cluster(target: Mapping[str, Any], *, required: bool) -> Iterator[Finding]:
    """What the cluster offers this user. A missing kubeconfig is a note, or a problem if the cluster is required."""
    backend = KubernetesBackend(**target)

    def finding(level: Literal["ok", "note", "problem"], text: str, hint: str = "") -> Finding:
        return Finding(where="cluster", level=level, text=text, hint=hint)

    try:
        reply = backend.api.request("GET", "/version")
        yield finding("ok", f"Kubernetes {text(reply, 'gitVersion')}, namespace {backend.namespace}")
    except SpawnerError as error:
        is_note = isinstance(error, ConfigurationError) and not required
        yield finding("note" if is_note else "problem", error.message, error.hint or "")
        return
    for look in (_rights, _pod_security, _nodes, _queues):
        try:
            yield from (finding(*parts) for parts in look(backend))
        except SpawnerError as error:
            level: Literal["note", "problem"] = "problem" if look is _rights else "note"
            yield finding(level, error.message, (error.hint or "") if level == "problem" else "")


Row = tuple[Literal["ok", "note", "problem"], str, str]


def _rights(backend: KubernetesBackend) -> Iterator[Row]:
    backend.rights.check()
    yield "ok", "you may do all that tf-spawner needs", ""


def _pod_security(backend: KubernetesBackend) -> Iterator[Row]:
    namespace = backend.api.request("GET", f"/api/v1/namespaces/{backend.namespace}")
    level = texts(namespace, "metadata", "labels").get(POD_SECURITY)
    yield "ok", f"Pod Security here: {level or 'none is enforced'}; tf-spawner's pods fit the strictest", ""


def _nodes(backend: KubernetesBackend) -> Iterator[Row]:
    nodes = [node for node in backend.api.list("/api/v1/nodes") if is_ready(node)]
    if not nodes:
        yield "problem", "no node is ready", "kubectl get nodes"
        return
    pods = backend.api.list("/api/v1/pods", "fieldSelector=status.phase!=Succeeded,status.phase!=Failed")
    free = _free(nodes, pods)
    yield (
        "ok",
        (
            f"{len(nodes)} node{'s are' if len(nodes) > 1 else ' is'} ready; free: {free['cpu']:.1f} CPUs, "
            f"{free['memory'] / 1024**3:.1f} GiB, "
            f"{free['pods']:.0f} pods"
        ),
        "",
    )
    offered = gpus_offered(nodes, pods)
    if offered:
        yield "ok", f"GPUs: {offered}", ""
    else:
        yield "note", f"no node offers {GPU}: --gpus would wait for ever", ""


def _free(nodes: Iterable[dict[str, Any]], pods: Iterable[dict[str, Any]]) -> dict[str, float]:
    """What is left on the nodes, by resource."""
    left = dict.fromkeys(("cpu", "memory", "pods"), 0.0)
    used = used_by_node(pods)
    for node in nodes:
        requested = used.get(text(node, "metadata", "name"), {})
        for key in left:
            left[key] += allocatable(node, key) - requested.get(key, 0.0)
    return left


def _queues(backend: KubernetesBackend) -> Iterator[Row]:
    groups = {text(group, "name") for group in mappings(backend.api.request("GET", "/apis"), "groups")}
    if KUEUE not in groups:
        yield "note", "no Kueue here: --queue would wait for ever", ""
        return
    queues = backend.api.list(f"/apis/{KUEUE}/v1beta1/namespaces/{backend.namespace}/localqueues")
    names = ", ".join(text(queue, "metadata", "name") for queue in queues) or "none"
    yield "ok", f"Kueue's queues in this namespace: {names}", ""


def data(uris: Iterable[str]) -> Iterator[Finding]:
    """Whether each URI's files can be listed and read."""
    from tfspawner.base.words import human_bytes
    from tfspawner.data.filesystems import filesystem_of, list_files

    for uri in uris:
        try:
            files = list_files([uri])
            filesystem_of(uri).read(files[0].uri, 0, min(1, files[0].size))
            size = human_bytes(sum(file.size for file in files))
            yield Finding(where="data", level="ok", text=without_secrets(f"{uri}: {len(files)} files, {size}"))
        except SpawnerError as error:
            yield Finding(where="data", level="problem", text=error.message, hint=error.hint or "")
        except OSError as error:  # what may pass
            yield Finding(where="data", level="problem", text=without_secrets(str(error)), hint="try again")
