"""The processes below an agent, and what Linux lets it do about them."""

from __future__ import annotations

import ctypes
import glob
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable

from .protocol import SMALL, TOKEN

KILL_WITHIN_S = 5.0  # how long it may take to kill processes that keep starting others

LOOKS = 3  # at /proc that have to find nobody: in a chain of processes one may end, and its child begin, behind a look

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36


def die_with_agent() -> Callable[[], None] | None:
    """On Linux, makes a child die with the agent: its GPU must not stay taken."""
    prctl = find_prctl()
    return prctl and (lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL))


def find_prctl() -> Any:
    """Linux's prctl; None elsewhere."""
    try:
        return ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return None


def take_token(fd: int | None) -> str:
    """The job's token: from a pipe, or a pod's environment.

    No other process of this user can find it then, neither in the environment nor in the memory.
    """
    call = find_prctl()
    if call:
        call(PR_SET_DUMPABLE, 0, 0, 0, 0)
    if fd is not None:
        with open(fd) as pipe:
            return pipe.read()
    token = os.environ.pop(TOKEN)
    if Path("/proc/self/stat").exists():
        start, end = map(int, Path("/proc/self/stat").read_text().rpartition(")")[2].split()[47:49])
        at = ctypes.string_at(start, end - start).find(f"{TOKEN}={token}".encode())
        if at >= 0:
            ctypes.memset(start + at, 0, len(TOKEN) + 1 + len(token))
    return token


def adopt_orphans() -> None:
    """On Linux, makes this process the parent of its descendants' orphans, so that no daemon can hide from it."""
    prctl = find_prctl()
    if prctl:
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(pid: int) -> list[int]:
    """The running descendants of a process."""
    children: dict[int, list[int]] = {}
    for stat_file in glob.glob("/proc/[0-9]*/stat"):
        try:
            with open(stat_file, "rb") as file:
                state, parent = file.read().rpartition(b") ")[2].split()[:2]
        except (OSError, ValueError):
            continue  # it has ended
        if state not in b"ZX":
            children.setdefault(int(parent), []).append(int(stat_file.split("/")[2]))
    pids = list(children.get(pid, []))
    for child in pids:
        pids += children.get(child, [])
    return pids


def end_descendants(pid: int, within_s: float) -> None:
    """Kills all descendants, and those that they start meanwhile; to reach all, the process should adopt orphans."""
    deadline, looks = time.monotonic() + within_s, 0
    while looks < LOOKS and time.monotonic() < deadline:
        pids = descendants(pid)
        looks = 0 if pids else looks + 1
        for child in pids:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(child, signal.SIGKILL)
        end_orphans(pid, time.monotonic() + (0.2 if pids else 0.005))


def end_orphans(pid: int, until: float) -> None:
    """Kills the orphans that the process adopts, at once.

    One that forks and ends, again and again, is gone after a look at all of /proc.
    """
    try:
        children = open(f"/proc/{pid}/task/{pid}/children", "rb", buffering=0)
    except OSError:
        return time.sleep(0.02)  # for example a kernel without this file
    with children:
        while time.monotonic() < until:
            children.seek(0)
            for child in children.read(SMALL).split()[::-1]:  # the newest
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(int(child), signal.SIGKILL)
            if pid == os.getpid():
                reap()


def reap() -> None:
    """Reaps all children that have ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def kill_group(pid: int, how: int) -> None:
    """Sends a signal to a group of processes, if it is there."""
    try:
        os.killpg(pid, how)
    except (ProcessLookupError, PermissionError):
        pass
