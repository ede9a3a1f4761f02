"""What comes home is whole: of jobs that are stopping, of logs that scripts meddle with, and when it is fetched again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

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
import sys
import tfspawner

name, on, namespace, out = sys.argv[1:]
job = tfspawner.attach(name, on=on, namespace=namespace or None)
while (state := job.status()).phase != "stopping":
    if state.result:
        sys.exit("it stopped unseen")
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
    script = place.script(SAVES_LATE)
    for _ in range(5):  # it stops for two seconds, and a busy machine may look too late
        name = place.run(script, "-w", "2", "--detach").out.strip()
        command = [sys.executable, "-c", FETCHES_AS_IT_STOPS, name, place.on, place.namespace, str(place.runs)]
        done = subprocess.run(command, env=place.env, cwd=place.folder, capture_output=True, text=True, timeout=200)
        if "unseen" not in done.stderr:
            break
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


# Agents give scripts minutes to end, and launchers wait for two seconds.
SLOW_STOP = """
import os, sys, threading, time
if any(word.endswith("/agent.py") for word in sys.orig_argv):
    def change():
        while not hasattr(sys.modules.get("replica.main"), "main"):
            time.sleep(0.01)
        sys.modules["replica.script"].STOP_GRACE_S = 600.0
    threading.Thread(target=change, daemon=True).start()
elif "tfspawner" in sys.orig_argv:
    import tfspawner.follow.homecoming
    tfspawner.follow.homecoming.STOP_WITHIN_S = 2.0
"""
SAVES_AT_THE_GATE = """
    import os, signal, sys, time
    def save(*_):
        print("told to end", flush=True)
        while not os.path.exists(os.environ["GATE"]):
            time.sleep(0.02)
        open(os.environ["TFSPAWNER_OUTPUT"] + "/final.ckpt", "w").write("weights")
        sys.exit(0)
    open(os.environ["TFSPAWNER_OUTPUT"] + "/early.ckpt", "w").write("weights")
    signal.signal(signal.SIGTERM, save)
    print("trains", flush=True)
    time.sleep(600)
"""


def test_ctrl_c_leaves_a_job_whose_script_still_saves_and_fetch_brings_what_it_wrote_last(local_place):
    place = local_place
    hooks = place.folder / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(SLOW_STOP)
    place.env["PYTHONPATH"] = f"{hooks}:{place.env.get('PYTHONPATH', '')}"
    running = place.start_run(
        place.script(SAVES_AT_THE_GATE), "-w", "2", "--name", "slow", "--env", f"GATE={place.gate}"
    )
    running.prints("worker-0 | trains", "worker-1 | trains")
    running.send(signal.SIGINT)
    done = running.done()
    assert done.code == 130, done.err
    assert "job slow is kept" in done.err
    assert "worker-0, worker-1: the script has not ended, and may still write" in done.err
    assert "tf-spawner fetch slow" in done.err
    assert place.jobs() == ["slow"]
    for replica in ("worker-0", "worker-1"):
        assert (place.runs / f"slow/files/{replica}/early.ckpt").exists()
    assert json.loads((place.runs / "slow/report.json").read_text())["missing"]
    place.open_gate("slow")
    fetched = place.of("fetch", "slow", "--out", place.runs)
    assert fetched.code == 0, fetched.err
    for replica in ("worker-0", "worker-1"):
        assert (place.runs / f"slow/files/{replica}/final.ckpt").read_text() == "weights"


SAVES_WHEN_TOLD = """
    import os, signal, sys, time
    def save(*_):
        time.sleep(1)  # of the three seconds that it has
        open(os.environ["TFSPAWNER_OUTPUT"] + "/final.ckpt", "w").write("weights")
        print("saved", flush=True)
        sys.exit(0)
    signal.signal(signal.SIGTERM, save)
    print("trains", flush=True)
    time.sleep(600)
