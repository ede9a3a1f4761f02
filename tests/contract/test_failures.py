"""How a job ends that does not end well: exit code, message, and nothing left behind."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from pathlib import Path

SLEEPS = "import time\nprint('sleeping', flush=True)\ntime.sleep(600)\n"


def test_a_failing_replica_ends_the_gang_within_10_s_and_is_named_with_its_last_lines(place):
    script = place.script("""
        import os, sys, time
        if os.environ["TFSPAWNER_INDEX"] == "1":
            for number in range(40):
                print("line", number)
            print("failing at", time.time(), flush=True)
            raise RuntimeError("the learning rate is negative")
        print("still training", flush=True)
        time.sleep(600)
    """)
    done = place.run(script, "-w", "3", "--name", "failing")
    ended = time.time()
    assert done.code == 125, done.err
    assert "error: worker-1 ended with exit code 1: RuntimeError: the learning rate is negative\n" in done.err
    last = done.err.split("worker-1's last lines:\n")[1].split("\nerror:")[0]
    assert f"logs:  {place.runs / 'failing/logs'}\n" in last
    assert "  worker-1 | line 39\n" in last
    assert "worker-1 | RuntimeError: the learning rate is negative" in last
    assert "line 20\n" not in last, "too many lines are shown"
    failed = float(re.search(r"failing at ([\d.]+)", done.out)[1])
    assert ended - failed < 10
    assert place.leftovers() == []
    assert place.jobs() == []


def test_the_record_of_a_failed_job_has_all_logs_and_the_cause(place, gate_code):
    script = place.script(
        "import pathlib, os, sys, time\n"
        "pathlib.Path(os.environ['TFSPAWNER_OUTPUT'], 'half').write_text('what there was')\n"
        + gate_code
        + "sys.exit(3) if os.environ['TFSPAWNER_INDEX'] == '0' else time.sleep(600)"
    )
    running = place.start_run(script, "--name", "failing", "--env", f"GATE={place.gate}")
    running.prints("worker-0 | at the gate", "worker-1 | at the gate")
    place.open_gate("failing", "worker-0")
    done = running.done()
    assert done.code == 125, done.err
    assert "worker-0 ended with exit code 3" in done.err
    record = place.runs / "failing"
    for replica in ("worker-0", "worker-1"):
        assert (record / f"logs/{replica}.log").read_text() == "at the gate\n"
        assert (record / f"files/{replica}/half").read_text() == "what there was"
    report = json.loads((record / "report.json").read_text())
    assert (report["result"], report["cause"]["replica"]) == ("failed", "worker-0")


def test_a_replica_killed_by_a_signal_is_told_so(place):
    script = place.script("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    done = place.run(script, "-w", "1")
    assert done.code == 125
    assert re.search(r"worker-0 was killed.*SIGKILL", done.err), done.err
    assert place.leftovers() == []


def test_a_detached_job_that_fails_is_told_by_wait_status_and_fetch(place):
    script = place.script("import sys\nprint('the reason', flush=True)\nsys.exit(7)")
    name = place.run(script, "-w", "1", "--detach").out.strip()
    waited = place.of("wait", name)
    assert waited.code == 125
    assert "worker-0 ended with exit code 7" in waited.err
    assert "worker-0 | the reason" in waited.err
    state = place.of("status", name, "--output", "json").json
    assert (state["result"], state["cause"]["replica"], state["cause"]["exit_code"]) == ("failed", "worker-0", 7)
    fetched = place.of("fetch", name, "--out", place.runs, "--output", "json")
    assert fetched.json["result"] == "failed"
    assert (place.runs / name / "logs/worker-0.log").read_text() == "the reason\n"


def test_a_job_over_its_time_out_ends_with_124_and_leaves_nothing(place):
    done = place.run(place.script(SLEEPS), "--timeout", "2s")
    assert done.code == 124, done.err
    assert "time-out of 2 s" in done.err
    assert "Traceback" not in done.err
    assert done.seconds < 20
    assert place.leftovers() == []


def test_a_script_that_ignores_sigterm_is_killed(place):
    script = place.script("""
        import signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("deaf", flush=True)
        time.sleep(600)
    """)
    done = place.run(script, "-w", "1", "--timeout", "1s")
    assert done.code == 124, done.err
    assert done.seconds < 20
    assert place.leftovers() == []


def test_processes_that_the_script_leaves_behind_do_not_outlive_the_job(place):
    script = place.script("""
        import subprocess
        subprocess.Popen(["sleep", "600"])
        subprocess.Popen(["sleep", "600"], start_new_session=True)
        print("both are off")
    """)
    done = place.run(script, "-w", "1")
    assert done.code == 0, done.err
    assert place.leftovers() == []


def test_ctrl_c_leaves_nothing_and_exits_with_130(place):
    running = place.start_run(place.script(SLEEPS), "--name", "stopped")
    running.prints("worker-0 | sleeping", "worker-1 | sleeping")
    running.send(signal.SIGINT)
    done = running.done()
    assert done.code == 130, done.err
    assert "interrupted" in done.err
    assert "Traceback" not in done.err
    assert place.leftovers() == []
    assert (place.runs / "stopped/logs/worker-1.log").read_text() == "sleeping\n"


def test_ctrl_c_before_the_replicas_are_there_leaves_nothing(place):
    running = place.start_run(place.script(SLEEPS))
    running.prints(": starting", stream="stderr")
    running.send(signal.SIGINT)
    assert running.done().code == 130
    assert place.leftovers() == []


def test_a_name_in_use_is_refused_with_2_and_the_first_job_goes_on_unharmed(place, gate_code):
    gate = ("--env", f"GATE={place.gate}", "--name", "taken")
    first = place.start_run(place.script(gate_code + "print('the first, whole')"), *gate)
    first.prints("worker-0 | at the gate", "worker-1 | at the gate")
    another = place.script("print('the second')", "another.py")
    for detach in ([], ["--detach"]):
        second = place.run(another, *gate, *detach, "--out", place.folder / "second")
        assert second.code == 2, second.err
        assert "the name 'taken' is in use" in second.err
        assert "tf-spawner delete taken" in second.err
        assert second.out == ""
    place.open_gate("taken")
    done = first.done()
    assert done.code == 0, done.err
    assert (place.runs / "taken/logs/worker-1.log").read_text() == "at the gate\nthe first, whole\n"


def test_two_jobs_at_once_keep_out_of_each_others_way(place, gate_code):
    script = place.script(gate_code + "print('I am', os.environ['MINE'], os.environ['TF_CONFIG'])")
    names = ("one", "two")
    gate = ("--env", f"GATE={place.gate}")
    both = [place.start_run(script, "--name", name, "--env", f"MINE={name}", *gate) for name in names]
    for running in both:
        running.prints("worker-0 | at the gate", "worker-1 | at the gate")
    assert sorted(place.jobs()) == ["one", "two"]
    for name in names:
        place.open_gate(name)
    configs = set()
    for name, running in zip(names, both, strict=True):
        done = running.done()
        assert done.code == 0, done.err
        for replica in ("worker-0", "worker-1"):
            log = (place.runs / name / f"logs/{replica}.log").read_text()
            assert re.search(rf"\nI am {name} ", log)
            configs.add(log.partition('"task"')[0].partition("{")[2])
    assert len(configs) == 2, "the two jobs have the same addresses"
    assert place.leftovers() == []


def test_after_a_sigkill_the_job_is_listed_fetched_whole_and_deleted(place, gate_code):
    script = place.script(
        gate_code + "print('after the launcher died')\n"
        "open(os.environ['TFSPAWNER_OUTPUT'] + '/model', 'w').write('trained without a launcher')"
    )
    running = place.start_run(script, "--name", "orphan", "--env", f"GATE={place.gate}")
    running.prints("worker-0 | at the gate", "worker-1 | at the gate")
    running.send(signal.SIGKILL)
    assert running.done().code == -signal.SIGKILL
    assert place.jobs() == ["orphan"]
    place.open_gate("orphan")
    assert place.of("wait", "orphan").code == 0
    fetched = place.of("fetch", "orphan", "--out", place.runs)
    assert fetched.code == 0, fetched.err
    for replica in ("worker-0", "worker-1"):
        log = (place.runs / f"orphan/logs/{replica}.log").read_text()
        assert log == "at the gate\nafter the launcher died\n"
        assert (place.runs / f"orphan/files/{replica}/model").read_text() == "trained without a launcher"
    deleted = place.of("delete", "orphan")
    assert deleted.code == 0, deleted.err
    assert place.leftovers() == []


def test_a_name_too_long_is_refused_before_anything_is_created(place):
    done = place.run(place.script("print('hi')"), "--name", "n" * 60)
    assert done.code == 2
    assert "name is 'nnn" in done.err
    assert "60 characters" in done.err
    assert "at most 54" in done.err  # a DNS label has 63; "-worker-1" takes 9
    assert place.leftovers() == []
    assert not Path(place.runs).exists()


def test_the_longest_name_that_is_allowed_works(place):
    done = place.run(place.script("print('hi')"), "--name", "n" * 54)
    assert done.code == 0, done.err


def test_json_output_is_one_document_with_the_result(place):
    done = place.run(place.script("print('hi')"), "-w", "1", "--name", "told", "--output", "json")
    assert done.code == 0, done.err
    assert (done.json["job"], done.json["result"]) == ("told", "succeeded")
    assert done.json["folder"] == str(place.runs / "told")


def test_a_module_that_is_missing_is_named_with_the_next_step(place):
    done = place.run(place.script("import no_such_module\n"), "-w", "1")
    assert done.code == 125
    where = "the image" if place.on == "kubernetes" else sys.executable
    assert f"hint: {where} has no no_such_module: " in done.err
