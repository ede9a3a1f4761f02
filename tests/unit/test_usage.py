"""What a replica's script uses, of real processes."""

import os
import signal
import subprocess
import sys

import pytest

from tfspawner.usage import Usage, visible

BUSY = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "held = b'x' * 60_000_000\\nprint(flush=True)\\nwhile True: pass"], stdout=subprocess.PIPE)
child.stdout.readline()
print(flush=True)
child.wait()
"""


def test_all_processes_of_the_script_count():
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, start_new_session=True) as process:
        process.stdout.readline()
        usage = Usage(process.pid)
        first = usage.sample()
        while usage.sample()["cpu"] < 0.1:
            pass
        os.killpg(process.pid, signal.SIGKILL)
    assert first["memory"] > 60_000_000


def test_a_script_that_ended_uses_nothing():
    with subprocess.Popen(["true"], start_new_session=True) as process:
        process.wait()
        told = Usage(process.pid).sample()
    assert (told["cpu"], told["memory"]) == (0, 0)


@pytest.mark.parametrize(
    ("numbers", "seen"), [(None, [7, 8, 9]), ("", [7, 8, 9]), ("2,0", [9, 7]), ("5", []), ("GPU-af12", [7, 8, 9])]
)
def test_the_gpus_are_those_that_cuda_is_shown(numbers, seen):
    assert visible([7, 8, 9], numbers) == seen
