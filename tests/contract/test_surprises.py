"""What people, scripts and machines do that nobody asked them to do."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

SLEEPS = "import time\nprint('sleeping', flush=True)\ntime.sleep(600)\n"
ABORTED = "Collective ops is aborted by: recvmsg\\ntensorflow.python.framework.errors_impl.UnavailableError: x"


def test_a_replica_whose_peer_ended_early_has_failed_and_so_has_the_job(place, gate_code):
    script = place.script(
        "import os, sys\nif os.environ['TFSPAWNER_INDEX'] == '1': sys.exit(0)\n"
        + gate_code
        + f"print('{ABORTED}')\nsys.exit(1)"
    )
    running = place.start_run(script, "--name", "uneven", "--env", f"GATE={place.gate}")
    running.prints("worker-0 | at the gate")
    place.open_gate("uneven", "worker-0")
    done = running.done()
    assert done.code == 125, done.err
    assert "error: worker-0 lost a peer in a collective operation" in done.err


def test_a_job_deleted_meanwhile_ends_those_who_wait_for_it(place):
    name = place.run(place.script(SLEEPS), "-w", "1", "--detach").out.strip()
    waiting = [place.start(verb, *place.target, *option, name) for verb, *option in (("wait",), ("logs", "-f"))]
    waiting[1].prints("worker-0 | sleeping")
    assert place.of("delete", name).code == 0
    for running in waiting:
        done = running.done()
        assert done.code == 125, done.err
        assert "Traceback" not in done.err
    assert place.leftovers() == []


def test_a_file_with_an_impossible_name_stays_and_all_others_come(place):
    script = place.script("""
        import os
        out = os.environ["TFSPAWNER_OUTPUT"]
        for name in ("model", "Model", "two\\nlines", "back\\\\slash", "nb\\u00a0sp"):
            open(os.path.join(out, name), "w").write(name)
    """)
    done = place.run(script, "-w", "1", "--name", "odd")
    assert done.code == 5, done.err
    assert "'two\\nlines'" in done.err
    assert "tf-spawner delete" in done.err
    found = sorted(path.name for path in (place.runs / "odd/files/worker-0").iterdir())
    assert found == sorted(["model", "Model", "back\\slash", "nb\u00a0sp"])
    assert place.jobs() == ["odd"]


def test_a_growing_file_of_a_running_job_is_fetched_as_it_is(place):
    script = place.script("""
        import os, time
        with open(os.environ["TFSPAWNER_OUTPUT"] + "/events", "a") as file:
            while True:
                print("step", file=file, flush=True)
                print("wrote", flush=True)
                time.sleep(0.002)
    """)
    name = place.run(script, "-w", "1", "--detach").out.strip()
    follower = place.start("logs", "-f", *place.target, name)
    follower.prints("wrote")
    done = place.of("fetch", name, "--out", place.runs)
    assert done.code == 0, done.err
    lines = (place.runs / name / "files/worker-0/events").read_text().splitlines()
    assert set(lines[:-1]) <= {"step"}
    assert lines


def test_two_who_fetch_at_once_both_get_all(place):
    script = place.script("""
        import os
        for number in range(4):
            with open(f"{os.environ['TFSPAWNER_OUTPUT']}/{number}", "wb") as file:
                file.write(os.urandom(8 << 20))
    """)
    name = place.run(script, "--detach").out.strip()
    assert place.of("wait", name).code == 0
    both = [place.start("fetch", *place.target, name, "--out", place.folder / out) for out in ("one", "two")]
    for running in both:
        done = running.done()
        assert done.code == 0, done.err
    for file in (place.folder / "one" / name / "files").rglob("*"):
        if file.is_file():
            twin = place.folder / "two" / file.relative_to(place.folder / "one")
            assert twin.read_bytes() == file.read_bytes()


def test_a_second_job_of_a_name_gets_a_record_of_its_own(place):
    for text in ("the first says much more than", "the second"):
        done = place.run(place.script(f"print('{text}')"), "-w", "1", "--name", "same")
        assert done.out == f"worker-0 | {text}\n"
    assert (place.runs / "same/logs/worker-0.log").read_text() == "the second\n"
    assert (place.runs / "same.1/logs/worker-0.log").read_text() == "the first says much more than\n"


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
@pytest.mark.parametrize("backend", ["local"], indirect=True, scope="module")
def test_a_frozen_or_killed_agent_is_named_and_its_script_does_not_live_on(place, how):
    replicas = ["worker-0", "worker-1"]
    both = [place.start_run(place.script(SLEEPS), "--name", f"without-{replica}") for replica in replicas]
    for replica, running in zip(replicas, both, strict=True):
        running.prints("worker-0 | sleeping", "worker-1 | sleeping")
        state = Path(place.env["XDG_STATE_HOME"]) / f"tf-spawner/jobs/without-{replica}/pids.json"
        os.kill(json.loads(state.read_text())[replica][0], how)
    for replica, running in zip(replicas, both, strict=True):
        done = running.done()
        assert done.code == 125, done.err
        assert f"error: {replica} was lost" in done.err
        assert done.seconds < (75 if how == signal.SIGSTOP else 25)
        if how == signal.SIGSTOP:  # what it has written may still come
            assert f"the files of {replica} could not be collected" in done.err
            assert place.of("delete", f"without-{replica}").code == 0
    assert place.leftovers() == []
