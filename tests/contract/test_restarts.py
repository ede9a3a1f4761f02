"""--restarts and --stall-timeout: the gang starts again in place, from the last checkpoint, or says who stood still."""

from __future__ import annotations

import json
import re

import pytest

# Counts steps into $TFSPAWNER_CHECKPOINTS, written by replica 0 alone, as TensorFlow does. FAULT happens once, at step 20.
STEPS = """
import os, pathlib, signal, sys, time
folder, index = pathlib.Path(os.environ["TFSPAWNER_CHECKPOINTS"]), os.environ["TFSPAWNER_INDEX"]
done = int((folder / "step").read_text()) if (folder / "step").exists() else 0
print("from step", done, flush=True)
for step in range(done, 40):
    time.sleep(0.05)
    if step == 20 and index == "1" and os.environ["TFSPAWNER_RESTART"] == "0":
        print("fault", flush=True)
        FAULT
    if index == "0":
        (folder / "new").write_text(str(step + 1))
        (folder / "new").replace(folder / "step")
print("whole", flush=True)
"""
STANDS = """
import os, signal, time
def wait_for_peer():
    time.sleep(600)
print("ready", flush=True)
if os.environ["TFSPAWNER_INDEX"] == "1":
    FAULT
wait_for_peer()
"""
KILLED = "os.kill(os.getpid(), signal.SIGKILL)"
BLOCKED = "time.sleep(600)"
FROZEN = "os.kill(os.getpid(), signal.SIGSTOP)"


def steps(place, fault: str, name: str = "train.py"):
    return place.script(STEPS.replace("FAULT", fault), name)


def starts(place, job: str, replica: str) -> list[int]:
    """From which step the replica began, each time."""
    return [int(n) for n in re.findall(r"from step (\d+)", (place.runs / f"{job}/logs/{replica}.log").read_text())]


def test_a_killed_replica_starts_the_whole_gang_again_from_the_last_checkpoint(place):
    done = place.run(steps(place, KILLED), "-w", "3", "--restarts", "2", "--name", "killed")
    assert done.code == 0, done.err
    assert "restart 1 of 2: worker-1 was killed by SIGKILL\n" in done.err
    begun = [starts(place, "killed", f"worker-{index}") for index in range(3)]
    assert begun[0] == begun[1] == begun[2]
    first, second = begun[0]
    assert first == 0
    assert 15 <= second <= 40, "it did not go on from the checkpoint"
    report = json.loads((place.runs / "killed/report.json").read_text())
    assert [(r["replica"], r["kind"], r["generation"]) for r in report["restarts"]] == [("worker-1", "lost", 1)]
    assert place.leftovers() == []


def test_restarts_need_no_client(place):
    name = place.run(steps(place, KILLED), "-w", "2", "--restarts", "1", "--detach").out.strip()
    assert place.of("wait", name).code == 0
    fetched = place.of("fetch", name, "--out", place.runs)
    assert fetched.code == 0, fetched.err
    assert len(starts(place, name, "worker-0")) == 2
    assert "restart 1 of 1" in (place.runs / name / "logs/worker-1.log").read_text()


def test_after_the_last_restart_the_failure_is_told_as_without(place):
    script = place.script("""
        import os, signal, time
        print("again", flush=True)
        if os.environ["TFSPAWNER_INDEX"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)
    """)
    done = place.run(script, "-w", "2", "--restarts", "2", "--name", "doomed")
    assert done.code == 125, done.err
    assert "restart 2 of 2" in done.err
    assert "error: worker-1 was killed by SIGKILL\n" in done.err
    assert (place.runs / "doomed/logs/worker-1.log").read_text().count("again") == 3
    report = json.loads((place.runs / "doomed/report.json").read_text())
    assert report["seconds"] > report["times"]["ended"] - report["restarts"][0]["time"], "the first try counts, too"
    assert place.leftovers() == []


def test_what_the_script_itself_gets_wrong_is_not_tried_again_unless_asked(place):
    script = place.script("import os, sys\nsys.exit(0 if os.environ['TFSPAWNER_RESTART'] == '1' else 3)")
    once = place.run(script, "-w", "2", "--restarts", "2")
    assert once.code == 125, once.err
    assert "restart" not in once.err
    again = place.run(script, "-w", "2", "--restarts", "2", "--restart-on", "failed")
    assert again.code == 0, again.err
    assert re.search(r"restart 1 of 2: worker-[01] ended with exit code 3", again.err)


@pytest.mark.parametrize("fault", [BLOCKED, FROZEN], ids=["blocked", "frozen"])
def test_a_gang_that_stands_still_ends_and_the_stacks_are_in_the_logs(place, fault):
    done = place.run(
        place.script(STANDS.replace("FAULT", fault)), "-w", "2", "--stall-timeout", "3s", "--name", "still"
    )
    assert done.code == 125, done.err
    assert "no replica has put out anything for 3 s" in done.err
    if fault == FROZEN:
        assert "error: worker-1 stopped first: " in done.err
    assert "hint: where each replica stood is at the end of its log; --restarts 1 starts all again" in done.err
    assert done.seconds < 30
    logs = [(place.runs / f"still/logs/worker-{index}.log").read_text() for index in (0, 1)]
    assert re.search(r'File ".*train.py", line \d+ in wait_for_peer', logs[0]), logs[0]
    if fault == BLOCKED:  # a frozen process can only be killed
        assert re.search(r'File ".*train.py", line \d+ in <module>', logs[1]), logs[1]
    assert place.leftovers() == []


def test_a_stalled_gang_is_restarted(place):
    options = ("-w", "2", "--restarts", "1", "--stall-timeout", "3s", "--name", "stalls")
    done = place.run(steps(place, BLOCKED), *options)
    assert done.code == 0, done.err
    assert re.search(
        r"restart 1 of 1: worker-1 stopped first, in train.py, line \d+, in <module>: no replica has put", done.err
    )
    assert (place.runs / "stalls/logs/worker-1.log").read_text().endswith("whole\n")
