"""The way to the API server is bad: the run goes on, and its record is complete."""

from __future__ import annotations

import itertools
import json
import signal
import time

import pytest
from between import between

LINES = """
import os, time
for number in range(4000):
    print("line", number, "of", os.environ["TFSPAWNER_INDEX"], "x" * 50, flush=number % 100 == 0)
    if number % 100 == 0:
        time.sleep(0.05)
open(os.environ["TFSPAWNER_OUTPUT"] + "/model", "wb").write(bytes(300_000))
"""
HELD = """
import os, time
print("ready", flush=True)
while not os.path.exists("/tmp/gate"):
    time.sleep(0.05)
for number in range(4000):
    print("line", number, "of", os.environ["TFSPAWNER_INDEX"], "x" * 50)
open(os.environ["TFSPAWNER_OUTPUT"] + "/model", "wb").write(bytes(300_000))
"""


def assert_complete(place, job: str, replicas: int, first: str = "") -> None:
    for index in range(replicas):
        log = (place.runs / f"{job}/logs/worker-{index}.log").read_text()
        assert log == first + "".join(f"line {number} of {index} {'x' * 50}\n" for number in range(4000))
        assert (place.runs / f"{job}/files/worker-{index}/model").read_bytes() == bytes(300_000)
    assert json.loads((place.runs / f"{job}/report.json").read_text())["result"] == "succeeded"
    assert place.leftovers() == []


def every(count: int, *faults: str, which=lambda method, path: True):
    """Each count-th of those requests meets the next of the faults."""
    numbers, turn = itertools.count(1), itertools.cycle(faults)
    return lambda method, path: next(turn) if which(method, path) and next(numbers) % count == 0 else None


def is_stream(method: str, path: str) -> bool:
    return "watch=1" in path or "/proxy/stream" in path


@pytest.mark.parametrize("faults", [("429",), ("500",), ("unsent",), ("unanswered",)], ids="".join)
def test_every_second_request_is_refused_or_lost(cluster_place, faults):
    fault = every(2, *faults, which=lambda method, path: "/proxy/" not in path)
    with between(cluster_place.folder / "kubeconfig", fault) as server:
        done = cluster_place.run(cluster_place.script(LINES), "-w", "2", "--name", "damaged")
    assert done.code == 0, done.err
    assert len(server.damage) >= 5
    assert_complete(cluster_place, "damaged", 2)


def test_every_stream_is_cut_again_and_again(cluster_place):
    with between(cluster_place.folder / "kubeconfig", every(1, "cut", which=is_stream)) as server:
        done = cluster_place.run(cluster_place.script(LINES), "-w", "3", "--name", "cut", timeout_s=400)
    assert done.code == 0, done.err
    assert len(server.damage) > 20
    assert_complete(cluster_place, "cut", 3)


def test_watches_expire(cluster_place):
    fault = every(2, "expired", which=lambda method, path: "watch=1" in path)
    with between(cluster_place.folder / "kubeconfig", fault) as server:
        done = cluster_place.run(cluster_place.script(LINES), "-w", "2", "--name", "expired")
    assert done.code == 0, done.err
    assert server.damage
    assert_complete(cluster_place, "expired", 2)


def test_the_laptop_sleeps_while_the_job_ends(cluster_place):
    running = cluster_place.start_run(cluster_place.script(HELD), "-w", "2", "--name", "asleep")
    running.prints("worker-0 | ready", "worker-1 | ready")
    running.send(signal.SIGSTOP)
    cluster_place.open_gate("asleep")
    time.sleep(40)  # longer than a silent stream is waited for
    running.send(signal.SIGCONT)
    done = running.done()
    assert done.code == 0, done.err
    assert_complete(cluster_place, "asleep", 2, first="ready\n")


CLOCK = """
import os, time
shift, ours = float(os.environ["CLOCK_SHIFT"]), time.time
time.time = lambda: ours() + shift
"""


@pytest.mark.parametrize("shift_s", [-3600, 3600])
def test_the_launchers_clock_is_an_hour_off(cluster_place, shift_s):
    hooks = cluster_place.folder / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(CLOCK)
    cluster_place.env.update(PYTHONPATH=str(hooks), CLOCK_SHIFT=str(shift_s))
    done = cluster_place.run(cluster_place.script(LINES), "-w", "2", "--name", "off")
    assert done.code == 0, done.err
    assert_complete(cluster_place, "off", 2)


@pytest.mark.alone
def test_the_api_server_is_away_for_30_s(cluster_place, api_server):
    running = cluster_place.start_run(cluster_place.script(HELD), "-w", "2", "--name", "away")
    running.prints("worker-0 | ready", "worker-1 | ready")
    api_server.stop()
    time.sleep(30)  # the fault itself
    assert running.process.poll() is None, "it gave up"
    api_server.start()
    cluster_place.open_gate("away")
    done = running.done()
    assert done.code == 0, done.err
    assert_complete(cluster_place, "away", 2, first="ready\n")
    after = cluster_place.run(cluster_place.script("print('the cluster works again')"), "-w", "1", timeout_s=400)
    assert after.code == 0, after.err
