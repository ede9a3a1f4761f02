"""1,000 workers until all pods run: `tf-spawner run` against a bare Indexed Job; and how many API calls it makes.

Needs 10 simulated nodes (kwok, 110 pods each) with the label type=kwok and the taint
kwok.x-k8s.io/node=fake:NoSchedule. Both commands are timed until the Job itself counts 1,000 ready pods, which
it does about once a second. The calls are counted in the tf-spawner process: a sitecustomize.py on its PYTHONPATH
writes down each request of urllib3. Those shown for 1,000 workers are the last round's.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import TF_SPAWNER, call, compare, namespace, until, write_script

ROUNDS = 7
POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"annotations": {"testcluster/run-for": "600s"}},
    "spec": {
        "containers": [{"name": "worker", "image": "simulated"}],
        "nodeSelector": {"type": "kwok"},
        "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists"}],
    },
}
COUNTER = """
import os
import urllib3.connectionpool

send = urllib3.connectionpool.HTTPConnectionPool.urlopen

def counted(pool, method, url, *args, **options):
    with open(os.environ["CALLS"], "a") as file:
        file.write(f"{method} {url}\\n")
    return send(pool, method, url, *args, **options)

urllib3.connectionpool.HTTPConnectionPool.urlopen = counted
"""


def by_tf_spawner(folder: Path, count: int) -> tuple[float, list[str], list[str]]:
    """Seconds until all run, the calls made until then, and those made to remove the job."""
    calls = folder / f"calls-{time.monotonic_ns()}"
    env = {**os.environ, "PYTHONPATH": str(folder), "CALLS": str(calls)}
    with namespace("bench-thousand") as space:
        command = [TF_SPAWNER, "run", str(folder / "code/script.py"), "-w", str(count), "--on", "kubernetes", "-n", space,
                   "--name", "ours", "--pod-file", str(folder / "pod.json"), "--out", str(folder / "runs")]  # fmt: skip
        began = time.monotonic()
        launcher = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until_ready(space, "ours-worker", count)
        seconds = time.monotonic() - began
        launch = calls.read_text().splitlines()
        launcher.send_signal(signal.SIGINT)  # removes the job
        launcher.wait(300)
        removal = calls.read_text().splitlines()[len(launch) :]
        wait_until_empty(space)
    return seconds, launch, removal


def by_kubectl(count: int) -> float:
    template = {"metadata": POD["metadata"], "spec": {**POD["spec"], "restartPolicy": "Never"}}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "bare"},
           "spec": {"completionMode": "Indexed", "completions": count, "parallelism": count, "template": template}}  # fmt: skip
    with namespace("bench-thousand") as space:
        began = time.monotonic()
        call("kubectl", "apply", "-n", space, "-f", "-", input=json.dumps(job))
        wait_until_ready(space, "bare", count)
        seconds = time.monotonic() - began
        call("kubectl", "delete", "job", "bare", "-n", space)
        wait_until_empty(space)
    return seconds


def wait_until_ready(space: str, job: str, count: int) -> None:
    """Watches the Job, so that both sides are looked at in the same, cheap way."""
    for condition in ("create", f"jsonpath={{.status.ready}}={count}"):
        call("kubectl", "wait", "-n", space, f"job/{job}", f"--for={condition}", "--timeout=300s")


def wait_until_empty(space: str) -> None:
    until(lambda: not call("kubectl", "get", "pods", "-n", space, "-o", "name"), pause_s=1)


def to_agents(calls: list[str]) -> int:
    return sum("/proxy/" in line for line in calls)


def main() -> None:
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_script(folder / "code", "print('never run: the nodes are simulated')\n")
        (folder / "pod.json").write_text(json.dumps(POD))
        (folder / "sitecustomize.py").write_text(COUNTER)
        _, *few = by_tf_spawner(folder, 10)
        for _ in range(ROUNDS):
            seconds, *many = by_tf_spawner(folder, 1000)
            ours.append(seconds)
            theirs.append(by_kubectl(1000))
    rows = {"tf-spawner run": ours, "kubectl apply, bare Indexed Job": theirs}
    passed = compare("1,000 workers, until all pods run", rows, at_most=1.2)
    print("\nAPI calls of tf-spawner run                     10 workers   1,000 workers")
    for title, number in (("launch, and follow until all run", 0), ("removal", 1)):
        counts = [len(calls[number]) - to_agents(calls[number]) for calls in (few, many)]
        print(f"  {title:42} {counts[0]:13} {counts[1]:15}")
        passed &= counts[1] <= counts[0] + 5  # a watch may end and begin again
    print(f"  tries to reach an agent (none answers here) {to_agents(few[0]):12} {to_agents(many[0]):15}")
    sys.exit(not passed)


if __name__ == "__main__":
    main()
