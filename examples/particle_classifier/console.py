"""How the commands here end on an error that their user can act on: a line, the next step, and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tfspawner.errors import SpawnerError


@contextmanager
def errors_told() -> Iterator[None]:
    """Prints a SpawnerError instead of its traceback, and exits with its code."""
    try:
        yield
    except SpawnerError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        sys.exit(error.exit_code)


def write(path: Path, text: str) -> None:
    """The whole file or none of it."""
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(text)
    unfinished.replace(path)
