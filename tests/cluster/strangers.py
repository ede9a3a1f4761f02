"""Objects of others in a test's namespace that look like a job's."""

from __future__ import annotations

import json
import os
from typing import Any

import yaml

HOLD = "example.com/hold"  # a finalizer

SERVER = """
import http.server, json

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        print("ASKED " + json.dumps([self.command, self.path, dict(self.headers)]), flush=True)
        data = json.dumps({"path": self.path}).encode()
        moved = self.path.partition("?to=")[2]
        self.send_response(int(self.path.split("/")[1][:3]) if moved else 200)
        if moved:
            self.send_header("Location", moved)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_PUT = do_GET

http.server.ThreadingHTTPServer(("", 7117), Handler).serve_forever()
"""


def apply(place, manifest: dict[str, Any]) -> dict[str, Any]:
    """Creates it; as the API server stores it."""
    told = place.kubectl("-n", place.namespace, "create", "-o", "json", "-f", "-", stdin=yaml.safe_dump(manifest))
    return json.loads(told)


def get(place, *words: str) -> Any:
    return json.loads(place.kubectl("-n", place.namespace, "get", *words, "-o", "json"))


def pod_spec(*command: str) -> dict[str, Any]:
    """A pod that Pod Security's restricted level admits."""
    return {
        "restartPolicy": "Never", "automountServiceAccountToken": False, "terminationGracePeriodSeconds": 0,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{
            "name": "tensorflow", "image": os.environ["TFSPAWNER_IMAGE"], "imagePullPolicy": "IfNotPresent", "command": list(command),
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }],
    }  # fmt: skip


def labels_of(job: str, role: str = "worker", index: str = "0") -> dict[str, str]:
    return {"tf-spawner/job": job, "tf-spawner/role": role, "batch.kubernetes.io/job-completion-index": index}


def server_pod(place, name: str, labels: dict[str, str] | None = None, **metadata: Any) -> dict[str, Any]:
    """A pod that answers on the agents' port and prints all that it is asked, once it answers."""
    spec = pod_spec("python3", "-c", SERVER)
    spec["containers"][0]["readinessProbe"] = {"tcpSocket": {"port": 7117}, "periodSeconds": 1}
    made = apply(place, {"apiVersion": "v1", "kind": "Pod", "spec": spec,
                         "metadata": {"name": name, "labels": labels or {}, **metadata}})  # fmt: skip
    place.kubectl("-n", place.namespace, "wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s")
    return made


def asked(place, name: str) -> list[tuple[str, str, dict[str, str]]]:
    """What such a pod was asked so far: method, path, headers."""
    told = place.kubectl("-n", place.namespace, "logs", name)
    return [tuple(json.loads(line.removeprefix("ASKED "))) for line in told.splitlines() if line.startswith("ASKED ")]


def job_like(
    name: str, labels: dict[str, str], annotations: dict[str, str] | None = None, **spec: Any
) -> dict[str, Any]:
    """A suspended Job, so that it makes no pods."""
    template = {"metadata": {"labels": {"a": "b"}}, "spec": pod_spec("true")}
    return {"apiVersion": "batch/v1", "kind": "Job", "spec": {"suspend": True, "template": template, **spec},
            "metadata": {"name": name, "labels": labels, "annotations": annotations or {}}}  # fmt: skip


def set_finalizers(place, kind: str, name: str, *finalizers: str) -> None:
    patch = json.dumps({"metadata": {"finalizers": list(finalizers) or None}})
    place.kubectl("-n", place.namespace, "patch", kind, name, "--type=merge", "-p", patch)
