"""--restarts where pods are lost: only the lost one is replaced, and no checkpoint is lost with it."""

from __future__ import annotations

import json
import os
import re
import signal
from contextlib import suppress
from pathlib import Path

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
    (pod,) = json.loads(place.kubectl("-n", place.namespace, "get", "pods", "-l", selector, "-o", "json"))["items"]
    if how == "evicted":
        return evict(place, pod["metadata"]["name"])
    kill_container(pod["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://"))


def kill_container(container: str) -> None:
    """Kills all of a container at once, as the kernel does on nodes with cgroup v2 when it is out of memory."""
    processes = []
    for groups in Path("/proc").glob("[0-9]*/cgroup"):
        with suppress(OSError):  # it has ended
            if container in groups.read_text():
                processes.append(int(groups.parent.name))
    if not processes:
        pytest.skip("needs this machine to be the node")
    for process in processes:
        with suppress(ProcessLookupError):  # the end of the container's first is the others' end
            os.kill(process, signal.SIGKILL)


@pytest.mark.parametrize(("index", "how"), [("0", "deleted"), ("1", "deleted"), ("0", "evicted"), ("1", "killed")])
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


def test_after_a_replica_was_out_of_memory_all_start_again(cluster_place):
    script = cluster_place.script("""
        import os, time
        if os.environ["TFSPAWNER_RESTART"] == "0":
            if os.environ["TFSPAWNER_INDEX"] == "1":
                held = [bytearray(os.urandom(1024)) * 1024 for _ in range(512)]
            time.sleep(600)
        print("whole", flush=True)
    """)
    done = cluster_place.run(script, "--memory", "256Mi", "--restarts", "1", "--name", "grows")
    assert done.code == 0, done.err
    assert "restart 1 of 1: worker-1 was killed: out of memory (limit 256Mi)\n" in done.err
    assert done.out.count("whole") == 2
    assert cluster_place.leftovers() == []


def test_a_job_whose_restarts_are_over_is_not_started_again_by_kubernetes(cluster_place):
    place = cluster_place
    script = place.script("import os, signal\nprint('once more', flush=True)\nos.kill(os.getpid(), signal.SIGKILL)")
    name = place.run(script, "-w", "2", "--restarts", "1", "--detach", "--hold", "1s").out.strip()
    assert place.of("wait", name).code == 125
    place.kubectl("-n", place.namespace, "wait", f"job/{name}-worker", "--for=condition=Failed", "--timeout=60s")
    job = json.loads(place.kubectl("-n", place.namespace, "get", f"job/{name}-worker", "-o", "json"))
    reasons = {condition["reason"] for condition in job["status"]["conditions"] if condition["type"] == "Failed"}
    assert reasons == {"PodFailurePolicy"}


def test_a_lone_worker_to_which_nobody_sends_its_code_again_is_warned_of_and_ends_with_the_reason(
    cluster_place, wait_until
):
    place = cluster_place
    script = place.script("import time\nprint('begun', flush=True)\ntime.sleep(600)")
    (script.parent / "noise").write_bytes(__import__("random").Random(1).randbytes(2 << 20))  # so that it is uploaded
    options = ("-w", "1", "--restarts", "1", "--start-timeout", "15s", "--detach", "--name", "lone")
    launched = place.run(script, *options)
    assert launched.code == 0, launched.err
    assert (
        "warning: the code (2.0 MiB) is kept nowhere in the cluster: a pod that takes worker-0's place" in launched.err
    )
    wait_until(lambda: "begun" in place.of("logs", "lone").out, "the script")
    before = uids(place, "lone")
    lose(place, "lone", "0", "deleted")
    wait_until(lambda: uids(place, "lone").get("0", before["0"]) != before["0"], "another pod")
    ended = place.of("wait", "lone", timeout_s=120)
    assert ended.code != 0
    assert "worker-0 waits for its code, which is kept nowhere in the cluster" in ended.err
    assert "after --detach nobody does" in ended.err
    assert place.of("delete", "lone").code == 0
