"""What comes home is whole: of jobs that are stopping, of logs that scripts meddle with, and when it is fetched again."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SAVES_LATE = """
    import os, signal, sys, time
    def save(*_):
        time.sleep(2)  # of the three seconds that it has
        open(os.environ["TFSPAWNER_OUTPUT"] + "/final.ckpt", "w").write("weights")
        sys.exit(0)
    if os.environ["TFSPAWNER_INDEX"] == "0":
        time.sleep(3)
        sys.exit(3)
    signal.signal(signal.SIGTERM, save)
    time.sleep(600)
"""
FETCHES_AS_IT_STOPS = """
import sys, time
import tfspawner

name, on, namespace, out = sys.argv[1:]
job = tfspawner.attach(name, on=on, namespace=namespace or None)
while job.status().phase != "stopping":
    assert job.status().result is None, "it stopped unseen"
    time.sleep(0.02)
job.fetch(out)
"""
MEDDLES = """
    import os, sys
    log = os.path.dirname(os.environ["TFSPAWNER_OUTPUT"]) + "/log"
    print("begin", flush=True)
    os.unlink(log)
    if sys.argv[1] == "fifo":
        os.mkfifo(log)
    for number in range(2000):
        print("line", number, flush=True)
"""


def test_a_fetch_of_a_job_that_is_stopping_waits_for_what_its_scripts_still_write(place):
    name = place.run(place.script(SAVES_LATE), "-w", "2", "--detach").out.strip()
    command = [sys.executable, "-c", FETCHES_AS_IT_STOPS, name, place.on, place.namespace, str(place.runs)]
    done = subprocess.run(command, env=place.env, cwd=place.folder, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert (place.runs / name / "files/worker-1/final.ckpt").read_text() == "weights"


@pytest.mark.parametrize("how", ["none", "fifo"])
def test_a_log_whose_file_the_script_replaced_comes_whole(local_place, how):
    done = local_place.run(local_place.script(MEDDLES), "-w", "1", "--name", "meddles", "--", how)
    assert done.code == 0, done.err
    assert (local_place.runs / "meddles/logs/worker-0.log").read_text().endswith("line 1999\n")


def test_a_second_fetch_leaves_the_record_of_the_first(local_place, wait_until):
    place = local_place
    script = place.script("import os; open(os.environ['TFSPAWNER_OUTPUT'] + '/model', 'w').write('weights')")
    name = place.run(script, "-w", "1", "--detach").out.strip()
    assert place.of("wait", name).code == 0
    assert place.of("fetch", name, "--out", place.runs).code == 0
    report = (place.runs / name / "report.json").read_text()
    wait_until(lambda: place.of("list", "-o", "json").json[0]["state"] == "succeeded", "the agent to end")
    again = place.of("fetch", name, "--out", place.runs)
    assert again.code == 0, again.err
    assert json.loads((place.runs / name / "report.json").read_text())["files"] == json.loads(report)["files"]
    elsewhere = place.of("fetch", name, "--out", place.folder / "elsewhere")
    assert elsewhere.code == 5, elsewhere.err


def test_an_older_runs_success_is_none_of_a_damaged_job(local_place):
    place = local_place
    assert place.run(place.script("print('old')"), "-w", "1", "--name", "x").code == 0
    place.run(place.script("import time; time.sleep(600)"), "-w", "1", "--name", "x", "--detach")
    (meta,) = place.folder.glob("state/**/jobs/x/meta.json")
    whole = meta.read_bytes()
    meta.write_bytes(whole[: len(whole) // 2])
    done = place.of("fetch", "x", "--out", place.runs)
    assert done.code != 0, done.err
    meta.write_bytes(whole)
    assert place.jobs() == ["x"]


def test_bytes_that_are_no_text_in_the_events_keep_no_job_from_being_fetched(local_place):
    place = local_place
    name = place.run(place.script("print('hi')"), "-w", "1", "--detach").out.strip()
    assert place.of("wait", name).code == 0
    assert place.of("fetch", name, "--keep", "--out", place.runs).code == 0
    with open(place.runs / name / "events.jsonl", "ab") as events:
        events.write(b'{"time": 1, "event": "removing"}\n\xff\n')
    done = place.of("fetch", name, "--out", place.runs)
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
