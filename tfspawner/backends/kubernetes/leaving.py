"""A deleted job's objects: waits until they are gone from the cluster, and names what still holds them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from tfspawner.base.fields import mapping, text
from tfspawner.base.names import shown
from tfspawner.errors import ClusterError, NotFoundError

from .api import Api, Conflict
from .manifests import JOB_LABEL
from .objects import Launched, owner_uids, shown_name

TOLD_AFTER_S = 5.0  # so long a finalizer may hold an object before it is mentioned
AGAIN_S = 0.5
MOST_NAMED = 5
CLUSTERS_OWN = ("foregroundDeletion", "batch.kubernetes.io/job-tracking")  # finalizers that its controllers remove

Manifest = Mapping[str, Any]


def delete_object(api: Api, path: str, uid: str, policy: str = "Background") -> Manifest | None:
    """Deletes the object of that uid; as it is left there, if something holds it."""
    try:
        reply = api.request("DELETE", path, {"propagationPolicy": policy, "preconditions": {"uid": uid}})
    except (NotFoundError, Conflict):
        return None  # it is gone, or another's by now
    return mapping(reply) if text(reply, "metadata", "uid") == uid else None


class Leaving:
    """What is left of one job that is being deleted."""

    def __init__(self, api: Api, launched: Launched, note: Callable[[str], None] | None) -> None:
        self.api, self.launched, self.note = api, launched, note
        self.pods: dict[str, Manifest] | None = None  # by uid; None until they were listed
        self.held: dict[str, Manifest] = {}  # other objects, by path: deleted, and still there
        self.told: set[str] = set()

    def delete(self, path: str, uid: str, policy: str = "Background") -> None:
        """Deletes the object of that uid, and remembers it where a finalizer holds it."""
        left = delete_object(self.api, path, uid, policy)
        if left:
            self.held[path] = left

    def delete_part(self, path: str, kind: str) -> None:
        """Deletes an object if the job owns it: only its name is known."""
        try:
            there = self.api.request("GET", path, kind=kind)
        except NotFoundError:
            return
        if self.launched.uids.keys() & owner_uids(there):
            self.delete(path, text(there, "metadata", "uid"))

    def wait(self, timeout_s: float) -> None:
        """Returns when all is gone. Raises ClusterError after timeout_s."""
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
        """Looks at the job's pods by one watch, until none is left or the time is over; while none are listed, nothing is known."""
        found: dict[str, Manifest] = {}
        path = f"/api/v1/namespaces/{self.api.namespace}/pods"
        for event in self.api.watch(path, f"labelSelector={JOB_LABEL}={self.launched.job}", threading.Event(), for_s):
            uid = text(event["object"], "metadata", "uid")
            if event["type"] == "SYNCED":
                self.pods = found
            elif event["type"] == "DELETED":
                found.pop(uid, None)
            elif self.launched.uids.keys() & owner_uids(event["object"]):
                found[uid] = event["object"]
            if self.pods is found and not found:
                return

    def _tell(self) -> None:
        """Names each object that others hold, once; the pods of a Job that is held are ended all the same."""
        for path, there in list(self.held.items()):
            uid = text(there, "metadata", "uid")
            if foreign_finalizers(there) and uid in self.launched.uids and uid not in self.told:
                self.told.add(uid)
                self.delete(path, uid, "Foreground")
        for words in self._waiting():
            if words not in self.told:
                self.told.add(words)
                if self.note:
                    self.note(f"job {self.launched.job}: {words}")

    def _waiting(self) -> list[str]:
        return [
            f"{_kind(there)} {shown_name(there)} waits for the finalizer {', '.join(map(shown_finalizer, found))}"
            for there in (*self.held.values(), *(self.pods or {}).values())
            if (found := foreign_finalizers(there))
        ]

    def _still_there(self, timeout_s: float) -> ClusterError:
        job, namespace = self.launched.job, self.api.namespace
        left = [*self.held.values(), *(self.pods or {}).values()]
        if not left:
            return ClusterError(
                f"whether the pods of job {job} are gone cannot be known: the API server has not listed them for {timeout_s:g} s",
                hint=f"see: kubectl get pods -n {namespace} -l {JOB_LABEL}={job}",
            )
        finalizers = self._waiting()
        waiting = finalizers or [f"{_kind(there)} {shown_name(there)} is still there" for there in left]
        more = f", and {len(waiting) - MOST_NAMED} more" if len(waiting) > MOST_NAMED else ""
        first = next((there for there in left if foreign_finalizers(there)), left[0])
        look = f"see: kubectl get {_kind(first).lower()} -n {namespace} {shown_name(first)} -o yaml"
        is_found = any(text(there, "kind") == "Job" for there in self.held.values())
        then = f"then: tf-spawner delete {job}" if is_found else "all else of the job is gone"
        who = "who set a finalizer has to take it away; " if finalizers else ""
        return ClusterError(
            f"job {job} is not all gone after {timeout_s:g} s: {'; '.join(waiting[:MOST_NAMED])}{more}",
            hint=f"{who}{look}; {then}",
        )


def foreign_finalizers(there: object) -> list[str]:
    """Those of an object that is being deleted which others than the cluster's own controllers have to remove."""
    metadata = mapping(there, "metadata")
    if not metadata.get("deletionTimestamp"):
        return []
    return [name for name in metadata.get("finalizers") or [] if isinstance(name, str) and name not in CLUSTERS_OWN]


def shown_finalizer(name: str) -> str:
    """A finalizer's name for a message; cut and made harmless where it is long or odd."""
    return name if name.isprintable() and len(name) < 100 else shown(name)


def _kind(there: object) -> str:
    return text(there, "kind") or "Pod"  # objects of a list do not say it
