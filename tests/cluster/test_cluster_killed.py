"""The launcher is killed at each request of a whole run in turn: list, delete and a new run work, and nothing remains."""

from __future__ import annotations

import itertools
import queue
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from between import between

LANES = 3  # each takes every third request


class KilledAt:
    """A fault that kills the launcher instead of passing on its k-th request."""

    def __init__(self, request: int) -> None:
        self.numbers, self.request, self.met = itertools.count(1), request, ""
        self.launcher: queue.Queue = queue.Queue()

    def __call__(self, method: str, path: str) -> str | None:
        if next(self.numbers) != self.request:
            return None
        self.met = f"{method} {path}"
        self.launcher.get().send(signal.SIGKILL)
        return "unsent"


def left(place, job: str) -> list[str]:
    return [name for name in place.leftovers() if f"/{job}" in name]


def run_killed_at(place, script: Path, job: str, request: int) -> str:
    """The request at which it was killed; empty where the run has fewer."""
    kubeconfig = place.folder / f"kubeconfig-{job}"
    shutil.copy(place.folder / "kubeconfig", kubeconfig)
    fault = KilledAt(request)
    with between(kubeconfig, fault):
        running = place.start_run(script, "-w", "2", "--name", job, "--kubeconfig", kubeconfig)
        fault.launcher.put(running)
        done = running.done()
    assert done.code in (0, -signal.SIGKILL), f"request {request}, {fault.met}: {done.err}"
    return fault.met if done.code else ""


def lane(place, script: Path, number: int, wait_until) -> list[str]:
    """Kills runs of one name at each LANES-th request; the last of them ends well."""
    job, killed = f"cut-{number}", []
    for request in itertools.count(number, LANES):
        met = run_killed_at(place, script, job, request)
        if not met:
            assert left(place, job) == []
            return killed
        killed.append(met)
        if left(place, job) and job in place.jobs():
            deleted = place.of("delete", job)
            assert deleted.code == 0, f"after {met}: {deleted.err}"
            assert left(place, job) == [], f"after {met}"
        # what is not listed has lost its owner, and goes by itself
        wait_until(lambda: left(place, job) == [], f"nothing of what was left after {met}")
    raise AssertionError("it has no end")


def test_at_whatever_request_it_is_killed_list_delete_and_a_new_run_work_and_nothing_remains(cluster_place, wait_until):
    script = cluster_place.script("import os\nopen(os.environ['TFSPAWNER_OUTPUT'] + '/model', 'w').write('weights')\n")
    with ThreadPoolExecutor(LANES) as pool:
        lanes = list(pool.map(lambda n: lane(cluster_place, script, n, wait_until), range(1, LANES + 1)))
    killed = [request for requests in lanes for request in requests]
    for part in (
        "POST /apis/batch/v1",
        "PATCH /apis/batch/v1",
        "watch=1",
        "/proxy/stream",
        "/proxy/files",
        "DELETE /apis",
    ):
        assert any(part in request for request in killed), f"never killed at {part}: {killed}"
