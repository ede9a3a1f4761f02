"""A local job's processes: known by number and start, so that one which came later under the same number is not taken for it."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from .state import is_agent_of

NUMBER_WITHIN_S = 10.0  # so long a keeper may take to tell its agent's number
OUTPUT = "TFSPAWNER_OUTPUT"  # the variable by which a job's processes are told from others'


def read_number(file: int) -> int:
    """A process's number, as soon as it comes; 0 where none does."""
    with open(file, "rb", buffering=0) as source:
        waiting = select.poll()
        waiting.register(source, select.POLLIN)
        return int(source.read(20) or 0) if waiting.poll(NUMBER_WITHIN_S * 1000) else 0


def started(pid: int) -> int:
    """When a process started, in the kernel's ticks since boot; 0 where there is none (or a zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    except OSError:
        return 0 if Path("/proc/self").exists() else int(exists(pid))
    return 0 if fields[0] in "ZX" else int(fields[19])


def exists(pid: int) -> bool:
    """For systems without /proc, where a reused process number is not told apart."""
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def strays(folder: Path) -> Iterator[int]:
    """Processes of scripts of the job, or of one replica, that outlived their agents, and agents that were not noted in time.

    Scripts are known by a variable; agents, whose environment nobody may read, by their command line.
    """
    mark = f"{OUTPUT}={folder}/".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if is_agent_of(folder, int(process.name)) or any(
                variable.startswith(mark) for variable in (process / "environ").read_bytes().split(b"\0")
            ):
                yield int(process.name)
