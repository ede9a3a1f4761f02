"""What a cluster can refuse: one clear message, exit code 2 or 3, and no object left."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import yaml

HI = "print('hi')"


def assert_refused(place, done, code: int, *words: str) -> None:
    assert done.code == code, done.err
    assert done.err.count("error: ") == 1, done.err
    error = done.err[done.err.index("error: ") :]
    for word in words:
        assert word in error, done.err
    assert "hint: " in error, done.err
    assert "Traceback" not in done.err
    assert done.out == ""
    if place.namespace:
        assert place.leftovers() == []


def apply(place, **manifest) -> None:
    place.kubectl("-n", place.namespace, "apply", "-f", "-", stdin=yaml.safe_dump(manifest))


def quota(place, **hard) -> None:
    """A quota that the API server knows of already: before, it would not be enforced."""
    manifest = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"}, "spec": {"hard": hard}}
    apply(place, **manifest)
    status = "jsonpath={.status.hard}"
    place.kubectl("-n", place.namespace, "wait", f"--for={status}", "resourcequota/small", "--timeout=30s")


def pod_file(place, **spec) -> Path:
    path = place.folder / "pod.yaml"
    path.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "any"}, "spec": spec}))
    return path


def test_pod_security_refuses_a_pod_file_on_the_hosts_network(cluster_place):
    file = pod_file(cluster_place, containers=[{"name": "tensorflow", "image": "any"}], hostNetwork=True)
    done = cluster_place.run(cluster_place.script(HI), "--pod-file", file)
    assert_refused(cluster_place, done, 3, "Pod Security", "hostNetwork", "--pod-file")


def test_a_privileged_pod_file_is_refused_by_pod_security_or_the_api_server_itself(cluster_place):
    container = {"name": "tensorflow", "image": "any", "securityContext": {"privileged": True}}
    file = pod_file(cluster_place, containers=[container])
    done = cluster_place.run(cluster_place.script(HI), "--pod-file", file)
    assert_refused(cluster_place, done, 3, "privileged", "--pod-file")


def test_pod_security_refuses_a_host_path(cluster_place):
    done = cluster_place.run(cluster_place.script(HI), "--volume", "/eos:/eos:ro")
    assert_refused(cluster_place, done, 3, "Pod Security", "hostPath", "--volume")


def test_a_quota_too_small_for_the_pods_is_told_with_its_numbers(cluster_place):
    quota(cluster_place, pods="1")
    done = cluster_place.run(cluster_place.script("import time; time.sleep(600)"), "-w", "2")
    assert_refused(cluster_place, done, 3, "quota", "pods=1", "limited: pods=1")


def test_a_quota_that_wants_requests_says_which_flags_give_them(cluster_place):
    quota(cluster_place, **{"requests.cpu": "4", "limits.memory": "4Gi"})
    done = cluster_place.run(cluster_place.script(HI))
    assert_refused(cluster_place, done, 3, "quota", "limits.memory", "--cpu", "--memory")


def test_a_quota_of_objects_is_told_and_what_was_created_is_removed(cluster_place):
    quota(cluster_place, **{"count/secrets": "0"})
    done = cluster_place.run(cluster_place.script(HI))
    assert_refused(cluster_place, done, 3, "quota", "count/secrets=0")


def test_a_limit_range_is_told_with_its_bound(cluster_place):
    limits = [{"type": "Container", "max": {"memory": "100Mi"}, "default": {"memory": "50Mi"}}]
    metadata = {"name": "small"}
    apply(cluster_place, apiVersion="v1", kind="LimitRange", metadata=metadata, spec={"limits": limits})
    done = cluster_place.run(cluster_place.script(HI), "--memory", "1Gi")
    assert_refused(cluster_place, done, 3, "LimitRange", "100Mi", "1Gi", "--memory")


def test_an_image_that_cannot_be_pulled_is_named_with_the_pull_secret_that_is_missing(cluster_place):
    image = "registry.invalid/no/such:image"
    done = cluster_place.run(cluster_place.script(HI), "-w", "1", "-i", image, "--image-pull-secret", "no-such-secret")
    assert_refused(cluster_place, done, 3, "worker-0 cannot pull its image", image, "no-such-secret")
    assert done.seconds < 60


def test_a_pod_that_fits_on_no_node_is_told_with_the_numbers(cluster_place):
    done = cluster_place.run(cluster_place.script(HI), "--cpu", "1000", "--start-timeout", "3s")
    assert_refused(cluster_place, done, 3, "cannot be scheduled", "Insufficient cpu", "it asks for cpu 1")
    assert "0/" in done.err, "how many nodes there are is not told"
    assert done.seconds < 20


def test_a_node_selector_that_no_node_has_is_told(cluster_place):
    done = cluster_place.run(
        cluster_place.script(HI), "-w", "1", "--node-selector", "no-such=label", "--start-timeout", "3s"
    )
    assert_refused(cluster_place, done, 3, "cannot be scheduled", "selector", "kubectl get nodes --show-labels")


def test_a_claim_that_is_not_there_is_named(cluster_place):
    done = cluster_place.run(
        cluster_place.script(HI), "-w", "1", "--volume", "no-such-claim:/data", "--start-timeout", "3s"
    )
    assert_refused(cluster_place, done, 3, "cannot be scheduled", '"no-such-claim" not found', "kubectl get pvc")


def test_a_secret_that_a_pod_file_names_and_is_not_there_is_named(cluster_place):
    reference = {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "no-such-secret", "key": "password"}}}
    file = pod_file(cluster_place, containers=[{"name": "tensorflow", "image": "any", "env": [reference]}])
    done = cluster_place.run(cluster_place.script(HI), "-w", "1", "--pod-file", file)
    assert_refused(cluster_place, done, 3, "worker-0 cannot start", '"no-such-secret" not found')
    assert done.seconds < 60


def test_a_service_account_that_is_not_there_is_named(cluster_place):
    done = cluster_place.run(cluster_place.script(HI), "--service-account", "nobody")
    assert_refused(cluster_place, done, 3, '"nobody" not found', "--service-account")


def test_an_image_without_python_is_told(cluster_place):
    path = "/no/such/python3"
    template = (Path(__file__).parents[2] / "templates/job.yaml").read_text().replace('["python3",', f'["{path}",')
    (cluster_place.folder / "templates").mkdir()
    (cluster_place.folder / "templates/job.yaml").write_text(template)
    done = cluster_place.run(cluster_place.script(HI), "-w", "1", "--template-dir", cluster_place.folder / "templates")
    assert done.code in (3, 125), done.err
    assert "worker-0 could not start: its image has no python3" in done.err
    assert "Python 3.9 or newer" in done.err
    assert cluster_place.leftovers() == []


def test_an_unknown_context_is_a_configuration_error_that_lists_the_known_ones(cluster_place):
    done = cluster_place.run(cluster_place.script(HI), "--context", "prodcution")
    assert_refused(cluster_place, done, 2, "there is no context 'prodcution'", "its contexts are: test")


def test_a_kubeconfig_that_is_not_there_is_a_configuration_error(cluster_place):
    done = cluster_place.run(cluster_place.script(HI), "--kubeconfig", cluster_place.folder / "no-such-file")
    assert_refused(cluster_place, done, 2, "no-such-file")


@pytest.mark.parametrize("verb", ["run", "list", "status", "delete"])
def test_an_api_server_that_does_not_answer_is_told_with_its_address(cluster_place, verb):
    with socket.socket() as bound:  # bound, and nobody listens: a connection is refused
        bound.bind(("127.0.0.1", 0))
        address = f"https://127.0.0.1:{bound.getsockname()[1]}"
        path = cluster_place.folder / "kubeconfig"
        config = yaml.safe_load(path.read_text())
        config["clusters"][0]["cluster"]["server"] = address
        closed = cluster_place.folder / "closed"
        closed.write_text(yaml.safe_dump(config))
        words = {"run": [cluster_place.script(HI)], "list": []}.get(verb, ["some-job"])
        done = cluster_place.of(verb, *words, "--kubeconfig", closed)
    assert_refused(cluster_place, done, 3, f"the API server {address} cannot be reached", "refused")
    assert done.seconds < 20


def test_a_token_that_the_api_server_does_not_know_is_told(cluster_place):
    config = yaml.safe_load((cluster_place.folder / "kubeconfig").read_text())
    config["users"][0]["user"] = {"token": "of-yesteryear"}
    (cluster_place.folder / "stale").write_text(yaml.safe_dump(config))
    done = cluster_place.run(cluster_place.script(HI), "--kubeconfig", cluster_place.folder / "stale")
    assert_refused(cluster_place, done, 3, "does not accept this login", "log in")


def test_a_verb_that_is_forbidden_is_named_with_the_role_that_allows_it(cluster_place):
    namespace = cluster_place.namespace
    role = yaml.safe_load(cluster_place.kubectl("-n", namespace, "get", "role", "tf-spawner", "-o", "yaml"))
    for rule in role["rules"]:
        if "jobs" in rule["resources"]:
            rule["verbs"].remove("create")
    cluster_place.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(role))
    done = cluster_place.run(cluster_place.script(HI))
    assert_refused(cluster_place, done, 3, "create jobs", namespace, f"tf-spawner rbac -n {namespace}")


def test_the_printed_role_is_enough_and_each_rule_of_it_is_needed_by_the_check(cluster_place):
    """Without any one of its verbs, run says so before anything is created."""
    namespace = cluster_place.namespace
    text = cluster_place.kubectl("-n", namespace, "get", "role", "tf-spawner", "-o", "yaml")
    rules = yaml.safe_load(text)["rules"]
    for number in range(len(rules)):
        role = yaml.safe_load(text)
        resources, verb = rules[number]["resources"], role["rules"][number]["verbs"].pop(0)
        role["rules"] = [rule for rule in role["rules"] if rule["verbs"]]
        role["metadata"].pop("resourceVersion")
        cluster_place.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(role))
        done = cluster_place.run(cluster_place.script(HI))
        assert_refused(cluster_place, done, 3, *(f"{verb} {resource}" for resource in resources))


def test_another_namespace_than_the_roles_is_refused(cluster_place):
    done = cluster_place.run(cluster_place.script(HI), "-n", "kube-system")
    assert_refused(cluster_place, done, 3, "create jobs", "namespace kube-system", "tf-spawner rbac -n kube-system")


def test_a_namespace_that_is_not_there_is_told(cluster_place):
    admin = os.environ["KUBECONFIG"]  # to another user, namespaces that are not there are just forbidden
    done = cluster_place.run(cluster_place.script(HI), "-n", "no-such-namespace", "--kubeconfig", admin)
    assert_refused(cluster_place, done, 3, "there is no namespace 'no-such-namespace'")


def test_render_needs_no_right_and_no_cluster(cluster_place):
    """What is refused above can be looked at before."""
    done = cluster_place.tf("render", cluster_place.script(HI), "--volume", "/eos:/eos:ro", "--name", "shown")
    assert done.code == 0, done.err
    assert "hostPath" in done.out


def test_objects_of_others_that_have_the_names_are_left_alone(cluster_place):
    for words in (
        ("configmap", "precious", "--from-literal=a=b"),
        ("secret", "generic", "precious", "--from-literal=a=b"),
        ("service", "clusterip", "precious", "--tcp=80"),
    ):
        cluster_place.kubectl("-n", cluster_place.namespace, "create", *words)
    before = cluster_place.leftovers()
    done = cluster_place.run(cluster_place.script("print('hi')"), "--name", "precious")
    assert done.code == 2, done.err
    assert "the name 'precious' is in use by a " in done.err
    assert cluster_place.leftovers() == before
    assert not (cluster_place.runs / "precious").exists()
