"""Reads and checks the files in a local job's folder, and tells whether a process named there is the job's own."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

from tfspawner.base.shapes import damaged, mapped, number, opened, read, read_bytes, record, text, whole
from tfspawner.base.terminal import one_line
from tfspawner.errors import Command, Hint
from tfspawner.plan.spec import ROLES
from tfspawner.record.reading import ID, LATEST, MOST_REPLICAS, REPLICA, several

LONGEST = 16 << 20  # bytes of a file
LONGEST_LOG = 1 << 30
LONGEST_WORDS = 1000  # characters
EXEC_S = 0.05  # how long a process may have no command line, while it starts another program
TAG = text(pattern=r"(?:[A-Za-z0-9][A-Za-z0-9._-]{0,62})?", must="a tag")
ADDRESS = text(pattern=r"127\.0\.0\.1:\d{1,5}", must="an address on this machine's loopback")
META = record({"id": ID, "created": number(0, LATEST), "tag": TAG, "agents": mapped(REPLICA, ADDRESS, MOST_REPLICAS)})
ROLE = text(pattern="|".join(ROLES), must=f"of {', '.join(ROLES)}")
CONFIG = record({"roles": mapped(ROLE, whole(1, MOST_REPLICAS), len(ROLES))})
PIDS = mapped(REPLICA, several(whole(0, 1 << 62), 4), MOST_REPLICAS)
EXIT = record({"code": whole(-(1 << 31), 1 << 31), "message": text()})


def _hint(folder: Path) -> Hint:
    return Hint("its processes are found without it: ", Command("delete", folder.name, "--on", "local"))


def read_meta(folder: Path) -> dict[str, Any] | None:
    """meta.json, which is written last; None if it does not exist yet."""
    meta: dict[str, Any] | None = read(folder / "meta.json", META, LONGEST, _hint(folder))
    return meta


def read_roles(folder: Path) -> dict[str, int]:
    """Replicas per role, from job.json; empty if it does not exist yet."""
    config: dict[str, Any] | None = read(folder / "job.json", CONFIG, LONGEST, _hint(folder))
    if config and not config["roles"]:
        raise damaged(folder / "job.json", ": roles is empty", _hint(folder))
    return config["roles"] if config else {}


def read_pids(folder: Path) -> dict[str, list[int]]:
    """{replica: [its agent's pid, when the agent started, its keeper's pid, when the keeper started]}."""
    pids: dict[str, list[int]] | None = read(folder / "pids.json", PIDS, LONGEST, _hint(folder))
    return pids or {}


def read_exit(folder: Path, replica: str) -> dict[str, Any] | None:
    """How a replica's agent ended, with its message in one short line; None if it did not leave exit.json."""
    place = folder / replica / "exit.json"
    if not (read_bytes(place, LONGEST, _hint(folder)) or b"").strip():  # created blank at the start, to reserve space
        return None
    ending: dict[str, Any] | None = read(place, EXIT, LONGEST, _hint(folder))
    return ending and ending | {"message": _shortened(ending["message"])}


def _shortened(words: str) -> str:
    """One line of limited length: a script may have written the words."""
    line = one_line(words)
    return line if len(line) <= LONGEST_WORDS else f"{line[:LONGEST_WORDS]}..."


def read_token(folder: Path) -> str | None:
    """The token of a job's agents; None if there is none. Raises DamagedFile."""
    data = read_bytes(folder / "token", 200, _hint(folder))
    if data is None:
        return None
    if re.fullmatch(rb"[A-Za-z0-9_-]+", data):
        return data.decode()
    raise damaged(folder / "token", " is not a token", _hint(folder))


def is_agent_of(folder: Path, pid: int, *, may_wait: bool = False) -> bool:
    """Whether a process may be one of the job's agents, by its command line if there is /proc.

    Never true for this process, or for a pid that stands for a whole group. An agent's environment cannot be read.
    """
    if pid <= 1 or pid == os.getpid():
        return False
    if not Path("/proc/self").exists():
        return True
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
        if not line and may_wait:  # it is just starting another program
            time.sleep(EXEC_S)
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        words = line.split(b"\0")
        return os.path.samefile(words[words.index(b"--config") + 1], folder)
    except (OSError, ValueError, IndexError):
        return False


def read_log(folder: Path, replica: str) -> bytes | None:
    """A replica's output from its log file, if that is a plain file; of a very long one only the beginning."""
    try:
        file = opened(folder / replica / "log")
        if file is None:
            return None
        with file:
            return file.read(LONGEST_LOG)
    except OSError:
        return None


def last_words(folder: Path, replica: str, most: int = 4096) -> str:
    """The last line of an agent's own log."""
    try:
        file = opened(folder / replica / "agent.log")
        if file is None:
            return ""
        with file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - most))
            lines = file.read(most).decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return _shortened(lines[-1]) if lines else ""
