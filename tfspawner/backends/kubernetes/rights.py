"""What a user may do in a namespace, compared with what a job needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tfspawner.base.fields import mapping, mappings
from tfspawner.errors import ClusterError

from .api import Api
from .manifests import role_manifest


class Rights:
    """The rights of this user in the namespace, as check() has read them."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.rules: list[Mapping[str, Any]] = []

    def check(self) -> None:
        """Asks in one request what this user may do. Raises ClusterError for a missing right, or without an answer."""
        namespace = self.api.namespace
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectRulesReview",
            "spec": {"namespace": namespace},
        }
        answer = self.api.request("POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", review)
        self.rules = mappings(answer, "status", "resourceRules")
        if mapping(answer, "status").get("incomplete"):
            return  # the authorizer cannot list its rules; the later requests will show what is allowed
        missing = [
            f"{verb} {resource}"
            for group, resource, verb in _needed(role_manifest(None))
            if not self.allow(group, resource, verb)
        ]
        if missing:
            raise ClusterError(
                f"you may not {', '.join(missing)} in namespace {namespace}",
                hint=f"have the Role applied and bound that allows it: tf-spawner rbac -n {namespace}",
            )

    def allow(self, group: str, resource: str, verb: str) -> bool:
        """Whether one of the rules allows the verb on all objects of the kind."""
        return any(_allows(rule, group, resource, verb) for rule in self.rules)


def _needed(role: str) -> Iterator[tuple[str, str, str]]:
    import yaml

    for rule in yaml.safe_load(role)["rules"]:
        for resource in rule["resources"]:
            for verb in rule["verbs"]:
                yield rule["apiGroups"][0], resource, verb


def _allows(rule: Mapping[str, Any], group: str, resource: str, verb: str) -> bool:
    def matches(key: str, value: str) -> bool:
        return any(word in ("*", value) for word in rule.get(key) or [])

    return (
        matches("apiGroups", group)
        and matches("resources", resource)
        and matches("verbs", verb)
        and not rule.get("resourceNames")
    )
