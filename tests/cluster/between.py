"""A server of the tests' own between tf-spawner and the API server: it counts requests, and does damage where told."""

from __future__ import annotations

import base64
import http.client
import json
import random
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import yaml

CUTS = {"cut": (200, 20_000), "cut late": (200_000, 4_000_000)}  # after how many bytes a reply breaks off
PLACEHOLDERS = {  # what something answers that stands in the API server's place
    "302": (302, "text/html", b"<a href=/login>Found</a>"),
    "empty": (200, "application/json", b""),
    "page": (200, "text/html", b"<html>please log in</html>"),
    "{}": (200, "application/json", b'{"login": "is over"}'),
    "404": (404, "text/html", b"<html>no such page</html>"),
}
Fault = Callable[[str, str], str | None]  # (method, path) of a request -> what becomes of it; None: nothing


def without_annotations(body: bytes) -> bytes:
    """An object as a mutating webhook may leave it."""
    manifest = json.loads(body)
    manifest["metadata"].pop("annotations", None)
    return json.dumps(manifest).encode()


class Between(ThreadingHTTPServer):
    """Passes every request on to the API server, remembers it, and asks `fault` what becomes of it."""

    daemon_threads = True

    def __init__(self, config: dict, fault: Fault = lambda method, path: None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        cluster = config["clusters"][0]["cluster"]
        self.upstream = urlsplit(cluster["server"])
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self.tls = ssl.create_default_context(cadata=authority)
        self.lock = threading.Lock()
        self.requests: list[str] = []
        self.damage: list[str] = []
        self.fault = fault
        self.random = random.Random(1)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Between

    def log_message(self, *_: object) -> None:
        pass

    def pass_on(self) -> None:
        with self.server.lock:
            self.server.requests.append(f"{self.command} {self.path}")
            fault = self.server.fault(self.command, self.path)
            if fault:
                self.server.damage.append(f"{fault} {self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if fault == "strip":
            body = without_annotations(body)
            self.headers.replace_header("Content-Length", str(len(body)))
        if fault in ("429", "500"):
            return self.refuse(int(fault))
        if fault in PLACEHOLDERS:
            return self.answer_instead(*PLACEHOLDERS[fault])
        if fault == "expired":
            return self.expire()
        if fault == "unsent":
            return self.connection.close()
        upstream = self.server.upstream
        connection = http.client.HTTPSConnection(upstream.hostname, upstream.port, context=self.server.tls)
        headers = {key: value for key, value in self.headers.items() if key.lower() not in ("host", "connection")}
        try:
            connection.request(self.command, self.path, body, headers)
            reply = connection.getresponse()
            if fault == "unanswered":
                return self.connection.close()
            self.answer(reply, self.server.random.randrange(*CUTS[fault]) if fault in CUTS else None)
        except (OSError, http.client.HTTPException):
            self.close_connection = True  # the API server is away, or the client has what it wanted
        finally:
            connection.close()

    def answer(self, reply: http.client.HTTPResponse, cut_after: int | None) -> None:
        """Passes a reply on, all of it or so many bytes."""
        self.send_response(reply.status)
        for key, value in reply.headers.items():
            if key.lower() not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                self.send_header(key, value)
        if cut_after is not None:
            self.send_header("Content-Length", str(1 << 40))  # so that the end comes too early
        self.end_headers()  # HTTP/1.0: the reply ends with its connection
        while data := reply.read1(65536 if cut_after is None else max(1, min(cut_after, 65536))):
            self.wfile.write(data)
            self.wfile.flush()
            if cut_after is not None:
                cut_after -= len(data)
                if cut_after <= 0:
                    return

    def refuse(self, status: int) -> None:
        data = json.dumps({"kind": "Status", "message": "busy", "code": status}).encode()
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "0")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def answer_instead(self, status: int, content_type: str, data: bytes) -> None:
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/login")
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def expire(self) -> None:
        """How the API server ends a watch that asks for a version which is gone."""
        status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on


@contextmanager
def between(kubeconfig: Path, fault: Fault = lambda method, path: None) -> Iterator[Between]:
    """Such a server, which the kubeconfig names as the API server from now on."""
    config = yaml.safe_load(kubeconfig.read_text())
    server = Between(config, fault)
    config["clusters"][0]["cluster"] = {"server": server.address}
    kubeconfig.write_text(yaml.safe_dump(config))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
