"""The way to the API server is bad: the run goes on, and its record is complete."""

from __future__ import annotations

import itertools
import signal
import time

import pytest
from between import between
from counted import HELD, LINES, assert_complete


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
