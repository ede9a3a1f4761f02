"""Waits until a deleted job's objects are gone from the cluster, and names what still holds them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from tfspawner.base.fields import mapping, text
from tfspawner.base.names import shown
from tfspawner.errors import ClusterError, Command, Hint, NotFoundError

from .api import Api, Conflict
from .manifests import JOB_LABEL
from .objects import Launched, owner_uids, shown_name

TOLD_AFTER_S = 5.0  # how long a finalizer may hold an object before the user is told
AGAIN_S = 0.5
MOST_NAMED = 5
CLUSTERS_OWN = ("foregroundDeletion", "batch.kubernetes.io/job-tracking")  # finalizers that controllers remove

Manifest = Mapping[str, Any]


def delete_object(api: Api, path: str, uid: str, policy: str = "Background") -> Manifest | None:
    """Deletes the object with that uid; returns it if something holds it, so that it is still there."""
    try:
        reply = api.request("DELETE", path, {"propagationPolicy": policy, "preconditions": {"uid": uid}})
    except (NotFoundError, Conflict):
        return None  # it is gone, or its name is another object's now
    return mapping(reply) if text(reply, "metadata", "uid") == uid else None


class Leaving:
    """The remaining objects of one job that is being deleted."""

    def __init__(self, api: Api, launched: Launched, note: Callable[[str], None] | None) -> None:
        self.api, self.launched, self.note = api, launched, note
        self.pods: dict[str, Manifest] | None = None  # by uid; None until they have been listed
        self.held: dict[str, Manifest] = {}  # other objects by path: deleted, but still there
        self.reported: set[str] = set()  # uids and lines that have been dealt with

    def delete(self, path: str, uid: str, policy: str = "Background") -> None:
        """Deletes the object of that uid, and remembers it if a finalizer holds it."""
        remaining = delete_object(self.api, path, uid, policy)
        if remaining:
            self.held[path] = remaining

    def delete_part(self, path: str, kind: str) -> None:
        """Deletes an object, known only by its name, if the job owns it."""
        try:
            existing = self.api.request("GET", path, kind=kind)
        except NotFoundError:
            return
        if self.launched.uids.keys() & owner_uids(existing):
            self.delete(path, text(existing, "metadata", "uid"))

    def wait(self, timeout_s: float) -> None:
        """Returns when everything is gone. Raises ClusterError after timeout_s."""
        began, look_s = time.monotonic(), TOLD_AFTER_S
        while not self._is_gone(min(look_s, max(0.1, timeout_s - (time.monotonic() - began)))):
            took_s = time.monotonic() - began
            if took_s > TOLD_AFTER_S:
                self._tell()
            if took_s > timeout_s:
                raise self._still_there(timeout_s)
            if self.pods == {}:
                time.sleep(AGAIN_S)
            else:
                look_s *= 2  # each look begins with a list of all pods

    def _is_gone(self, for_s: float) -> bool:
        if self.pods != {}:
            self._watch_pods(for_s)
        for path, before in list(self.held.items()):
            try:
                now = self.api.request("GET", path, kind=_kind(before))
            except NotFoundError:
                now = {}
            if text(now, "metadata", "uid") == text(before, "metadata", "uid"):
                self.held[path] = now
            else:
                del self.held[path]
        return self.pods == {} and not self.held

    def _watch_pods(self, for_s: float) -> None:
        """Follows the job's pods by one watch until none is left or for_s have passed.

        self.pods stays None until the first list has come.
        """
        pods: dict[str, Manifest] = {}
        path = f"/api/v1/namespaces/{self.api.namespace}/pods"
        for event in self.api.watch(path, f"labelSelector={JOB_LABEL}={self.launched.job}", threading.Event(), for_s):
            uid = text(event["object"], "metadata", "uid")
            if event["type"] == "SYNCED":
                self.pods = pods
            elif event["type"] == "DELETED":
                pods.pop(uid, None)
            elif self.launched.uids.keys() & owner_uids(event["object"]):
                pods[uid] = event["object"]
            if self.pods is pods and not pods:
                return

    def _tell(self) -> None:
        """Names each held object once. Has a held Job deleted in the foreground, so that its pods end all the same."""
        for path, item in list(self.held.items()):
            uid = text(item, "metadata", "uid")
            if foreign_finalizers(item) and uid in self.launched.uids and uid not in self.reported:
                self.reported.add(uid)
                self.delete(path, uid, "Foreground")
        for words in self._waiting():
            if words not in self.reported:
                self.reported.add(words)
                if self.note:
                    self.note(f"job {self.launched.job}: {words}")

    def _waiting(self) -> list[str]:
        return [
            f"{_kind(item)} {shown_name(item)} waits for the finalizer {', '.join(map(shown_finalizer, finalizers))}"
            for item in (*self.held.values(), *(self.pods or {}).values())
            if (finalizers := foreign_finalizers(item))
        ]

    def _still_there(self, timeout_s: float) -> ClusterError:
        job, namespace = self.launched.job, self.api.namespace
        remaining = [*self.held.values(), *(self.pods or {}).values()]
        if not remaining:
            return ClusterError(
                f"whether the pods of job {job} are gone cannot be known: "
                f"the API server has not listed them for {timeout_s:g} s",
                hint=f"see: kubectl get pods -n {namespace} -l {JOB_LABEL}={job}",
            )
        finalizers = self._waiting()
        waiting = finalizers or [f"{_kind(item)} {shown_name(item)} is still there" for item in remaining]
        rest = f", and {len(waiting) - MOST_NAMED} more" if len(waiting) > MOST_NAMED else ""
        first = next((item for item in remaining if foreign_finalizers(item)), remaining[0])
        look = f"see: kubectl get {_kind(first).lower()} -n {namespace} {shown_name(first)} -o yaml"
        job_remains = any(text(item, "kind") == "Job" for item in self.held.values())
        then = Hint("then: ", Command("delete", job)) if job_remains else "all else of the job is gone"
        who = "who set a finalizer has to take it away; " if finalizers else ""
        return ClusterError(
            f"job {job} is not all gone after {timeout_s:g} s: {'; '.join(waiting[:MOST_NAMED])}{rest}",
            hint=Hint(f"{who}{look}; ", then),
        )


def foreign_finalizers(item: object) -> list[str]:
    """The finalizers of an object being deleted, without those that the cluster's own controllers remove."""
    metadata = mapping(item, "metadata")
    if not metadata.get("deletionTimestamp"):
        return []
    return [name for name in metadata.get("finalizers") or [] if isinstance(name, str) and name not in CLUSTERS_OWN]


def shown_finalizer(name: str) -> str:
    """A finalizer's name for a message; cut and escaped if it is long or odd."""
    return name if name.isprintable() and len(name) < 100 else shown(name)


def _kind(item: object) -> str:
    return text(item, "kind") or "Pod"  # objects from a list have no kind
