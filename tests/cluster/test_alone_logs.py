"""Everything that harms logs, in one run: none is lost, none comes twice, and each replica's order is kept.

LOGS=32x100000 pytest tests/cluster/test_alone_logs.py    takes as many replicas and lines as that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import islice, zip_longest
from pathlib import Path

import pytest
from between import between

REPLICAS, LINES = map(int, os.environ.get("LOGS", "4x20000").split("x"))
HALF = LINES // 2
LONG = 2  # so many replicas print lines of such a length that the kubelet rotates their containers' logs, at 10 MiB
PADS = ((11 << 20) // HALF, 20)
RESTART = "[tf-spawner] restart 1 of 1"
SCRIPT = f"""
import os, signal, sys, time
index, restart = int(os.environ["TFSPAWNER_INDEX"]), int(os.environ["TFSPAWNER_RESTART"])
pad = "x" * {PADS}[index >= {LONG}]
for number in range(restart * {HALF}, (restart + 1) * {HALF}):
    sys.stdout.write(f"line {{number}} of {{index}} {{pad}}\\n")
while restart == 0:
    if not os.path.exists("/tmp/gate"):
        time.sleep(0.05)
    elif index == {REPLICAS - 1}:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def expected(index: int) -> Iterator[str]:
    pad = "x" * PADS[index >= LONG]
    lines = [f"line {number} of {index} {pad}" for number in range(LINES)]
    yield from (*lines[:HALF], RESTART, *lines[HALF:])


def first_difference(found: list[str], index: int) -> str | None:
    for number, (one, other) in enumerate(zip_longest(found, expected(index))):
        if one != other:
            return f"line {number} of {len(found)} is {one!r:.100} instead of {other!r:.100}"
    return None


def size_of_half(index: int) -> int:
    return sum(len(line) + 1 for line in islice(expected(index), HALF))


def logged(place, index: int) -> int:
    """How many bytes of a replica's log have come."""
    log = place.runs / f"lines/logs/worker-{index}.log"
    return log.stat().st_size if log.exists() else 0


def rotated(place) -> int:
    """How many containers' logs the kubelet has rotated; it is this machine's."""
    return len({path.parent for path in Path("/var/log/pods").glob(f"{place.namespace}_*/tensorflow/0.log.*")})


def fault(method: str, path: str) -> str | None:
    if "/proxy/stream" in path:
        return "cut late"
    return "cut" if "watch=1" in path else None


@pytest.mark.timeout(900)
def test_numbered_lines_through_cut_streams_a_restart_of_the_api_server_rotation_and_a_restart_in_place(
    cluster_place, api_server, wait_until
):
    place = cluster_place
    with between(place.folder / "kubeconfig", fault) as server:
        running = place.start_run(place.script(SCRIPT), "-w", str(REPLICAS), "--restarts", "1", "--name", "lines")

        def comes(condition: Callable[[], bool], what: str) -> None:
            wait_until(lambda: condition() or running.process.poll() is not None, what, 300)
            assert condition(), f"{what} did not come: {running.done().err[-500:]}"

        comes(lambda: logged(place, 0) > 100_000, "the first lines")
        api_server.stop()
        api_server.start()
        for index in range(REPLICAS):
            whole = size_of_half(index)
            comes(lambda at=index, size=whole: logged(place, at) == size, f"worker-{index}'s first half")
        comes(lambda: rotated(place) >= LONG, "rotation of the containers' logs")
        place.open_gate("lines", f"worker-{REPLICAS - 1}")
        done = running.done(600)
    assert done.code == 0, done.err
    assert f"restart 1 of 1: worker-{REPLICAS - 1} was killed by SIGKILL\n" in done.err
    assert len([damage for damage in server.damage if "/proxy/stream" in damage]) > 10
    shown: dict[str, list[str]] = {}
    for line in done.out.splitlines():
        replica, _, text = line.partition(" | ")
        shown.setdefault(replica, []).append(text)
    assert len(shown) == REPLICAS
    for index in range(REPLICAS):
        assert first_difference(shown[f"worker-{index}"], index) is None
        recorded = (place.runs / f"lines/logs/worker-{index}.log").read_text().splitlines()
        assert first_difference(recorded, index) is None
    print(f"{REPLICAS} x {LINES:,} lines in {done.seconds:.0f} s, {len(server.damage)} cuts")
