"""--egress: which connections of a job's pods its NetworkPolicy allows, as Kubernetes reads it."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from tfspawner.backends.kubernetes.manifests import render
from tfspawner.errors import ConfigurationError
from tfspawner.plan.egress import Destination, destinations

MINE, ANOTHER, DNS = {"tf-spawner/job": "mine"}, {"tf-spawner/job": "mine-too"}, {"k8s-app": "kube-dns"}


def policy_of(make_fixed_plan, *egress: str) -> dict[str, Any]:
    manifests = render(make_fixed_plan("mine", egress=egress))
    return next(m["spec"] for m in manifests if m["kind"] == "NetworkPolicy")


def allows(policy: dict[str, Any], port: int, *, address: str = "", pod: dict[str, str] | None = None,
           namespace: str = "same", protocol: str = "TCP") -> bool:  # fmt: skip
    """Whether a policy lets its pods connect there: as the API's documentation says of rules, peers and ports."""
    if "Egress" not in policy["policyTypes"]:
        return True

    def is_peer(peer: dict[str, Any]) -> bool:
        if "ipBlock" in peer:
            assert peer["ipBlock"].keys() == {"cidr"}
            return bool(address) and ipaddress.ip_address(address) in ipaddress.ip_network(peer["ipBlock"]["cidr"])
        if pod is None:
            return False
        if "namespaceSelector" in peer:
            assert peer == {"namespaceSelector": {}}, "all pods of all namespaces"
            return True
        return namespace == "same" and peer["podSelector"]["matchLabels"].items() <= pod.items()

    def has_port(rule: dict[str, Any]) -> bool:
        ports = rule.get("ports")
        return ports is None or any(p["port"] == port and p.get("protocol", "TCP") == protocol for p in ports)

    return any(has_port(rule) and any(map(is_peer, rule["to"])) for rule in policy["egress"])


def test_without_the_option_pods_connect_anywhere(make_fixed_plan):
    assert policy_of(make_fixed_plan)["policyTypes"] == ["Ingress"]
    assert "egress" not in policy_of(make_fixed_plan)


def test_none_leaves_the_jobs_own_pods_and_names(make_fixed_plan):
    policy = policy_of(make_fixed_plan, "none")
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    for port in (2222, 7117, 53):
        assert allows(policy, port, pod=MINE)
    for protocol in ("TCP", "UDP"):
        assert allows(policy, 53, pod=DNS, namespace="kube-system", protocol=protocol)
        assert allows(policy, 53, address="169.254.20.10", protocol=protocol), "the node's cache of names"
    assert not allows(policy, 7117, pod=ANOTHER)
    assert not allows(policy, 2222, pod=MINE, namespace="another")
    assert not allows(policy, 80, address="169.254.169.254"), "the cloud's metadata, with the node's credentials"
    for address in ("10.96.0.1", "192.0.2.1", "2001:db8::1", "8.8.8.8"):
        assert not allows(policy, 443, address=address)
        assert not allows(policy, 53, address=address, protocol="UDP"), (
            "a server of names anywhere carries anything out"
        )


def test_what_is_named_can_be_reached_and_its_neighbours_cannot(make_fixed_plan):
    policy = policy_of(make_fixed_plan, "192.0.2.0/24:443", "198.51.100.7", "[2001:db8::/32]:1094")
    assert allows(policy, 443, address="192.0.2.200")
    assert not allows(policy, 80, address="192.0.2.200")
    assert not allows(policy, 443, address="192.0.3.1")
    assert allows(policy, 9000, address="198.51.100.7")
    assert allows(policy, 53, address="198.51.100.7", protocol="UDP")
    assert not allows(policy, 9000, address="198.51.100.8")
    assert allows(policy, 1094, address="2001:db8::5")
    assert not allows(policy, 443, address="2001:db8::5")
    assert allows(policy, 2222, pod=MINE)


def test_what_may_come_in_is_the_same(make_fixed_plan):
    assert policy_of(make_fixed_plan, "none")["ingress"] == policy_of(make_fixed_plan)["ingress"]


@pytest.mark.parametrize(
    ("word", "cidr", "port"),
    [
        ("192.0.2.7", "192.0.2.7/32", None),
        ("192.0.2.7:9000", "192.0.2.7/32", 9000),
        ("192.0.2.0/24", "192.0.2.0/24", None),
        ("0.0.0.0/0:443", "0.0.0.0/0", 443),
        ("2001:db8::7", "2001:db8::7/128", None),
        ("2001:db8::/32", "2001:db8::/32", None),
        ("::/0", "::/0", None),
        ("[2001:db8::7]:443", "2001:db8::7/128", 443),
        ("[2001:db8::/32]", "2001:db8::/32", None),
    ],
)
def test_addresses_and_ports(word, cidr, port):
    assert destinations([word]) == (Destination(cidr=cidr, port=port),)


@pytest.mark.parametrize(
    "word",
    ["", "s3.example.org", "s3.example.org:443", "192.0.2.7:0", "192.0.2.7:65536", "192.0.2.7/24", "192.0.2.0/33", "300.1.1.1", "192.0.2.7:",
     "192.0.2.7:http", "١٩٢.0.2.7", "[2001:db8::/32", "2001:db8::zz", "192.0.2.0/24:443\n", "None", "any", "192.0.2.7:443,80", ":443", "[]:443", "1:2:3"],
)  # fmt: skip
def test_what_names_no_address_is_refused_with_its_value(word, make_fixed_plan):
    with pytest.raises(ConfigurationError) as error:
        make_fixed_plan("mine", egress=(word,))
    assert repr(word) in error.value.message
    assert error.value.hint


def test_none_and_more_contradict_each_other(make_fixed_plan):
    with pytest.raises(ConfigurationError, match="'none' and more"):
        make_fixed_plan("mine", egress=("none", "192.0.2.7"))