"""


def test_where_the_coordinator_is_lost_the_others_files_come_once_their_scripts_have_ended(local_place):
    place = local_place
    running = place.start_run(place.script(SAVES_WHEN_TOLD), "-w", "2", "--name", "headless")
    running.prints("worker-0 | trains", "worker-1 | trains")
    pids = json.loads((Path(place.env["XDG_STATE_HOME"]) / "tf-spawner/jobs/headless/pids.json").read_text())
    os.kill(pids["worker-0"][0], signal.SIGKILL)
    done = running.done()
    assert done.code == 125, done.err
    assert (place.runs / "headless/files/worker-1/final.ckpt").read_text() == "weights"
    assert (place.runs / "headless/logs/worker-1.log").read_text().splitlines()[-1] == "saved"
    assert place.leftovers() == []


@pytest.mark.parametrize("kind", ["pipe", "no number"])
def test_an_archive_of_the_code_that_the_script_changed_keeps_no_job_of_a_killed_agent(local_place, kind):
    place = local_place
    running = place.start_run(place.script(SAVES_WHEN_TOLD), "-w", "1", "--name", "changed", "--detach")
    assert running.done().code == 0
    folder = Path(place.env["XDG_STATE_HOME"]) / "tf-spawner/jobs/changed"
    os.kill(pids_of(place, "changed")["worker-0"][0], signal.SIGKILL)
    (folder / "code.tar.gz").unlink()
    if kind == "pipe":
        os.mkfifo(folder / "code.tar.gz")
    else:
        with tarfile.open(folder / "code.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as archive:
            member = tarfile.TarInfo("train.py")
            member.pax_headers = {"mtime": "inf"}
            archive.addfile(member)
    (folder / "worker-0/output").mkdir(parents=True, exist_ok=True)
    (folder / "worker-0/output/kept").write_text("kept")
    fetched = place.of("fetch", "changed", "--out", place.runs, timeout_s=120)
    assert "Traceback" not in fetched.err, fetched.err
    assert (place.runs / "changed/files/worker-0/kept").read_text() == "kept"
    deleted = place.of("delete", "changed", timeout_s=120)
    assert deleted.code == 0, deleted.err


def pids_of(place, job: str) -> dict[str, list[int]]:
    pids = json.loads((Path(place.env["XDG_STATE_HOME"]) / f"tf-spawner/jobs/{job}/pids.json").read_text())
    return {replica: numbers[0::2] for replica, numbers in pids.items()}


@pytest.mark.parametrize("silent", ["worker-0", "worker-1"])
def test_a_fetch_of_a_running_job_names_the_replica_that_runs_and_is_silent_and_releases_nothing(
    local_place, wait_until, silent
):
    place = local_place
    place.run(place.script(SAVES_WHEN_TOLD), "-w", "2", "--name", "cold", "--detach")
    wait_until(lambda: place.of("logs", "cold").out.count("| trains") == 2, "both scripts")
    agent, _ = pids_of(place, "cold")[silent]
    os.kill(agent, signal.SIGSTOP)
    try:
        fetched = place.of("fetch", "cold", "--out", place.folder / "elsewhere")
    finally:
        os.kill(agent, signal.SIGCONT)
    assert fetched.code == 5, fetched.err
    assert (
        f"the files of {silent} could not be collected: its process or pod runs, and its agent does not answer"
        in fetched.err
    )
    assert "tf-spawner fetch cold" in fetched.err
    assert place.jobs() == ["cold"]


def test_a_job_without_a_readable_id_is_not_ended_for_a_former_one_that_was_being_removed(local_place, wait_until):
    place = local_place
    name = place.run(place.script("print('old')"), "-w", "1", "--name", "x", "--detach").out.strip()
    assert place.of("wait", name).code == 0
    assert place.of("fetch", name, "--keep", "--out", place.runs).code == 0
    assert place.of("delete", name).code == 0
    with open(place.runs / name / "events.jsonl", "a") as events:
        events.write('{"time": 1, "event": "removing"}\n')
    place.run(place.script("import time; time.sleep(600)"), "-w", "1", "--name", "x", "--detach")
    (meta,) = place.folder.glob("state/**/jobs/x/meta.json")
    whole, id_file = meta.read_bytes(), meta.with_name(".job-id")
    meta.write_bytes(whole[: len(whole) // 2])
    id_file.unlink()
    done = place.of("fetch", "x", "--out", place.runs)
    assert done.code == 3, done.err
    assert "job x cannot be asked: " in done.err
    assert "tf-spawner delete x" in done.err
    meta.write_bytes(whole)
    wait_until(
        lambda: [(job["job"], job["state"]) for job in place.of("list", "-o", "json").json] == [("x", "running")],
        "that the job runs on",
    )


@pytest.mark.parametrize("left", [["job.json", "meta.json", ".job-id"], ["meta.json", ".job-id"], [".job-id"], []])
def test_what_is_left_of_a_job_that_was_being_removed_goes_with_the_next_fetch(local_place, left):
    place = local_place
    name = place.run(place.script("print('old')"), "-w", "1", "--name", "x", "--detach").out.strip()
    assert place.of("wait", name).code == 0
    assert place.of("fetch", name, "--keep", "--out", place.runs).code == 0
    with open(place.runs / name / "events.jsonl", "a") as events:
        events.write('{"time": 1, "event": "removing"}\n')
    (folder,) = place.folder.glob("state/**/jobs/x")
    kept = {file: (folder / file).read_bytes() for file in left}
    assert place.of("delete", name).code == 0
    folder.mkdir()
    for file, data in kept.items():
        (folder / file).write_bytes(data)
    done = place.of("fetch", "x", "--out", place.runs, "-o", "json")
    assert done.code == 0, done.err
    assert done.json["result"] == "succeeded"
    assert place.leftovers() == []


WRITES_AND_WAITS = """
    import os, sys, time
    open(os.environ["TFSPAWNER_OUTPUT"] + "/early.ckpt", "w").write("weights")
    print("written", flush=True)
    while not os.path.exists(os.environ["GATE"]):
        time.sleep(0.02)
