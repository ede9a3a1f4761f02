"""How a script ended, and why: from its exit code, its last output, and the kernel's counters."""

from __future__ import annotations

import itertools
import re
import signal
from pathlib import Path

from .protocol import EXIT_PEER_LOST, PEER_LOST_MESSAGE

CGROUP = Path("/sys/fs/cgroup")

# What TensorFlow 2.21 prints on a survivor: both must stand in its last output.
PEER_LOST = re.compile(rb"Collective ops is aborted by|unhealthy \(stopped sending heartbeats\)")
PEER_LOST_ERROR = re.compile(
    rb"^tensorflow\.python\.framework\.errors_impl\.(Unavailable|DeadlineExceeded|Aborted|Cancelled)Error", re.M
)

# The peer that a survivor blames: the one that fell silent.
UNHEALTHY = re.compile(rb"stopped sending heartbeats\): /job:(\w{1,63})/replica:\d{1,9}/task:(\d{1,9})")

# Where a stack's innermost place is in here, the replica waits for its peers.
IN_TENSORFLOW = re.compile(r"/(tensorflow|tf_keras|keras)/")

# As faulthandler prints a frame.
PLACE = re.compile(r'\s*File "(?:[^"]*/)?([^/"]+)", line ([0-9]+) in (.*)')
MISSING_MODULE = re.compile(rb"^ModuleNotFoundError: No module named '([\w.]{1,200})'\s*\Z", re.M)


def memory_cgroup() -> tuple[int, int]:
    """(how often the kernel killed for lack of memory, the limit in bytes or 0), from cgroup v2 or v1."""
    for events, limit in (
        ("memory.events", "memory.max"),
        ("memory/memory.oom_control", "memory/memory.limit_in_bytes"),
    ):
        try:
            lines = (CGROUP / events).read_text().splitlines()
            kills = sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
            most = (CGROUP / limit).read_text().strip()
        except (OSError, ValueError, IndexError):
            continue
        return kills, int(most) if most.isdigit() and int(most) < 1 << 60 else 0
    return 0, 0


def classify(returncode: int, tail: bytes) -> tuple[int, str]:
    """The replica's exit code and a few words, from how the script ended (negative: by that signal)."""
    if returncode < 0:
        named = {int(known): known.name for known in signal.Signals}
        return 128 - returncode, f"was killed by {named.get(-returncode, f'signal {-returncode}')}"
    if returncode == 1 and PEER_LOST.search(tail) and PEER_LOST_ERROR.search(tail):
        return EXIT_PEER_LOST, PEER_LOST_MESSAGE
    return returncode, f"ended with exit code {returncode}"


def stands_at(output: bytes) -> list[str]:
    """The stack of the thread that got SIGABRT, innermost first, as faulthandler last printed it."""
    stack = output.rpartition(b"Current thread ")[2].decode(errors="replace").splitlines()[1:]
    return [line.strip() for line in itertools.takewhile(lambda line: line.startswith("  File "), stack)]


def place_in(stack: list[str]) -> str:
    """The innermost place of a stack, such as "train.py, line 33, in on_epoch_end"."""
    match = PLACE.match(stack[0])
    return f"{match[1]}, line {match[2]}, in {match[3]}" if match else stack[0]
