"""Admission webhooks of the cluster's own, which refuse the job, or do not answer: one clear message, nothing left."""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

HI = "print('hi')"
PROBE = "serviceaccounts"  # no job makes one
DENIAL = "no label team, see the wiki"
Answer = Callable[[], bool | None]  # whether an object is admitted; None: no answer comes in time


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        allowed: bool | None = True
        if review["request"]["resource"]["resource"] == PROBE:
            self.server.known.set()
        else:
            allowed = self.server.answer()
            self.server.answered.append(allowed)
        if allowed is None:
            self.server.over.wait(60)
        answer = {"uid": review["request"]["uid"], "allowed": bool(allowed), "status": {"message": DENIAL, "code": 403}}
        reply = {"apiVersion": review["apiVersion"], "kind": review["kind"], "response": answer}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(reply).encode())


class Webhook(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, host: str, answer: Answer) -> None:
        super().__init__((host, 0), Handler)
        self.answer = answer
        self.answered: list[bool | None] = []
        self.known = threading.Event()  # the API server asks it
        self.over = threading.Event()

    def handle_error(self, *_: object) -> None:
        pass  # the API server hung up


@contextmanager
def webhook(place, resource: str, answer: Answer) -> Iterator[Webhook]:
    """Such a webhook, which the cluster asks about each new object of that kind in the test's namespace."""
    host = os.environ.get("TFSPAWNER_TEST_HOST")
    if not host:
        pytest.skip("needs TFSPAWNER_TEST_HOST, an address of this machine that the API server reaches")
    key, certificate = place.folder / "key.pem", place.folder / "certificate.pem"
    subject = ["-subj", "/CN=webhook", "-addext", f"subjectAltName=IP:{host}"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    server = Webhook(host, answer)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    rules = [
        {"apiGroups": ["", "batch"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": [resource, PROBE]}
    ]
    place.kubectl("apply", "-f", "-", stdin=json.dumps({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": place.namespace},
        "webhooks": [{
            "name": "team.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "failurePolicy": "Fail", "timeoutSeconds": 1,
            "clientConfig": {"url": f"https://{host}:{server.server_port}/",
                             "caBundle": base64.b64encode(certificate.read_bytes()).decode()},
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": place.namespace}},
            "rules": rules,
        }],
    }))  # fmt: skip
    try:
        while not server.known.wait(0.2):
            place.kubectl("-n", place.namespace, "create", "serviceaccount", "probe", "--dry-run=server")
        yield server
    finally:
        place.kubectl("delete", "validatingwebhookconfiguration", place.namespace, check=False)
        server.over.set()
        server.shutdown()
        server.server_close()


def refuse() -> bool:
    return False


def say_nothing() -> None:
    return None


def assert_told(place, done, *words: str) -> None:
    assert done.code == 3, done.err
    error = done.err[done.err.index("error: ") :]
    for word in (*words, 'webhook "team.example.com"', "hint: "):
        assert word in error, done.err
    assert "tf-spawner rbac" not in error, "the user has all rights"
    assert "Traceback" not in done.err
    assert place.leftovers() == []


@pytest.mark.parametrize("resource", ["jobs", "pods", "secrets"])
def test_an_admission_webhook_that_refuses_is_told_with_its_own_words(cluster_place, resource):
    with webhook(cluster_place, resource, refuse):
        done = cluster_place.run(cluster_place.script(HI))
    assert_told(cluster_place, done, "the cluster's admission control refuses", DENIAL, "--pod-file")
    assert done.seconds < 20


@pytest.mark.parametrize("resource", ["jobs", "pods"])
def test_an_admission_webhook_that_does_not_answer_is_told(cluster_place, resource):
    with webhook(cluster_place, resource, say_nothing) as server:
        done = cluster_place.run(cluster_place.script(HI), "--start-timeout", "5s")
    assert_told(cluster_place, done, "an admission webhook of the cluster fails", "kubectl get validatingwebhook")
    assert len(server.answered) > 1, "it was not asked again"
    assert done.seconds < 60


@pytest.mark.parametrize("resource", ["jobs", "pods"])
def test_an_admission_webhook_that_is_away_for_a_moment_ends_no_launch(cluster_place, resource):
    answers = iter([None])
    with webhook(cluster_place, resource, lambda: next(answers, True)) as server:
        done = cluster_place.run(cluster_place.script(HI))
    assert done.code == 0, done.err
    assert server.answered[:2] == [None, True]
    assert cluster_place.leftovers() == []
