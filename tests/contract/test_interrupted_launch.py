"""The launcher is killed, or interrupted, before each step of a launch in turn: nothing is left that cannot be removed."""

from __future__ import annotations

import itertools
import signal

import pytest

# Runs before tf-spawner: an audit hook (PEP 578) that sends a signal before the N-th step that changes something.
HOOK = """
import os, signal, sys
left, number = {step}, {number}
state = os.environ["XDG_STATE_HOME"]

def is_step(event, arguments):
    if event in ("subprocess.Popen", "http.client.send"):
        return True
    if event == "open":
        path, mode, flags = arguments
        return str(path).startswith(state) and bool(flags & (os.O_WRONLY | os.O_RDWR))
    return event in ("os.mkdir", "os.rename") and str(arguments[0]).startswith(state)

def hook(event, arguments):
    global left
    if left and is_step(event, arguments):
        left -= 1
        if not left:
            signal.raise_signal(number)

sys.addaudithook(hook)
"""
SLEEPS = "import time\ntime.sleep(600)\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_at_whatever_step_it_is_stopped_list_shows_what_is_left_and_delete_removes_it(place, number, code, wait_until):
    script = place.script(SLEEPS)
    changing = False
    for step in itertools.count(1):
        hook = HOOK.format(step=step, number=int(number))
        done = place.run(script, "-w", "2", "--name", "cut", "--detach", first=hook)
        if done.code == 0:
            break  # it has fewer steps
        assert done.code == code, f"before step {step}: {done.err}"
        assert "Traceback" not in done.err, f"before step {step}"
        if number == signal.SIGINT:  # a process that was just being started ends by itself
            wait_until(lambda: place.leftovers() == [], f"the end of all, before step {step}", 10)
        elif left := place.leftovers():
            changing = True
            assert place.jobs() == ["cut"], f"before step {step}: {left} is left and not listed"
            deleted = place.of("delete", "cut")
            assert deleted.code == 0, f"before step {step}: {deleted.err}"
            assert place.leftovers() == [], f"before step {step}"
    assert step > 8
    assert changing or number == signal.SIGINT
