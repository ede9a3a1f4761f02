"""What the API server stores and the kernel enforces for a job's pods, and who can reach them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from confinement import CLOSED, LOOKS

CONFINEMENT = """
import os
status = dict(line.rstrip("\\n").split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
for key in ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp"):
    print(key, status[key])
print("secrets", os.path.exists("/var/run/secrets/kubernetes.io"))
print("read-only", bool(os.statvfs("/").f_flag & os.ST_RDONLY))
print("services", [name for name in os.environ if name.endswith("_SERVICE_HOST") and not name.startswith("KUBERNETES_")])
"""


def get(place, *words: str) -> Any:
    return json.loads(place.kubectl("-n", place.namespace, "get", *words, "-o", "json"))


def test_the_kernel_confines_the_script(cluster_place):
    done = cluster_place.run(cluster_place.script(CONFINEMENT), "-w", "1")
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        "worker-0 | CapEff 0000000000000000",
        "worker-0 | CapBnd 0000000000000000",
        "worker-0 | NoNewPrivs 1",
        "worker-0 | Seccomp 2",
        "worker-0 | secrets False",
        "worker-0 | read-only True",
        "worker-0 | services []",
    ]


def test_a_script_cannot_look_into_its_agent_nor_stop_it(cluster_place):
    kills = "\nimport signal, time\nos.kill(1, signal.SIGKILL)\nos.kill(1, signal.SIGSTOP)\ntime.sleep(1)\nprint('still there')\n"
    done = cluster_place.run(cluster_place.script(LOOKS + kills), "-w", "1")
    assert done.code == 0, done.err
    lines = [line.removeprefix("worker-0 | ") for line in done.out.splitlines()]
    assert lines[-2:] == ["False", "still there"]
    assert dict(line.split(" ", 1) for line in lines[:-2]) == CLOSED


@pytest.fixture
def two_jobs(cluster_place, gate_code):
    """Two jobs that wait at their gates, with all roles and with one."""
    script = cluster_place.script(gate_code)
    gate = ("--env", f"GATE={cluster_place.gate}", "--env", "PASSWORD=canary-value", "-t", "night")
    roles = {"mine": ("--chief", "--ps", "1", "--evaluator"), "mine-too": ()}
    running = [
        cluster_place.start_run(script, "--name", name, "-w", "1", *gate, *words) for name, words in roles.items()
    ]
    running[0].prints(*(f"{role}-0 | at the gate" for role in ("chief", "worker", "ps", "evaluator")))
    running[1].prints("worker-0 | at the gate")
    return cluster_place


def test_every_pod_is_restricted_and_holds_no_value(two_jobs):
    pods = get(two_jobs, "pods")["items"]
    assert len(pods) == 5
    for pod in pods:
        spec, text = pod["spec"], json.dumps(pod)
        assert "canary-value" not in text
        assert spec["automountServiceAccountToken"] is False
        assert "serviceAccountToken" not in text
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True,
            }  # fmt: skip


@pytest.mark.parametrize("job", ["mine", "mine-too"])
def test_the_network_policy_selects_exactly_its_jobs_pods(two_jobs, job):
    policy = get(two_jobs, "networkpolicy", job)["spec"]
    among, from_all = policy["ingress"]
    selectors = [policy["podSelector"], *(source["podSelector"] for source in among["from"])]
    for selector in selectors:
        assert selector.keys() == {"matchLabels"}
        labels = ",".join(f"{key}={value}" for key, value in selector["matchLabels"].items())
        selected = {pod["metadata"]["name"] for pod in get(two_jobs, "pods", "-l", labels)["items"]}
        assert selected == set(two_jobs.pods(job))
        assert len(selected) == (4 if job == "mine" else 1)
    assert "ports" not in among, "all ports are open among them"
    assert from_all == {"ports": [{"port": 7117, "protocol": "TCP"}]}
    assert policy["policyTypes"] == ["Ingress"]


def test_no_service_opens_a_port_to_the_outside(two_jobs):
    for service in get(two_jobs, "services")["items"]:
        assert (service["spec"]["type"], service["spec"]["clusterIP"]) == ("ClusterIP", "None")
        assert [port["port"] for port in service["spec"]["ports"]] == [7117]


def test_a_pod_of_another_job_is_a_stranger_to_the_agent(two_jobs):
    """It reaches the agent's port, and is told nothing there, not even with its own job's token."""
    (pod,) = two_jobs.pods("mine-too")
    address = next(
        p["status"]["podIP"] for p in get(two_jobs, "pods")["items"] if "mine-chief-0" in p["metadata"]["name"]
    )
    asks = (
        "import http.client, os, sys\n"
        "sys.path.insert(0, '/tf-spawner/replica.zip')\n"
        "from replica.proofs import Key\n"
        "from replica.protocol import PROOF_HEADER\n"
        "proof = Key(os.environ['TFSPAWNER_TOKEN']).request('chief-0', 'GET', '/status')\n"
        "for headers in ({}, {PROOF_HEADER: proof}):\n"
        f"    c = http.client.HTTPConnection('{address}', 7117, timeout=20)\n"
        "    c.request('GET', '/status', headers=headers)\n"
        "    r = c.getresponse()\n"
        "    print(r.status, r.headers['Server'], r.headers[PROOF_HEADER], r.read().decode())\n"
    )
    told = two_jobs.kubectl("-n", two_jobs.namespace, "exec", pod, "--", "python3", "-c", asks)
    assert told == 2 * "401 tf-spawner None the request does not prove that it knows the job's token\n"


def test_a_field_that_smuggles_yaml_is_refused_by_tf_spawner_or_the_api_server_and_leaves_nothing(cluster_place):
    script = cluster_place.script("print('never')")
    smuggled = 'x"}\n      hostNetwork: true\n      a: {"b": "c'
    for option in (
        "--node-selector",
        "--queue",
        "--service-account",
        "--tag",
        "--image",
        "--toleration",
        "--artifacts",
    ):
        value = f"k={smuggled}" if option == "--node-selector" else smuggled
        done = cluster_place.run(script, option, value)
        assert done.code in (2, 3), (option, done.err)
        assert "Traceback" not in done.err
        assert cluster_place.leftovers() == [], option
