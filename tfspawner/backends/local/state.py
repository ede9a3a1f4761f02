"""What a local job's folder says of it, checked; and whether a process that it names is the job's own."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

from tfspawner.base.shapes import damaged, mapped, number, opened, read, read_bytes, record, text, whole
from tfspawner.base.terminal import one_line
from tfspawner.plan.spec import ROLES
from tfspawner.record.reading import ID, LATEST, MOST_REPLICAS, REPLICA, several

LONGEST = 16 << 20  # bytes of a file
LONGEST_LOG = 1 << 30
LONGEST_WORDS = 1000  # characters
EXEC_S = 0.05  # so long a process may have no command line, while it becomes another program
TAG = text(pattern=r"(?:[A-Za-z0-9][A-Za-z0-9._-]{0,62})?", must="a tag")
ADDRESS = text(pattern=r"127\.0\.0\.1:\d{1,5}", must="an address on this machine's loopback")
META = record({"id": ID, "created": number(0, LATEST), "tag": TAG, "agents": mapped(REPLICA, ADDRESS, MOST_REPLICAS)})
ROLE = text(pattern="|".join(ROLES), must=f"of {', '.join(ROLES)}")
CONFIG = record({"roles": mapped(ROLE, whole(1, MOST_REPLICAS), len(ROLES))})
PIDS = mapped(REPLICA, several(whole(0, 1 << 62), 4), MOST_REPLICAS)
EXIT = record({"code": whole(-(1 << 31), 1 << 31), "message": text()})


def _hint(folder: Path) -> str:
    return f"its processes are found without it: tf-spawner delete {folder.name} --on local"


def read_meta(folder: Path) -> dict[str, Any] | None:
    """meta.json, which is written last; None where it is not there yet."""
    found: dict[str, Any] | None = read(folder / "meta.json", META, LONGEST, _hint(folder))
    return found


def read_roles(folder: Path) -> dict[str, int]:
    """Replicas per role, of job.json; empty where it is not there yet."""
    found: dict[str, Any] | None = read(folder / "job.json", CONFIG, LONGEST, _hint(folder))
    if found and not found["roles"]:
        raise damaged(folder / "job.json", ": roles is empty", _hint(folder))
    return found["roles"] if found else {}


def read_pids(folder: Path) -> dict[str, list[int]]:
    """{replica: [its agent's process, when that started, the same of the one above it]}."""
    found: dict[str, list[int]] | None = read(folder / "pids.json", PIDS, LONGEST, _hint(folder))
    return found or {}


def read_exit(folder: Path, replica: str) -> dict[str, Any] | None:
    """How a replica's agent ended, its message in one short line; None where it left no word."""
    place = folder / replica / "exit.json"
    if not (read_bytes(place, LONGEST, _hint(folder)) or b"").strip():  # made at its start, for the room
        return None
    found: dict[str, Any] | None = read(place, EXIT, LONGEST, _hint(folder))
    return found and found | {"message": _shortened(found["message"])}


def _shortened(words: str) -> str:
    """What a script may have written, too: one line, of no more characters than an agent leaves."""
    line = one_line(words)
    return line if len(line) <= LONGEST_WORDS else f"{line[:LONGEST_WORDS]}..."


def read_token(folder: Path) -> str | None:
    """The token of a job's agents; None where there is none. Raises DamagedFile."""
    data = read_bytes(folder / "token", 200, _hint(folder))
    if data is None:
        return None
    if re.fullmatch(rb"[A-Za-z0-9_-]+", data):
        return data.decode()
    raise damaged(folder / "token", " is no token", _hint(folder))


def is_agent_of(folder: Path, pid: int, *, may_wait: bool = False) -> bool:
    """Whether a process may be one of the job's agents: never this one nor a whole group; where /proc tells, by its command line.

    Its environment would tell, too, but an agent keeps that to itself.
    """
    if pid <= 1 or pid == os.getpid():
        return False
    if not Path("/proc/self").exists():
        return True
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
        if not line and may_wait:  # just now it becomes another program
            time.sleep(EXEC_S)
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        words = line.split(b"\0")
        return os.path.samefile(words[words.index(b"--config") + 1], folder)
    except (OSError, ValueError, IndexError):
        return False


def read_log(folder: Path, replica: str) -> bytes | None:
    """A replica's output, as far as it lies there as a plain file; of one that is very long the beginning."""
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
