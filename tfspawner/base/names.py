"""Which file names from outside are safe to use here, and how a message shows a value from outside."""

from __future__ import annotations

ID_FILE = ".job-id"  # in a run's folder and in a local job's: the id of the job it belongs to

MOST_ENTRIES = 1_000_000
DEEPEST = 64
LONGEST_PART = 255  # bytes: the limit of Linux and macOS (NAME_MAX)
LONGEST_PATH = 4095  # bytes: Linux's limit (PATH_MAX), without the NUL


def is_safe(name: object, longest: int = LONGEST_PATH) -> bool:
    """Whether a file may have this name: a plain relative path without control characters."""
    if not isinstance(name, str) or any(ord(c) < 32 or 127 <= ord(c) < 160 for c in name):
        return False
    try:
        sizes = [len(part.encode()) for part in name.split("/")]
    except UnicodeEncodeError:
        return False
    if len(sizes) > DEEPEST or sum(sizes) + len(sizes) - 1 > longest or max(sizes) > LONGEST_PART:
        return False
    return not any(part in ("", ".", "..") for part in name.split("/"))


def shown(value: object) -> str:
    """A value that an agent sent, as a message shows it: escaped, at most 100 characters."""
    try:
        text = repr(value) if isinstance(value, str) and value.isprintable() else ascii(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, or lists nested too deeply
        return f"a {type(value).__name__}"
    return text if len(text) <= 100 else f"{text[:100]}…"


def brief(value: object) -> str:
    """A value for an error message: on one line, at most 100 characters."""
    try:
        text = repr(value[:200] if isinstance(value, str) else value)
    except (ValueError, RecursionError):  # a number of more than 4,300 digits, or lists nested too deeply
        return f"a value too large to show ({type(value).__name__})"
    return text if len(text) <= 100 else f"{text[:100]}…"
