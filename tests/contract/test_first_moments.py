"""Ctrl-C and a missing terminal, before a command has done anything."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["click", "tfspawner.cli.main"])
def test_ctrl_c_while_the_modules_are_read_is_no_traceback(tmp_path, module):
    """A finder of the test's own stands still where that module is asked for."""
    finder = f"""
import sys, time
class Finder:
    def find_spec(name, path=None, target=None):
        if name == {module!r}:
            print("reading", flush=True)
            time.sleep(60)
sys.meta_path.insert(0, Finder)
"""
    (tmp_path / "sitecustomize.py").write_text(finder)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    process = subprocess.Popen(
        [sys.executable, "-m", "tfspawner", "list"], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "reading\n"
    process.send_signal(signal.SIGINT)
    assert (process.communicate(timeout=60)[1], process.returncode) == ("", 130)


def test_where_nobody_can_be_asked_nothing_is_deleted_and_the_flag_is_told(local_place):
    job = local_place.run(local_place.script("import time; time.sleep(600)"), "--detach").out.strip()
    done = local_place.of("delete", "--all")  # its standard input is empty
    assert done.code == 2, done.err
    assert done.err.endswith("error: nobody answered, and nothing is deleted\nhint: to delete unasked: -y\n")
    assert local_place.jobs() == [job]