"""


def test_a_report_keeps_what_came_of_a_replica_that_is_silent_when_it_is_fetched_again(local_place, wait_until):
    place = local_place
    script = place.script(WRITES_AND_WAITS)
    place.run(script, "-w", "2", "--name", "cold", "--env", f"GATE={place.gate}", "--detach")
    wait_until(lambda: place.of("logs", "cold").out.count("| written") == 2, "both scripts")
    assert place.of("fetch", "cold", "--out", place.runs).code == 0
    agent, _ = pids_of(place, "cold")["worker-1"]
    report = place.runs / "cold/report.json"

    def files() -> dict[str, list[str]]:
        return {replica: [f["path"] for f in of] for replica, of in json.loads(report.read_text())["files"].items()}

    os.kill(agent, signal.SIGSTOP)
    try:
        again = place.of("fetch", "cold", "--out", place.runs)
        assert again.code == 5, again.err
        assert files() == {"worker-0": ["early.ckpt"], "worker-1": ["early.ckpt"]}
    finally:
        os.kill(agent, signal.SIGCONT)


def test_what_came_whole_of_a_job_that_has_ended_is_not_missed_when_its_replica_is_silent_later(local_place):
    place = local_place
    script = place.script("import os; open(os.environ['TFSPAWNER_OUTPUT'] + '/model', 'w').write('weights')")
    name = place.run(script, "-w", "2", "--detach").out.strip()
    assert place.of("wait", name).code == 0
    assert place.of("fetch", name, "--keep", "--out", place.runs).code == 0
    os.unlink(place.runs / name / "files/worker-0/model")
    agent, _ = pids_of(place, name)["worker-1"]
    os.kill(agent, signal.SIGSTOP)
    try:
        again = place.of("fetch", name, "--keep", "--out", place.runs)
        assert again.code == 0, again.err
        assert list(json.loads((place.runs / name / "report.json").read_text())["files"]) == ["worker-0", "worker-1"]
        os.unlink(place.runs / name / "files/worker-1/model")
        gone = place.of("fetch", name, "--keep", "--out", place.runs)
        assert gone.code == 5, gone.err
    finally:
        os.kill(agent, signal.SIGCONT)


WRITES_EVERYWHERE = """
    import os, time
    os.makedirs(os.environ["TFSPAWNER_OUTPUT"] + "/deep")
    open(os.environ["TFSPAWNER_OUTPUT"] + "/deep/model", "w").write("weights")
    os.symlink("/etc/passwd", os.environ["TFSPAWNER_OUTPUT"] + "/link")
    open("notes.txt", "w").write("in the working folder")
    print("written", flush=True)
    time.sleep(600)
"""


def kill_agents(place, job: str, wait_until, *replicas: str) -> None:
    """Kills them, and waits for those above them, which end the scripts."""
    numbers = pids_of(place, job)
    for replica in replicas:
        os.kill(numbers[replica][0], signal.SIGKILL)
    pids = [pid for replica in replicas for pid in numbers[replica]]
    wait_until(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in pids), "their end")


def test_files_of_killed_agents_are_fetched_from_where_they_lie_and_a_delete_before_warns(local_place, wait_until):
    place = local_place
    names = ("fetched", "deleted")
    for name in names:
        place.run(place.script(WRITES_EVERYWHERE), "-w", "2", "--name", name, "--detach")
        wait_until(lambda name=name: place.of("logs", name).out.count("| written") == 2, "both scripts")
        kill_agents(place, name, wait_until, "worker-0", "worker-1")
    deleted = place.of("delete", "deleted")
    assert deleted.out == "deleted is deleted; its files were not fetched and are lost\n"
    done = place.of("fetch", "fetched", "--out", place.runs, "-o", "json")
    assert done.code == 0, done.err
    assert done.json["result"] == "failed"
    for replica in ("worker-0", "worker-1"):
        folder = place.runs / "fetched/files" / replica
        came = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())
        assert came == ["deep/model", "workdir/notes.txt"]
        assert (place.runs / f"fetched/logs/{replica}.log").read_text() == "written\n"
    assert place.of("delete", "fetched").out == "fetched is deleted\n"


@pytest.mark.parametrize("killed", ["worker-0", "worker-1"])
def test_a_run_brings_the_files_of_a_replica_whose_agent_was_killed(local_place, killed):
    place = local_place
    running = place.start_run(place.script(WRITES_EVERYWHERE), "-w", "2", "--name", "shot")
    running.prints("worker-0 | written", "worker-1 | written")
    os.kill(pids_of(place, "shot")[killed][0], signal.SIGKILL)
    done = running.done()
    assert done.code == 125, done.err
    for replica in ("worker-0", "worker-1"):
        assert (place.runs / f"shot/files/{replica}/deep/model").read_text() == "weights"
    assert place.leftovers() == []


def test_nothing_is_brought_through_a_link_in_the_place_of_a_killed_replicas_folder(local_place, wait_until):
    place = local_place
    place.run(place.script(WRITES_EVERYWHERE), "-w", "1", "--name", "x", "--detach")
    wait_until(lambda: "written" in place.of("logs", "x").out, "the script")
    kill_agents(place, "x", wait_until, "worker-0")
    (folder,) = place.folder.glob("state/**/jobs/x/worker-0")
    elsewhere = place.folder / "elsewhere"
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)
    done = place.of("fetch", "x", "--out", place.runs)
    assert done.code == 5, done.err
    assert not list(place.runs.glob("x/files/*/*"))
