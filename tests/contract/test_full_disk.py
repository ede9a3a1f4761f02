"""The state folder is on a disk that is full, or becomes so: told with what is free and needed, and the script goes on where it can."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest


@pytest.fixture
def full_place(local_place) -> Iterator[tuple]:
    """A place whose state folder is a file system of 2 MiB; and a function that fills it, giving the file that does."""
    state = Path(local_place.env["XDG_STATE_HOME"])
    state.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(state)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")

    def fill(but: int = 0) -> Path:
        with suppress(OSError), open(state / "filler", "ab", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        if but:
            with open(state / "filler", "r+b") as file:
                file.truncate((state / "filler").stat().st_size - but)
        return state / "filler"

    yield local_place, fill
    local_place.of("delete", "--all", "-y")
    subprocess.run(["umount", "-l", str(state)], check=True)


@pytest.mark.parametrize("free", [0, 4096, 12288, 28672])
def test_a_launch_without_room_is_refused_with_free_and_needed_and_leaves_nothing(full_place, free):
    place, fill = full_place
    (place.folder / "code").mkdir()
    (place.folder / "code/weights").write_bytes(os.urandom(100_000))
    filler = fill(but=free)
    done = place.run(place.script("print('hi')"), "-w", "2", "--name", "big")
    assert done.code == 3, done.err
    assert "Traceback" not in done.err
    needed = re.search(r"the state folder is full: job big takes at least ([\d,]+) bytes", done.err)
    assert needed, done.err
    assert 100_000 < int(needed[1].replace(",", "")) < 300_000  # the code, and what travels with each job
    assert f" are free at {place.env['XDG_STATE_HOME']}/tf-spawner/jobs" in done.err
    assert "XDG_STATE_HOME" in done.err
    filler.unlink()
    assert place.leftovers() == []


def test_output_without_room_is_counted_and_said_and_the_script_goes_on(full_place, gate_code, wait_until):
    place, fill = full_place
    script = place.script(
        gate_code
        + "print('x' * 99_999, flush=True)\nprint('last words', flush=True)\n"
        + gate_code.replace("GATE", "GATE2").replace("at the gate", "at the second gate")
        + "print('there is room again', flush=True)\n"
    )
    second = place.folder / "gate2"
    gates = ("--env", f"GATE={place.gate}", "--env", f"GATE2={second}")
    running = place.start_run(script, "-w", "1", "--name", "full", *gates)
    running.prints("worker-0 | at the gate")
    filler = fill()
    place.open_gate("full")
    running.prints("worker-0's output cannot all be kept: No space left on device; 0 bytes are free", stream="stderr")
    filler.unlink()
    second.touch()
    done = running.done()
    assert done.code == 0, done.err
    assert "bytes of worker-0's output could not be kept there" in done.err
    log = (place.runs / "full/logs/worker-0.log").read_text()
    first, said, rest = log.partition("\n[tf-spawner] ")
    count, _, rest = rest.partition(" bytes of output could not be kept here: ")
    assert said
    assert log.endswith("there is room again\n")
    kept = len(first) + len(rest.partition("\n")[2])
    written = len("at the gate\n" + "x" * 99_999 + "\nlast words\nat the second gate\nthere is room again\n")
    assert kept + int(count.replace(",", "")) == written
    assert place.leftovers() == []


@pytest.mark.parametrize("code", [0, 3])
def test_on_a_disk_that_stays_full_a_job_ends_as_its_script_does(full_place, gate_code, code):
    place, fill = full_place
    script = place.script(gate_code + f"import sys\nprint('x' * 9_999 + '\\nthe reason', flush=True)\nsys.exit({code})")
    running = place.start_run(script, "-w", "1", "--name", "full", "--env", f"GATE={place.gate}")
    running.prints("worker-0 | at the gate")
    fill()
    place.open_gate("full")
    done = running.done()
    assert done.code == (125 if code else 0), done.err
    assert "was lost" not in done.err
    if code:
        assert "worker-0 ended with exit code 3" in done.err
        assert "worker-0 | the reason" in done.err
    report = json.loads((place.runs / "full/report.json").read_text())
    assert report["replicas"][0]["unkept"]["bytes"] >= 1000


def test_how_a_replica_ended_is_noted_on_a_full_disk_too(full_place, gate_code, wait_until):
    """So that a job that nobody fetched in time is told as ended, and not as lost."""
    place, fill = full_place
    script = place.script(gate_code)
    name = place.run(script, "-w", "1", "--detach", "--hold", "1s", "--env", f"GATE={place.gate}").out.strip()
    wait_until(lambda: "at the gate" in place.of("logs", name).out, "the gate")
    fill()
    place.open_gate(name)
    wait_until(lambda: place.of("list", "-o", "json").json[0]["state"] == "succeeded", "the agent's own end")


def test_code_that_does_not_fit_unpacked_is_told_with_what_it_takes_and_what_is_free(full_place):
    place, _ = full_place
    script = place.script("print('hi')")
    (place.folder / "code/zeros").write_bytes(bytes(3_000_000))
    done = place.run(script, "-w", "1", "--name", "wide")
    assert done.code == 125, done.err
    assert "error: worker-0 could not go on: the code takes 3,000,0" in done.err
    assert " bytes: No space left on device; 0 bytes are free at " in done.err
    assert place.leftovers() == []


def test_an_agent_that_ends_for_want_of_room_is_not_called_lost(full_place, gate_code):
    place, fill = full_place
    running = place.start_run(place.script(gate_code), "-w", "1", "--name", "full", "--env", f"GATE={place.gate}")
    running.prints("worker-0 | at the gate")
    fill()
    jobs = Path(place.env["XDG_STATE_HOME"]) / "tf-spawner/jobs"
    os.kill(json.loads((jobs / "full/pids.json").read_text())["worker-0"][0], signal.SIGKILL)
    done = running.done()
    assert done.code == 125, done.err
    assert f"error: worker-0 ended, its folder is full: 0 bytes are free at {jobs}" in done.err
