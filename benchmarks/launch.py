"""From the command to the script's first line on 2 pods: `tf-spawner run` against `kubectl apply`.

The script itself prints the time, so the cluster's node must have this machine's clock. kubectl gets the
manifests of `tf-spawner render`, not suspended, ready before its clock starts: once in the order in which they
are rendered, where pods may come before what they mount, and once with the Job last. The placeholder that
render shows for the token serves as one.
"""

import re
import sys
import tempfile
import time
from pathlib import Path

import yaml
from common import TF_SPAWNER, call, compare, namespace, until, write_script

SCRIPT = "import time\nprint('STARTED', time.time(), flush=True)\n"
ROUNDS = 11
KINDS = "jobs,configmaps,services,secrets,networkpolicies"


def by_tf_spawner(script: str, space: str, runs: Path) -> float:
    began = time.time()
    output = call(TF_SPAWNER, "run", script, "-w", "2", "--on", "kubernetes", "-n", space, "--out", str(runs))
    return first_line(output) - began


def by_kubectl(script: str, space: str, name: str, *, job_last: bool) -> float:
    rendered = call(TF_SPAWNER, "render", script, "-w", "2", "-n", space, "--name", name)
    job, *others = yaml.safe_load_all(rendered)
    job["spec"]["suspend"] = False
    manifests = yaml.safe_dump_all([*others, job] if job_last else [job, *others])
    pods = ("-n", space, "-l", f"tf-spawner/job={name}")
    began = time.time()
    call("kubectl", "apply", "-f", "-", input=manifests)
    time.sleep(3)  # asking for the logs would take processor time from what is measured
    until(lambda: call("kubectl", "logs", *pods, "--ignore-errors").count("STARTED") == 2)
    started = first_line(call("kubectl", "logs", *pods))
    call("kubectl", "delete", KINDS, *pods)
    until(lambda: not call("kubectl", "get", "pods", *pods, "-o", "name"))
    return started - began


def first_line(output: str) -> float:
    return min(float(found) for found in re.findall(r"STARTED ([\d.]+)", output))


def main() -> None:
    rows: dict[str, list[float]] = {
        "tf-spawner run": [],
        "kubectl apply, as rendered": [],
        "kubectl apply, Job last": [],
    }
    ours, as_rendered, job_last = rows.values()
    with tempfile.TemporaryDirectory() as name, namespace("bench-launch") as space:
        script = write_script(Path(name, "code"), SCRIPT)
        by_tf_spawner(script, space, Path(name, "runs"))  # all is warm from here on
        for number in range(ROUNDS):
            ours.append(by_tf_spawner(script, space, Path(name, "runs")))
            as_rendered.append(by_kubectl(script, space, f"rendered-{number}", job_last=False))
            job_last.append(by_kubectl(script, space, f"last-{number}", job_last=True))
    sys.exit(not compare("launch of 2 workers, to the script's first line", rows, at_most=1.3))


if __name__ == "__main__":
    main()
