"""A script that keeps its agent from having threads, or forks on and on, is ended all the same."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

import tfspawner
from tfspawner.replica.agent import Agent
from tfspawner.replica.job import Job
from tfspawner.replica.main import listen_on

CONFIG = {
    "job": "j", "roles": {"worker": 1}, "coordinator_address": "127.0.0.1:1", "collect": [], "code_sha256": "",
    "start_timeout_s": 60, "timeout_s": None, "restarts": 0, "restart_on": [], "replaces_lost": False,
    "stall_timeout_s": None, "command_file": False, "args": [], "script": "script.py", "gpus": 0, "hold_s": 0,
    "artifacts": None,
}  # fmt: skip


@pytest.fixture
def made(tmp_path):
    (tmp_path / "code.tar.gz").write_bytes(b"")
    return Agent(Job(CONFIG), "worker", 0, "127.0.0.1", 1, 2, "", tmp_path, tmp_path)


def refused(*_: object) -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("how", ["stop_child", "break_off", "terminate"])
def test_the_script_ends_where_no_thread_can_be_had(made, monkeypatch, how):
    made.begin(made.end_scripts)
    made.child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    monkeypatch.setattr(threading.Thread, "start", refused)
    getattr(made, how)(*(["listen", RuntimeError("no")] if how == "break_off" else []))
    assert made.child.wait(20) < 0


def test_a_script_whose_output_nobody_could_read_does_not_run_on(made, monkeypatch, tmp_path):
    """The thread that would read it cannot be had."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code/script.py").write_text("import time\ntime.sleep(600)\n")

    def work() -> int:
        monkeypatch.setattr(threading.Thread, "start", refused)
        return made.run(dict(os.environ))

    monkeypatch.setattr(made, "work", work)
    monkeypatch.setattr(made, "hold", lambda: None)
    for module in ("agent", "script"):  # pytest's own are none of the agent's
        monkeypatch.setattr(f"tfspawner.replica.{module}.end_descendants", lambda *_: None)
    listener = listen_on(0)
    assert made.main(listener) == 1
    assert "can't start new thread" in made.report["message"]
    assert made.child.returncode == -9


CHAIN = """
import os, sys
os.setsid()
os.environ.clear()
while True:
    if os.fork():
        os._exit(0)
    os.utime(sys.argv[1])
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="Linux")
def test_a_daemon_that_forks_on_and_on_is_ended(tmp_path):
    mark = tmp_path / "mark"
    mark.touch()
    program = f"""
import subprocess, sys, time
sys.path.insert(0, {os.path.dirname(tfspawner.__file__)!r})
import os
from replica.processes import adopt_orphans, end_descendants
adopt_orphans()
subprocess.Popen([sys.executable, "-c", {CHAIN!r}, {str(mark)!r}])
time.sleep(1)
end_descendants(os.getpid(), 20)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    last = mark.stat().st_mtime_ns
    time.sleep(0.5)
    assert mark.stat().st_mtime_ns == last
