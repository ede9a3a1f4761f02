"""What a local job's folder says of it, checked; and whether a process that it names is the job's own."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from ..recorded import ID, LATEST, MOST_REPLICAS, REPLICA, several
from ..shapes import damaged, mapped, number, read, read_bytes, record, text, whole
from ..spec import ROLES

LONGEST = 16 << 20  # bytes of a file
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
    """How a replica's agent ended; None where it left no word."""
    place = folder / replica / "exit.json"
    if not (read_bytes(place, LONGEST, _hint(folder)) or b"").strip():  # made at its start, for the room
        return None
    found: dict[str, Any] | None = read(place, EXIT, LONGEST, _hint(folder))
    return found


def read_token(folder: Path) -> str | None:
    data = read_bytes(folder / "token", 200, _hint(folder))
    if data is None:
        return None
    if re.fullmatch(rb"[A-Za-z0-9_-]+", data):
        return data.decode()
    raise damaged(folder / "token", " is no token", _hint(folder))


def is_agent_of(folder: Path, pid: int) -> bool:
    """Whether a process may be one of the job's agents: never this one nor a whole group; where /proc tells, by its command line.

    Its environment would tell, too, but an agent keeps that to itself.
    """
    if pid <= 1 or pid == os.getpid():
        return False
    if not Path("/proc/self").exists():
        return True
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return os.path.samefile(words[words.index(b"--config") + 1], folder)
    except (OSError, ValueError, IndexError):
        return False
