"""What is said to be gone is gone: folders of any mode, daemons that hide, and what a launcher that was killed left half removed."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import textwrap
import time
from pathlib import Path

import pytest

SLEEPS = "import time\nprint('sleeping', flush=True)\ntime.sleep(600)\n"

# A daemon as they are written: two forks, a session of its own, nothing open, and nothing in its environment.
DAEMON = """
import os, sys, time
def daemon(pid_file):
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.closerange(0, 64)
        os.execve("/bin/sh", ["sh", "-c", f"echo $$ > {pid_file}; exec sleep 600"], {})
    os.wait()
    while not os.path.exists(pid_file) or not open(pid_file).read():
        time.sleep(0.01)
"""


def lives(pid_file: Path) -> bool:
    stat = Path(f"/proc/{pid_file.read_text().strip()}/stat")
    return stat.exists() and stat.read_text().rpartition(") ")[2][0] not in "ZX"


@pytest.fixture
def daemon(local_place):
    """Where the daemon's number is written; it is ended with the test."""
    pid_file = local_place.folder / "daemon"
    yield pid_file
    if pid_file.exists() and lives(pid_file):
        os.kill(int(pid_file.read_text()), signal.SIGKILL)


def test_a_daemon_with_an_empty_environment_does_not_outlive_its_script(local_place, daemon):
    place = local_place
    script = DAEMON + f"daemon({str(daemon)!r})\nprint('it is off')\n"
    name = place.run(place.script(script), "-w", "1", "--detach").out.strip()
    assert place.of("wait", name).code == 0
    assert not lives(daemon), "it goes on while the job holds its files"
    deleted = place.of("delete", name)
    assert (deleted.code, deleted.out) == (0, f"{name} is deleted; its files were not fetched and are lost\n")


@pytest.mark.parametrize("how", ["delete", "ctrl-c", "frozen", "killed"])
def test_a_daemon_with_an_empty_environment_does_not_outlive_a_job_that_is_ended(local_place, daemon, how):
    place = local_place
    running = place.start_run(place.script(DAEMON + f"daemon({str(daemon)!r})\n" + SLEEPS), "-w", "1", "--name", "off")
    running.prints("worker-0 | sleeping")
    pids = json.loads((Path(place.env["XDG_STATE_HOME"]) / "tf-spawner/jobs/off/pids.json").read_text())
    if how == "ctrl-c":
        running.send(signal.SIGINT)
        assert running.done().code == 130
    elif how == "killed":
        os.kill(pids["worker-0"][0], signal.SIGKILL)
        assert running.done().code == 125
    else:
        if how == "frozen":
            os.kill(pids["worker-0"][0], signal.SIGSTOP)
        assert place.of("delete", "off").code == 0
    assert not lives(daemon)
    assert place.leftovers() == []


def not_root() -> None:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)


@pytest.mark.parametrize("mode", ["0", "0o500", "0o100", "0o444"])
def test_an_output_folder_of_any_mode_is_removed_with_the_job(tmp_path, mode):
    """Root may remove all, so that it is another who does it."""
    from tfspawner.backends.local.removing import remove_folder

    top = tmp_path / "job"
    deep = top / "worker-0/output/deep"
    deep.mkdir(parents=True)
    (deep / "file").write_text("x")
    (top / "meta.json").write_text("{}")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "stays").write_text("x")
    (deep / "link").symlink_to(outside)
    for folder in (deep, deep.parent, deep.parent.parent, top):
        folder.chmod(int(mode, 0))
    if os.getuid() == 0:
        for path in (tmp_path, top, deep.parent.parent, deep.parent, deep, deep / "file", outside, outside / "stays"):
            os.chown(path, 65534, 65534)
        for parent in itertools.takewhile(lambda path: path.name != "tmp", tmp_path.parents):
            parent.chmod(0o755)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if os.getuid() == 0:
                not_root()
            remove_folder(top)
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert not top.exists()
    assert (outside / "stays").read_text() == "x"
    assert outside.stat().st_mode & 0o777 == 0o755, "a link's target is not opened up"


def test_delete_says_what_it_could_not_remove_and_why_and_a_later_one_removes_it(local_place):
    place = local_place
    name = place.run(place.script("print('hi')"), "-w", "1", "--detach").out.strip()
    assert place.of("wait", name).code == 0
    output = Path(place.env["XDG_STATE_HOME"]) / f"tf-spawner/jobs/{name}/worker-0/output"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(output)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        done = place.of("delete", name)
    finally:
        subprocess.run(["umount", str(output)], check=True)
    assert done.code == 3, done.err
    assert f"{output} cannot be removed: Device or resource busy" in done.err
    assert "is deleted" not in done.out
    assert place.jobs() == [name]
    assert place.of("delete", name).code == 0
    assert place.leftovers() == []


# Ends the launcher, as SIGKILL does, before its N-th step of clearing up.
KILLS = """
import os, signal, sys
left = int(os.environ.pop("KILL_AT", 0))

def is_ours(event, arguments):
    # A signal, or the removing of something in a job's folder.
    if event in ("os.killpg", "os.kill"):
        return True
    if event not in ("os.remove", "os.rmdir"):
        return False
    place, within = os.fsdecode(arguments[0]), arguments[1]
    return "/jobs/" in (place if within == -1 else os.readlink(f"/proc/self/fd/{within}") + "/")

def hook(event, arguments):
    global left
    if is_ours(event, arguments):
        left -= 1
        if not left:
            signal.raise_signal(signal.SIGKILL)

if left:
    sys.addaudithook(hook)
"""


@pytest.mark.parametrize("code", [0, 3])
def test_where_a_launcher_was_killed_while_it_cleared_up_the_next_fetch_knows_that_all_is_here(local_place, code):
    place = local_place
    hooks = place.folder / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(textwrap.dedent(KILLS))
    script = place.script(
        f"import os, sys\nopen(os.environ['TFSPAWNER_OUTPUT'] + '/model', 'w').write('whole')\nprint('log')\nsys.exit({code})"
    )
    env = place.env
    for step in (1, 3, 9):
        place.env = {**env, "PYTHONPATH": f"{hooks}:{env.get('PYTHONPATH', '')}", "KILL_AT": str(step)}
        done = place.run(script, "-w", "1", "--name", f"cut-{step}")
        place.env = env
        if done.code != -signal.SIGKILL:
            assert step > 3, done.err
            break
        fetched = place.of("fetch", f"cut-{step}", "--out", place.runs, "-o", "json")
        assert fetched.code == 0, f"step {step}: {fetched.err}"
        assert fetched.json["result"] == ("failed" if code else "succeeded")
        assert (place.runs / f"cut-{step}/files/worker-0/model").read_text() == "whole"
        assert (place.runs / f"cut-{step}/logs/worker-0.log").read_text() == "log\n"
        assert not (place.runs / f"cut-{step}.1").exists()
        assert place.jobs() == [], f"step {step}"
    time.sleep(0.1)
    assert place.leftovers() == []
