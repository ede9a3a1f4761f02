"""Requests to the Kubernetes API server: raw JSON, with all refusals translated in one place."""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import urllib3

from tfspawner.base.fields import mapping, mappings, text
from tfspawner.base.names import shown
from tfspawner.base.patience import patient
from tfspawner.base.userfile import LOADER, brief_line, load_yaml, named, read_text
from tfspawner.errors import ClusterError, ConfigurationError, NotFoundError
from tfspawner.plan.checks import is_namespace
from tfspawner.replica.retrying import Retrying, pause_of

from .pods import ADMISSION_HINT, WEBHOOK_HINT, denied_by_admission

WATCH_S = 240  # after this the API server ends a watch, and we start the next
READ_TIMEOUT_S = 30.0
RETRIES = 4  # when the server was too busy, or the request got lost
QUICK_S = 1.0  # a watch that ends sooner, without an event, counts as failed
CHANGES = ("ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR")
BACK_S = 30.0  # for this long after an outage the API server may wrongly refuse: it loads its roles a little later


class Conflict(ClusterError):
    """409: an object of that name exists already, or it is not the one that was meant."""


class Expired(ClusterError):
    """410: the watch fell too far behind; list again."""


class Api:
    """The API server of one kube context, and the namespace to work in."""

    def __init__(self, host: str, namespace: str, pool: urllib3.PoolManager, configuration: Any) -> None:
        self.host, self.namespace, self.pool = host.rstrip("/"), namespace, pool
        self._configuration = configuration
        self.warnings: list[str] = []  # the Warning headers of the last request
        self.answered = False  # the server has answered once, so it is worth trying again
        self.away_at = -math.inf  # when the server was last out of reach

    @classmethod
    def from_kubeconfig(cls, kubeconfig: Path | None, context: str | None, namespace: str | None) -> Api:
        """The API server that a kubeconfig names. Raises ConfigurationError if the file or context cannot be used."""
        from kubernetes import config
        from kubernetes.client import Configuration
        from kubernetes.client.rest import RESTClientObject

        # Said here: the package keeps what KUBECONFIG was when it was imported, and a notebook may set it later.
        path = str(kubeconfig or os.environ.get("KUBECONFIG") or os.path.expanduser("~/.kube/config"))
        for file in path.split(os.pathsep):
            if file and os.path.exists(file):
                load_yaml(read_text(Path(file), "kubeconfig"), LOADER, f"kubeconfig {named(file)}")
        configuration = Configuration()
        try:
            contexts, active = config.list_kube_config_contexts(path)  # type: ignore[no-untyped-call]
            names = [c["name"] for c in contexts]
            if context and context not in names:
                raise ConfigurationError(
                    f"there is no context {context!r} in the kubeconfig", hint=f"its contexts are: {', '.join(names)}"
                )
            config.load_kube_config(path, context, client_configuration=configuration, persist_config=False)  # type: ignore[no-untyped-call]
        except (config.ConfigException, TypeError, KeyError, AttributeError, ValueError, OSError) as error:
            where = f" {named(kubeconfig)}" if kubeconfig else ""
            reason = str(error) if isinstance(error, config.ConfigException) else f"{type(error).__name__}: {error}"
            raise ConfigurationError(
                f"no usable kubeconfig{where}: {brief_line(reason)}",
                hint="set KUBECONFIG or give --kubeconfig; to run on this machine: --on local",
            ) from None
        chosen = next((c for c in contexts if c["name"] == context), active)
        where = namespace or text(chosen, "context", "namespace") or "default"
        if not is_namespace(where):
            raise ConfigurationError(
                f"the namespace is {shown(where)}; it must be lower-case letters, digits and '-', at most 63",
                hint="give -n, or set the context's: kubectl config set-context --current --namespace NAME",
            )
        pool = patient(RESTClientObject(configuration).pool_manager)
        pool.connection_pool_kw["maxsize"] = 64
        return cls(configuration.host, where, pool, configuration)

    def headers(self) -> dict[str, str]:
        """The headers that authenticate a request; calls the kubeconfig's exec plugin again when its token expires."""
        headers = {"User-Agent": "tf-spawner", "Accept": "application/json"}
        for setting in self._configuration.auth_settings().values():
            if setting["value"]:
                headers[setting["key"]] = setting["value"]
        return headers

    def request(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json", kind: str = ""
    ) -> Any:
        """Sends one request and returns its JSON reply; tries again a few times if the server is busy.

        The reply must be an object of this kind, or of the kind that was POSTed; "List" stands for any list.
        """
        expected = kind or (text(body, "kind") if method == "POST" else "")
        called = f"{method} {path.split('?')[0]}"

        def accepted(reply: Any, content: bytes) -> Any:
            answer = _json(content)
            if not _is_of(expected, answer):
                raise self._foreign(f"{reply.status} to {called} with {shown(content[:60]) if content else 'nothing'}")
            return answer

        return self._request(method, path, body, content_type, accepted)

    def read(self, path: str) -> bytes:
        def accepted(reply: Any, content: bytes) -> bytes:
            if "html" in reply.headers.get("Content-Type", ""):
                raise self._foreign(f"{reply.status} to GET {path.split('?')[0]} with a web page")
            return content

        data: bytes = self._request("GET", path, None, "application/json", accepted)
        return data

    def patch(self, path: str, body: Any, kind: str = "") -> Any:
        """Changes an object by a JSON merge patch, and returns it as it is then."""
        return self.request("PATCH", path, body, "application/merge-patch+json", kind)

    def list(self, path: str, which: str = "") -> list[dict[str, Any]]:
        """The objects at a path; which: a labelSelector= or fieldSelector=."""
        return [dict(item) for item in mappings(self.request("GET", f"{path}?{which}", kind="List"), "items")]

    def watch(self, path: str, which: str, stop: threading.Event, for_s: float = math.inf) -> Iterator[dict[str, Any]]:
        """Yields ADDED, MODIFIED and DELETED events, first for the present objects; and SYNCED after each list.

        Ends when stop is set or for_s seconds have passed; which: a labelSelector= or fieldSelector=.

        After a broken connection, an expired version or a restart of the server it lists again, and yields what was
        deleted meanwhile. Raises ClusterError only for a lasting refusal.
        """
        known: dict[str, dict[str, Any]] = {}
        failures = 0
        deadline = time.monotonic() + for_s

        def left_s() -> float:
            return 0.0 if stop.is_set() else max(0.0, deadline - time.monotonic())

        while left_s():
            began = time.monotonic()
            try:
                listing = self.request("GET", f"{path}?{which}", kind="List")
                items = {text(item, "metadata", "uid"): dict(item) for item in mappings(listing, "items")}
                for uid in known.keys() - items.keys():
                    yield {"type": "DELETED", "object": known.pop(uid)}
                for uid, item in items.items():
                    if uid not in known or _version(known[uid]) != _version(item):
                        yield {"type": "ADDED", "object": item}
                known = items
                yield {"type": "SYNCED", "object": listing}
                version = _version(listing)
                while remaining_s := left_s():
                    began, had_events = time.monotonic(), False
                    for event in self._watch_once(path, which, version, math.ceil(min(WATCH_S, remaining_s))):
                        version, had_events = _version(event["object"]), True
                        if event["type"] == "BOOKMARK":
                            continue
                        uid = text(event["object"], "metadata", "uid")
                        if event["type"] == "DELETED":
                            known.pop(uid, None)
                        else:
                            known[uid] = event["object"]
                        yield event
                    if not had_events and time.monotonic() - began < QUICK_S:
                        raise Unreachable("the watch ended at once")
                    failures = 0
            except (Expired, Unreachable):
                failures = 1 if time.monotonic() - began > QUICK_S else min(failures + 1, 5)
                stop.wait(min(left_s(), pause_of(0.4, failures, 5.0, varies=True)))

    def _watch_once(self, path: str, which: str, version: str, watch_s: int) -> Iterator[dict[str, Any]]:
        query = f"watch=1&allowWatchBookmarks=true&timeoutSeconds={watch_s}&resourceVersion={version}"
        reply = self._send("GET", f"{path}?{which}&{query}", None, {}, read_s=watch_s + 15)
        buffer = b""
        with reply:
            try:
                if reply.status != 200:
                    raise self._translate("GET", path, reply.status, reply.read())
                while data := reply.read1(65536):
                    *lines, buffer = (buffer + data).split(b"\n")
                    for line in lines:
                        event = {"type": "", "object": {}, **json.loads(line)}
                        if event["type"] not in CHANGES:
                            raise Unreachable(f"the watch brought {shown(line[:60])}")
                        if event["type"] == "ERROR":
                            raise Expired(text(event, "object", "message") or "the watch expired")
                        yield event
            except (urllib3.exceptions.HTTPError, OSError, ValueError, TypeError, RecursionError) as error:
                raise Unreachable(str(error)) from None

    def _request(
        self, method: str, path: str, body: Any, content_type: str, accepted: Callable[[Any, bytes], Any]
    ) -> Any:
        """What `accepted` returns for the reply. Retries what may pass; a repeated POST may then raise Conflict."""
        headers = {"Content-Type": content_type}
        data = None if body is None else json.dumps(body).encode()
        retrying = Retrying(RETRIES + 1, 0.5, varies=True)
        while True:
            wished_s: float | None = None
            try:
                reply = self._send(method, path, data, headers, read_s=READ_TIMEOUT_S)
                content = self._content(reply)
                if reply.status // 100 == 2:
                    answer = accepted(reply, content)
                    self.answered = True
                    self.warnings = reply.headers.getlist("Warning") if "Warning" in reply.headers else []
                    return answer
                self.answered = self.answered or reply.status >= 400
                refusal = self._translate(method, path, reply.status, content)
                wished_s = _retry_after(reply)
            except Unreachable as error:
                refusal = error
            if not (isinstance(refusal, Unreachable) and self.answered) or retrying.is_over():
                raise refusal
            if wished_s is None:
                retrying.pause()
            else:
                time.sleep(wished_s)

    def _content(self, reply: Any) -> bytes:
        try:
            content: bytes = reply.read()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._unreachable(error) from None
        return content

    def _send(self, method: str, path: str, data: bytes | None, headers: Mapping[str, str], read_s: float) -> Any:
        try:
            return self.pool.request(
                method,
                self.host + path,
                body=data,
                headers={**self.headers(), **headers},
                preload_content=False,
                retries=False,
                redirect=False,
                timeout=urllib3.Timeout(connect=10, read=read_s),
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: Exception) -> Unreachable:
        self.away_at = time.monotonic()
        return Unreachable(
            f"the API server {self.host} cannot be reached: {_reason(error)}",
            hint="check the cluster and the kubeconfig's context: kubectl cluster-info",
        )

    def _foreign(self, answered: str) -> Unreachable:
        """The error for an answer that did not come from an API server: it says nothing about the cluster."""
        return Unreachable(
            f"the API server's address {self.host} answered {answered}:"
            " something between, such as a proxy's login, answers in its place",
            hint="log in again, or see what stands between: kubectl cluster-info",
        )

    def _translate(self, method: str, path: str, status: int, content: bytes) -> ClusterError:
        status_object = _json(content)
        message = text(status_object, "message")
        if status < 400 or (status in (404, 409, 410) and text(status_object, "kind") != "Status"):
            return self._foreign(f"{status} to {method} {path.split('?')[0]}")
        if not message:
            message = content[:300].decode(errors="replace").strip()
        if denied_by_admission(message):
            return ClusterError(f"the cluster's admission control refuses it: {message}", hint=ADMISSION_HINT)
        if "failed calling webhook" in message:
            return Unreachable(f"an admission webhook of the cluster fails: {message}", hint=WEBHOOK_HINT)
        came_back = self.answered and time.monotonic() - self.away_at < BACK_S
        if status == 429 or status >= 500 or (status in (401, 403) and came_back):
            return Unreachable(f"the API server {self.host} answered {status}: {message}")
        if status == 401:
            return ClusterError(
                f"the API server {self.host} does not accept this login: {message}", hint="log in to the cluster again"
            )
        if status == 403 and ("exceeded quota" in message or "failed quota" in message):
            return ClusterError(f"the namespace's quota refuses it: {message}", hint="ask for less, or have it raised")
        if status == 403:
            return ClusterError(
                f"you may not do this: {message}",
                hint=f"have the Role applied and bound that allows it: tf-spawner rbac -n {self.namespace}",
            )
        if status == 404:
            if message.startswith("namespaces "):
                return ClusterError(f"there is no namespace {self.namespace!r}", hint="give -n with one that exists")
            return NotFoundError(message)
        if status == 409:
            return Conflict(message)
        if status == 410:
            return Expired(message)
        return ClusterError(
            f"the API server refused {method} {path.split('?')[0]}: {message}",
            hint="check what --pod-file, --volume and --template-dir ask for",
        )


class Unreachable(ClusterError):
    """The API server gave no answer, or none that makes sense."""


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _is_of(expected: str, answer: object) -> bool:
    kind = text(answer, "kind")
    if expected == "List":
        return kind.endswith("List") and isinstance(mapping(answer).get("items"), list)
    return kind == expected if expected else bool(kind or text(answer, "gitVersion"))  # /version has no kind


def _version(item: Mapping[str, Any]) -> str:
    return text(item, "metadata", "resourceVersion")


def _retry_after(reply: Any) -> float | None:
    """How long the server asks us to wait, at most 30 s; None if it does not."""
    value = reply.headers.get("Retry-After", "")
    return min(float(value), 30.0) if value.isdigit() else None


def _reason(error: Exception) -> str:
    """The innermost text of a transport error; urllib3's own text names the pool and the request."""
    cause: BaseException = error
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__  # type: ignore[assignment]
    text = str(getattr(cause, "strerror", None) or cause)
    return text.split(": ", 1)[-1] if text.startswith("<") else text
