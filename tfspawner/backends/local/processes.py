"""A local job's processes: known by pid and start time, because a pid may be used again."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from .state import is_agent_of

NUMBER_WITHIN_S = 10.0  # how long a keeper may take to report its agent's pid
OUTPUT = "TFSPAWNER_OUTPUT"  # the variable by which a job's processes are recognised


def read_number(file: int) -> int:
    """Reads a pid as soon as it comes; 0 if none does."""
    with open(file, "rb", buffering=0) as source:
        waiting = select.poll()
        waiting.register(source, select.POLLIN)
        return int(source.read(20) or 0) if waiting.poll(NUMBER_WITHIN_S * 1000) else 0


def started(pid: int) -> int:
    """When a process started, in the kernel's ticks since boot; 0 if there is none, or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    except OSError:
        return 0 if Path("/proc/self").exists() else int(exists(pid))
    return 0 if fields[0] in "ZX" else int(fields[19])


def exists(pid: int) -> bool:
    """Whether a process exists. For systems without /proc, where a reused pid cannot be recognised."""
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def strays(folder: Path) -> Iterator[int]:
    """Processes of a job, or of one replica: scripts that outlived their agents, and agents not noted in time.

    Scripts are recognised by a variable, agents by their command line, because nobody may read their environment.
    """
    mark = f"{OUTPUT}={folder}/".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if is_agent_of(folder, int(process.name)) or any(
                variable.startswith(mark) for variable in (process / "environ").read_bytes().split(b"\0")
            ):
                yield int(process.name)
