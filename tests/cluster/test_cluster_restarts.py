"""--restarts where pods are lost: only the lost one is replaced, and no checkpoint is lost with it."""

from __future__ import annotations

import json
import re

import pytest

STEPS = """
import os, pathlib, time
folder, index = pathlib.Path(os.environ["TFSPAWNER_CHECKPOINTS"]), os.environ["TFSPAWNER_INDEX"]
done = int((folder / "step").read_text()) if (folder / "step").exists() else 0
print("from step", done, flush=True)
for step in range(done, 400):
    if os.environ["TFSPAWNER_RESTART"] == "0":
        time.sleep(0.1)
    if index == "0":
        (folder / "new").write_text(str(step + 1))
        (folder / "new").replace(folder / "step")
    if step == 50:
        print("step 50", flush=True)
print("whole", flush=True)
"""
INDEX = "batch.kubernetes.io/job-completion-index"


def uids(place, job: str) -> dict[str, str]:
    pods = json.loads(place.kubectl("-n", place.namespace, "get", "pods", "-l", f"tf-spawner/job={job}", "-o", "json"))
    return {pod["metadata"]["labels"][INDEX]: pod["metadata"]["uid"] for pod in pods["items"]}


def evict(place, pod: str) -> None:
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": place.namespace}}
    path = f"/api/v1/namespaces/{place.namespace}/pods/{pod}/eviction"
    place.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))


def lose(place, job: str, index: str, how: str) -> None:
    selector = f"tf-spawner/job={job},{INDEX}={index}"
    if how == "deleted":
        place.kubectl("-n", place.namespace, "delete", "pod", "-l", selector, "--wait=false")
        return
    names = place.kubectl("-n", place.namespace, "get", "pods", "-l", selector, "-o", "name").split()
    evict(place, names[0].removeprefix("pod/"))


@pytest.mark.parametrize(("index", "how"), [("0", "deleted"), ("1", "deleted"), ("0", "evicted")])
def test_a_lost_pod_alone_is_replaced_and_training_goes_on_from_the_checkpoint(cluster_place, wait_until, index, how):
    place = cluster_place
    script = place.script(STEPS)
    (script.parent / "weights").write_bytes(bytes(range(256)) * 8192)  # 2 MiB, so that the code is uploaded
    (script.parent / "noise").write_bytes(__import__("random").Random(1).randbytes(2 << 20))
    running = place.start_run(script, "-w", "3", "--restarts", "1", "--name", "loses")
    running.prints(*(f"worker-{number} | step 50" for number in range(3)))
    before = uids(place, "loses")
    lose(place, "loses", index, how)
    wait_until(lambda: uids(place, "loses").get(index, before[index]) != before[index], "another pod")
    assert {i: uid for i, uid in uids(place, "loses").items() if i != index} == {
        i: before[i] for i in "012" if i != index
    }
    running.prints("restart 1 of 1: worker-" + index, stream="stderr", timeout_s=90)
    running.prints(*(f"worker-{number} | whole" for number in range(3)), timeout_s=90)
    done = running.done()
    assert done.code == 0, done.err
    for number in range(3):
        log = (place.runs / f"loses/logs/worker-{number}.log").read_text()
        starts = [int(found) for found in re.findall(r"from step (\d+)", log)]
        assert starts[0] == 0
        assert 25 <= starts[-1] <= 400, f"worker-{number} began at {starts}"
        assert log.count("whole") == 1
    assert place.leftovers() == []


# On nodes with cgroup v2 the kernel ends all of a container that is out of memory; elsewhere the process that grew.
GROWS = """
import os, time
if os.environ["TFSPAWNER_RESTART"] == "0":
    print("ready", flush=True)
    while not os.path.exists("/tmp/gate"):
        time.sleep(0.05)
    if os.environ["TFSPAWNER_INDEX"] == "1":
        open("/proc/1/oom_score_adj", "w").write(AGENT)
        held = [bytearray(os.urandom(1024)) * 1024 for _ in range(512)]
    time.sleep(600)
print("whole", flush=True)
"""


@pytest.mark.parametrize("agent", ["0", "1000"], ids=["the-script", "the-container"])
def test_after_a_replica_was_out_of_memory_all_start_again(cluster_place, agent):
    place = cluster_place
    script = place.script(GROWS.replace("AGENT", repr(agent)))
    running = place.start_run(script, "-w", "2", "--memory", "64Mi", "--restarts", "1", "--name", "grows")
    running.prints("worker-0 | ready", "worker-1 | ready")
    before = uids(place, "grows")
    place.open_gate("grows", "worker-1")
    running.prints("worker-0 | whole", "worker-1 | whole", timeout_s=90)
    after = uids(place, "grows")
    done = running.done()
    print(done.err, (place.runs / "grows/events.jsonl").read_text())
    assert done.code == 0, done.err
    assert (after["0"], after["1"] == before["1"]) == (before["0"], agent == "0")
    told = (
        "restart 1 of 1: worker-1 was killed: out of memory (limit 64Mi)\n"
        if agent == "0"
        else "restart 1 of 1: worker-1 was lost"
    )
    assert told in done.err
    assert place.leftovers() == []


def test_a_job_whose_restarts_are_over_is_not_started_again_by_kubernetes(cluster_place):
    place = cluster_place
    script = place.script("import os, signal\nprint('once more', flush=True)\nos.kill(os.getpid(), signal.SIGKILL)")
    name = place.run(script, "-w", "2", "--restarts", "1", "--detach", "--hold", "1s").out.strip()
    assert place.of("wait", name).code == 125
    place.kubectl("-n", place.namespace, "wait", f"job/{name}-worker", "--for=condition=Failed", "--timeout=60s")
    job = json.loads(place.kubectl("-n", place.namespace, "get", f"job/{name}-worker", "-o", "json"))
    reasons = {condition["reason"] for condition in job["status"]["conditions"] if condition["type"] == "Failed"}
    assert reasons == {"PodFailurePolicy"}
