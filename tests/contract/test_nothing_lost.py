"""What a job has written is here, or still there, before anything of it is removed: whatever its result, and whoever ended it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

MODEL = b"m" * 700_000
WRITES = """
import os, sys, time
with open(os.environ["TFSPAWNER_OUTPUT"] + "/model", "wb") as file:
    file.write(b"m" * 700_000)
print("written", flush=True)
"""
ENDINGS = {"failed": "sys.exit(3)", "timeout": "time.sleep(600)"}
CODES = {"failed": 125, "timeout": 124}


@contextmanager
def disk_of(size: str, folder: Path) -> Iterator[None]:
    """A file system of that size at folder, for as long as the test needs it."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Takes all the room there, and gives the file that does."""
    filler = folder / "filler"
    with suppress(OSError), open(filler, "wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    return filler


def grow(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=50m", str(folder)], check=True)


@pytest.mark.parametrize("result", ["failed", "timeout"])
def test_a_job_whose_files_do_not_fit_here_is_kept_and_its_own_exit_code_stands_beside_5(local_place, result):
    place = local_place
    with disk_of("500k", place.runs):
        done = place.run(place.script(WRITES + ENDINGS[result]), "-w", "1", "--name", "big", "--timeout", "3s")
        assert done.code == CODES[result], done.err
        assert "worker-0's files take 683.6 KiB more, and " in done.err
        assert "exit code 5" in done.err
        assert "make room or give another --out, then: tf-spawner fetch big;" in done.err
        assert place.jobs() == ["big"]
        again = place.of("fetch", "big", "--out", place.runs)
        assert again.code == 5, again.err
        assert "683.6 KiB" in again.err
        grow(place.runs)
        fetched = place.of("fetch", "big", "--out", place.runs, "-o", "json")
        assert fetched.code == 0, fetched.err
        assert fetched.json["result"] == result
        assert (place.runs / "big/files/worker-0/model").read_bytes() == MODEL


def test_on_a_disk_without_any_room_a_failed_job_is_kept_and_told_as_failed(local_place, gate_code):
    place = local_place
    script = place.script(gate_code + WRITES + "sys.exit(3)")
    with disk_of("500k", place.runs):
        running = place.start_run(script, "-w", "1", "--name", "big", "--env", f"GATE={place.gate}")
        running.prints("worker-0 | at the gate")
        fill(place.runs)
        place.open_gate("big")
        done = running.done()
        assert "Traceback" not in done.err
        assert "No space left on device" in done.err
        assert "tf-spawner fetch big" in done.err
        assert done.code in (5, 125), done.err
        assert place.jobs() == ["big"]
        grow(place.runs)
        fetched = place.of("fetch", "big", "--out", place.runs)
        assert fetched.code == 0, fetched.err
        assert (place.runs / "big/logs/worker-0.log").read_text() == "at the gate\nwritten\n"
        assert (place.runs / "big/files/worker-0/model").read_bytes() == MODEL


# Changes the agents alone, from inside.
ON_AGENT = """
import os, sys, threading, time
if any(word.endswith("/agent.py") for word in sys.orig_argv):
    def change():
        while not hasattr(sys.modules.get("replica.main"), "main"):
            time.sleep(0.01)
        sys.modules["replica.files"].{change}
    threading.Thread(target=change, daemon=True).start()
"""


@pytest.mark.parametrize("result", ["failed", "timeout"])
def test_a_job_with_a_file_of_a_wrong_sha256_is_kept(local_place, result):
    place = local_place
    hooks = place.folder / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(ON_AGENT.format(change="Files.hash = lambda *_: '0' * 64"))
    place.env["PYTHONPATH"] = f"{hooks}:{place.env.get('PYTHONPATH', '')}"
    name = place.run(place.script(WRITES + ENDINGS[result]), "-w", "1", "--detach", "--timeout", "2s").out.strip()
    assert place.of("wait", name).code == CODES[result]
    fetched = place.of("fetch", name, "--out", place.runs)
    assert fetched.code == 5, fetched.err
    assert "model came with another SHA-256 than announced" in fetched.err
    (state,) = [job["state"] for job in place.of("list", "-o", "json").json]
    assert state == f"{result}, to be fetched"


TRAINS = """
import os, signal, time
out = os.environ["TFSPAWNER_OUTPUT"]
for epoch in range(1, 31):
    print(f"Epoch {epoch}/30", flush=True)
    with open(f"{out}/epoch-{epoch}.ckpt", "w") as file:
        file.write(f"weights of epoch {epoch}")
    print(f"saved {epoch}", flush=True)
    while epoch == 6:
        time.sleep(0.1)
"""


def test_ctrl_c_in_epoch_6_of_30_brings_back_what_a_failed_run_would(place):
    running = place.start_run(place.script(TRAINS), "-w", "2", "--name", "long")
    running.prints("worker-0 | saved 6", "worker-1 | saved 6")
    running.send(signal.SIGINT)
    done = running.done()
    assert done.code == 130, done.err
    assert "Traceback" not in done.err
    assert "job long is removed" in done.err
    before, _, after = done.err.partition("stopping job long")
    assert "worker-0" in before
    assert ": starting" not in after
    assert ": running" not in after
    assert f"files: {place.runs / 'long/files'} (12 files, " in after
    for replica in ("worker-0", "worker-1"):
        for epoch in range(1, 7):
            checkpoint = place.runs / f"long/files/{replica}/epoch-{epoch}.ckpt"
            assert checkpoint.read_text() == f"weights of epoch {epoch}"
        assert (place.runs / f"long/logs/{replica}.log").read_text().endswith("saved 6\n")
    report = json.loads((place.runs / "long/report.json").read_text())
    assert report["result"] == "interrupted"
    assert place.leftovers() == []


def test_a_second_ctrl_c_does_not_wait_and_says_what_is_given_up_and_how_to_go_on(local_place, wait_until):
    """A script that is deaf to SIGTERM gives the time for it."""
    place = local_place
    deaf = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    running = place.start_run(place.script(deaf + TRAINS), "-w", "1", "--name", "long")
    running.prints("worker-0 | saved 6")
    running.send(signal.SIGINT)
    running.prints("stopping job long and fetching its files; Ctrl-C again to quit at once", stream="stderr")
    running.send(signal.SIGINT)
    done = running.done()
    assert done.code == 130, done.err
    assert "Traceback" not in done.err
    assert "stopped without waiting: files may be missing here; the job keeps them for 10 minutes" in done.err
    assert "tf-spawner fetch long" in done.err
    assert "tf-spawner delete long" in done.err
    assert place.jobs() == ["long"]
    assert place.of("wait", "long").code == 125
    fetched = place.of("fetch", "long", "--out", place.runs)
    assert fetched.code == 0, fetched.err
    assert (place.runs / "long/files/worker-0/epoch-6.ckpt").exists()


def test_ctrl_c_while_files_come_waits_for_them_and_a_second_one_leaves_them_there(local_place, wait_until):
    place = local_place
    script = place.script("""
        import os
        for number in range(12):
            with open(f"{os.environ['TFSPAWNER_OUTPUT']}/{number}", "wb") as file:
                file.truncate(40 << 20)
    """)
    running = place.start_run(script, "-w", "1", "--name", "large")
    wait_until((place.runs / "large/files").exists, "the first files")
    running.send(signal.SIGINT)
    running.prints("interrupted: still fetching the files of job large; Ctrl-C again to quit", stream="stderr")
    running.send(signal.SIGINT)
    done = running.done()
    assert done.code == 130, done.err
    assert "stopping job" not in done.err
    assert "files of job large are missing here; the job keeps them for --hold" in done.err
    assert "tf-spawner fetch large" in done.err
    assert place.jobs() == ["large"]
    assert place.of("fetch", "large", "--out", place.runs).code == 0
    assert len(list((place.runs / "large/files/worker-0").iterdir())) == 12


def freeze_agents(place, job: str) -> list[int]:
    """Stops the job's agents, which are told apart from all else by their numbers; gives these."""
    pids = json.loads((Path(place.env["XDG_STATE_HOME"]) / f"tf-spawner/jobs/{job}/pids.json").read_text())
    agents = [pid for pid, *_ in pids.values()]
    for pid in agents:
        os.kill(pid, signal.SIGSTOP)
    return agents


def test_ctrl_c_leaves_a_job_whose_agents_are_frozen_and_its_files_come_once_they_answer(local_place, wait_until):
    place = local_place
    running = place.start_run(place.script(TRAINS), "-w", "2", "--name", "cold")
    running.prints("worker-0 | saved 6", "worker-1 | saved 6")
    agents = freeze_agents(place, "cold")
    fetched = place.of("fetch", "cold", "--out", place.runs.with_name("early"))
    assert fetched.code == 5, fetched.err
    assert "error: the files of worker-0, worker-1 could not be collected: its process or pod runs" in fetched.err
    running.send(signal.SIGINT)
    done = running.done()
    assert done.code == 130, done.err
    assert "the files of worker-0, worker-1 could not be collected" in done.err
    assert "tf-spawner fetch cold" in done.err
    assert "removed" not in done.err
    assert place.jobs() == ["cold"]
    for pid in agents:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: place.of("fetch", "cold", "--out", place.runs).code == 0, "that both answer, and all comes")
    for replica in ("worker-0", "worker-1"):
        assert (place.runs / f"cold/files/{replica}/epoch-6.ckpt").read_text() == "weights of epoch 6"


def test_a_failed_job_whose_frozen_agent_has_files_is_kept(local_place, wait_until):
    place = local_place
    script = place.script(
        TRAINS.replace(
            "time.sleep(0.1)",
            "time.sleep(0.1)\n        if os.path.exists(os.environ['GATE']) and 'worker\", \"index\": 0' in os.environ['TF_CONFIG']: raise SystemExit(3)",
        )
    )
    running = place.start_run(script, "-w", "2", "--name", "cold", "--env", f"GATE={place.gate}")
    running.prints("worker-0 | saved 6", "worker-1 | saved 6")
    pids = json.loads((Path(place.env["XDG_STATE_HOME"]) / "tf-spawner/jobs/cold/pids.json").read_text())
    os.kill(pids["worker-1"][0], signal.SIGSTOP)
    place.open_gate("cold")
    done = running.done()
    assert done.code == 125, done.err
    assert "the files of worker-1 could not be collected" in done.err
    assert place.jobs() == ["cold"]
    os.kill(pids["worker-1"][0], signal.SIGCONT)
    wait_until(lambda: place.of("fetch", "cold", "--out", place.runs).code == 0, "that it answers, and all comes")
    assert (place.runs / "cold/files/worker-1/epoch-6.ckpt").exists()


def test_what_ctrl_c_cannot_bring_back_is_kept(local_place):
    place = local_place
    script = place.script(WRITES + "time.sleep(600)")
    with disk_of("500k", place.runs):
        running = place.start_run(script, "-w", "1", "--name", "big")
        running.prints("worker-0 | written")
        running.send(signal.SIGINT)
        done = running.done()
        assert done.code == 130, done.err
        assert "exit code 5" in done.err
        assert "683.6 KiB" in done.err
        assert place.jobs() == ["big"]
        grow(place.runs)
        fetched = place.of("fetch", "big", "--out", place.runs)
        assert fetched.code == 0, fetched.err
        assert (place.runs / "big/files/worker-0/model").read_bytes() == MODEL


def test_a_failed_job_whose_files_did_not_come_holds_them_as_long_as_one_that_succeeded(local_place):
    """Ten minutes, here four seconds, are for those whose files nobody misses."""
    place = local_place
    hooks = place.folder / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(ON_AGENT.format(change="SHORT_HOLD_S = 4.0"))
    place.env["PYTHONPATH"] = f"{hooks}:{place.env.get('PYTHONPATH', '')}"
    with disk_of("500k", place.runs):
        done = place.run(place.script(WRITES + "sys.exit(3)"), "-w", "1", "--name", "big")
        assert done.code == 125, done.err
        time.sleep(5)
        (state,) = [job["state"] for job in place.of("list", "-o", "json").json]
        assert state == "failed, to be fetched"


def test_a_sweep_that_is_stopped_brings_back_what_its_points_have(local_place):
    place = local_place
    running = place.start_run(
        place.script(TRAINS + "\n"), "-w", "1", "--name", "swp", "--grid", "x=1,2", "--parallel", "2"
    )
    running.prints("swp-1 (x=1): running", "swp-2 (x=2): running", stream="stderr")
    logs = place.runs / "swp-1/logs/worker-0.log", place.runs / "swp-2/logs/worker-0.log"
    while not all(log.exists() and "saved 6" in log.read_text() for log in logs):
        assert running.process.poll() is None
        os.sched_yield()
    running.send(signal.SIGINT)
    done = running.done()
    assert done.code == 130, done.err
    for point in ("swp-1", "swp-2"):
        assert (place.runs / point / "files/worker-0/epoch-6.ckpt").read_text() == "weights of epoch 6"
    assert place.leftovers() == []


def test_a_sweep_that_runs_a_failed_point_again_first_brings_back_what_it_left(local_place):
    place = local_place
    script = place.script(WRITES + "sys.exit(0 if os.path.exists(os.environ['GATE']) else 3)")
    words = (script, "-w", "1", "--name", "swp", "--grid", "x=1", "--env", f"GATE={place.gate}")
    with disk_of("500k", place.runs):
        failed = place.run(*words)
        assert failed.code == 125, failed.err
        assert "besides, not all files are here: worker-0's files take 683.6 KiB more" in failed.err
        assert place.jobs() == ["swp-1"]
        still = place.run(*words)
        assert still.code == 5, still.err
        assert place.jobs() == ["swp-1"]
        grow(place.runs)
        Path(place.gate).touch()
        done = place.run(*words)
        assert done.code == 0, done.err
        for run in ("swp-1", "swp-1.1"):
            assert (place.runs / run / "files/worker-0/model").read_bytes() == MODEL
        assert place.leftovers() == []
