"""Bringing home 1 GiB, and 10,000 small files, from one pod: `tf-spawner fetch` against `kubectl cp` and `kubectl exec`.

fetch also checks each file by SHA-256, which the agent computes once: it is the first fetch that pays for it, so
each round has a pod of its own. kubectl cp needs tar in the image; for the one file there is `kubectl exec -- cat` as well.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import TF_SPAWNER, call, compare, namespace, seconds_of, write_script

BIG = """
import os
with open(os.environ["TFSPAWNER_OUTPUT"] + "/big", "wb") as file:
    for _ in range(1024):
        file.write(os.urandom(1 << 20))
"""
SMALL = """
import os
os.mkdir(os.environ["TFSPAWNER_OUTPUT"] + "/small")
for number in range(10_000):
    with open(f"{os.environ['TFSPAWNER_OUTPUT']}/small/{number}", "wb") as file:
        file.write(os.urandom(500))
"""
ROUNDS = 4


def launch(script: str, space: str, name: str) -> str:
    """Runs the script in one pod until it has written its files; returns the pod's name."""
    call(TF_SPAWNER, "run", script, "-w", "1", "--on", "kubernetes", "-n", space, "--name", name, "--detach")
    call(TF_SPAWNER, "wait", name, "--on", "kubernetes", "-n", space)
    return (
        call("kubectl", "get", "pods", "-n", space, "-l", f"tf-spawner/job={name}", "-o", "name")
        .strip()
        .removeprefix("pod/")
    )


def by_exec(space: str, pod: str, source: str, target: Path) -> float:
    began = time.monotonic()
    with target.open("wb") as file:
        subprocess.run(["kubectl", "exec", "-n", space, pod, "--", "cat", source], stdout=file, check=True)
    return time.monotonic() - began


def size(path: Path) -> tuple[int, int]:
    """How many files lie there, and their bytes."""
    files = [file for file in [path, *path.rglob("*")] if file.is_file()]
    return len(files), sum(file.stat().st_size for file in files)


def measure(title: str, text: str, source: str, expected: tuple[int, int], at_most: float | None) -> bool:
    """expected: how many files have to come, and their bytes."""
    rows: dict[str, list[float]] = {"tf-spawner fetch": [], "kubectl cp": []}
    if expected[0] == 1:
        rows["kubectl exec -- cat"] = []
    for number in range(ROUNDS):
        with tempfile.TemporaryDirectory() as name, namespace("bench-collect") as space:
            folder, job = Path(name), f"collect-{number}"
            pod = launch(write_script(folder / "code", text), space, job)
            fetch = (TF_SPAWNER, "fetch", job, "--on", "kubernetes", "-n", space, "--out", str(folder), "--keep")
            copy = ("kubectl", "cp", "-n", space, f"{pod}:{source}", str(folder / "copied"))
            rows["tf-spawner fetch"].append(seconds_of(*fetch))
            rows["kubectl cp"].append(seconds_of(*copy))
            found = [size(folder / job / "files/worker-0" / Path(source).name), size(folder / "copied")]
            if expected[0] == 1:
                rows["kubectl exec -- cat"].append(by_exec(space, pod, source, folder / "cat"))
                found.append(size(folder / "cat"))
            if set(found) != {expected}:
                sys.exit(f"not all came: {found}")
            call(TF_SPAWNER, "delete", job, "--on", "kubernetes", "-n", space)
    return compare(title, rows, at_most)


def main() -> None:
    passed = measure("1 GiB from one pod", BIG, "/work/output/big", (1, 1 << 30), at_most=1.0)
    passed &= measure("10,000 small files from one pod", SMALL, "/work/output/small", (10_000, 5_000_000), at_most=None)
    sys.exit(not passed)


if __name__ == "__main__":
    main()
