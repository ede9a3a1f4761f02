"""The launcher is killed at each request of a whole run in turn: list, delete and a new run work, and nothing remains."""

from __future__ import annotations

import queue
import re
import shutil
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from between import Fault, between

LANES = 3  # runs that are killed side by side
Point = tuple[str, int]  # a request, and its how manieth time
SCRIPT = "import os\nopen(os.environ['TFSPAWNER_OUTPUT'] + '/model', 'w').write('weights')\n"


def general(request: str) -> str:
    """A request without what differs from one run to the next: the names of job and pods, versions, offsets."""
    return re.sub(r"resourceVersion=\d+|offset=\d+|(?<=-\d)-\w{5}(?=:)|cut-\d+", "", request)


class Killing:
    """A fault that kills the launcher instead of passing on a request."""

    def __init__(self, point: Point) -> None:
        self.point, self.seen = point, Counter[str]()
        self.launcher: queue.Queue = queue.Queue()

    def __call__(self, method: str, path: str) -> str | None:
        request = general(f"{method} {path}")
        self.seen[request] += 1
        if (request, self.seen[request]) != self.point:
            return None
        self.launcher.get().send(signal.SIGKILL)
        return "unsent"


def run(place, script: Path, lane: int, fault: Fault) -> tuple[int, list[str]]:
    """How a run ended, and its requests."""
    kubeconfig = place.folder / f"kubeconfig-{lane}"
    shutil.copy(place.folder / "kubeconfig", kubeconfig)
    with between(kubeconfig, fault) as server:
        running = place.start_run(script, "-w", "2", "--name", f"cut-{lane}", "--kubeconfig", kubeconfig)
        if isinstance(fault, Killing):
            fault.launcher.put(running)
        done = running.done()
    assert done.code in (0, -signal.SIGKILL), done.err
    return done.code, [general(request) for request in server.requests]


def left(place, job: str) -> list[str]:
    return [name for name in place.leftovers() if f"/{job}" in name]


def kill_each(place, script: Path, lane: int, points: list[Point], wait_until) -> list[Point]:
    """Those of the points at which a run was killed: another may get by with fewer requests."""
    job, killed = f"cut-{lane}", []
    for point in points:
        code, _ = run(place, script, lane, Killing(point))
        if code == 0:
            continue
        killed.append(point)
        if left(place, job) and job in place.jobs():
            deleted = place.of("delete", job)
            assert deleted.code == 0, f"after {point}: {deleted.err}"
            assert left(place, job) == [], f"after {point}"
        # what is not listed has lost its owner, and goes by itself
        wait_until(lambda: left(place, job) == [], "the end of what had lost its owner")
    assert run(place, script, lane, lambda method, path: None)[0] == 0
    assert left(place, job) == []
    return killed


def test_at_whatever_request_it_is_killed_list_delete_and_a_new_run_work_and_nothing_remains(cluster_place, wait_until):
    script = cluster_place.script(SCRIPT)
    once, twice = (Counter(run(cluster_place, script, 0, lambda method, path: None)[1]) for _ in range(2))
    requests = once & twice  # without those of one run alone, such as what broke off and was asked for again
    for request in [request for request in requests if request.endswith("/proxy/stream")]:
        requests[request] = 1  # it is begun as often as it takes to reach the agent
    points = sorted((request, n + 1) for request, count in requests.items() for n in range(count))

    def lane(number: int) -> list[Point]:
        return kill_each(cluster_place, script, number, points[number::LANES], wait_until)

    with ThreadPoolExecutor(LANES) as pool:
        killed = [point for found in pool.map(lane, range(LANES)) for point in found]
    print(f"killed at {len(killed)} of {len(points)} requests")
    missed = set(points) - set(killed)
    assert not [request for request, _ in missed if request.startswith(("POST", "PATCH"))]
    assert len(missed) <= len(points) // 4, (
        "the API server's own garbage collector may spare some requests, not so many"
    )
