"""The agent's own messages: in the container's log, in a note that outlives it, and about a full disk."""

from __future__ import annotations

import errno
import json
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from .protocol import AGENT_MARK

NOTE_BYTES = 1 << 13

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class NoRoom(OSError):
    """A disk is full; the text says what is needed and what is free."""


def say(text: str) -> None:
    """Prints a message of the agent's own: into the container's log, not the script's."""
    with suppress(OSError):  # such as on a full disk
        print(f"{AGENT_MARK.decode()} {text}", file=sys.stderr, flush=True)


def no_room(error: OSError, folder: Path) -> str:
    """Why nothing can be written there, with what is free."""
    why = error.strerror or str(error)
    with suppress(OSError):
        why += f"; {shutil.disk_usage(folder).free:,} bytes are free at {folder}"
    return why


def leave_note(path: Path, note: dict[str, Any] | None) -> None:
    """Writes a note into a file whose space was reserved before, so that it works on a full disk."""
    text = b"" if note is None else json.dumps(note).encode()
    with suppress(OSError), open(path, "wb" if note is None else "r+b") as file:
        file.write(text.ljust(NOTE_BYTES))
