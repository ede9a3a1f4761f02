"""Reads files that a user names, up to a limit, and shortens their values for error messages."""

from __future__ import annotations

import os
import select
import stat
import time
from errno import EAGAIN
from pathlib import Path
from typing import IO, Any

import yaml

from tfspawner.errors import ConfigurationError

from .names import brief

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is 10 times as fast
MOST_BYTES = 1024**2  # of a file that is read whole: job.yaml, env-files, pod files, templates, .tfspawnerignore
MOST_VALUES = 100_000  # in a YAML file, with every alias expanded
MOST_DIGITS = 4300  # of a number: Python's own limit
DEEPEST = 100  # levels of nested lists and mappings
LONGEST_NAME, LONGEST_PATH = 255, 4095  # bytes: Linux's NAME_MAX, and its PATH_MAX without the NUL
PIPE_S = 60.0  # how long the writer of `-e <(…)` may take: the user may have to type a passphrase
ABSENT, A_FOLDER, A_PIPE = "does not exist", "is a folder", "is a pipe"
KINDS = ((stat.S_ISDIR, A_FOLDER), (stat.S_ISFIFO, A_PIPE), (stat.S_ISREG, ""), (stat.S_ISSOCK, "is a socket"))


class TooLarge(ConfigurationError):
    """A file is larger than the limit."""


def brief_line(text: str) -> str:
    """The beginning of an exception's text, on one line."""
    words = "".join(char if char.isprintable() else " " for char in text[:200])
    return f"{words}…" if len(text) > 200 else words


def named(value: object) -> str:
    """A path or a key as it is if that is one short line, else as brief() shows it."""
    text = str(value) if isinstance(value, str | Path) else ""
    return text if text and text.isprintable() and len(text) <= 200 else brief(text or value)


def wrong_path(text: str) -> str | None:
    """Why no file can have this path; None if one can."""
    if "\0" in text:
        return "it holds a NUL"
    try:
        data = os.fsencode(text)
    except UnicodeEncodeError:
        return "it holds half of a surrogate pair, which no file's name can"
    longest = max(map(len, data.split(b"/")))
    if longest > LONGEST_NAME:
        return f"a name in it has {longest:,} bytes, and {LONGEST_NAME} are possible"
    return f"it has {len(data):,} bytes, and {LONGEST_PATH:,} are possible" if len(data) > LONGEST_PATH else None


def expanded(path: Path, what: str) -> Path:
    """The path with `~` or `~user` replaced by the home folder."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise ConfigurationError(
            f"{what} {named(path)}: there is no such user, or they have no home", hint="write the whole path"
        ) from None


def kind_of(path: Path) -> str:
    """Why a path is not a readable file, in words; "" for a file."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return ABSENT
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return next((words for fits, words in KINDS if fits(mode)), "is a device")


def read_bytes(path: Path, what: str, most: int = MOST_BYTES) -> bytes:
    """The bytes of a file, or of a pipe such as `<(…)`. Raises ConfigurationError, TooLarge above `most` bytes."""
    label = f"{what} {named(path)}"
    if reason := wrong_path(str(path)):
        raise ConfigurationError(f"{label} is no path: {reason}")
    kind = kind_of(path)
    is_pipe = kind == A_PIPE and _is_unnamed(path)
    if kind == ABSENT:
        raise ConfigurationError(f"{label}: No such file or directory")
    if kind and not is_pipe:
        raise ConfigurationError(f"{label} {kind}{', and it must be a file' if kind.startswith('is') else ''}")
    try:
        with open(path, "rb", buffering=0, opener=_without_waiting) as file:
            data = _read_pipe(file, most + 1) if is_pipe else _read(file, most + 1)
    except TimeoutError:
        raise ConfigurationError(f"{label}: nothing came out of the pipe for {PIPE_S:.0f} s") from None
    except OSError as error:
        raise ConfigurationError(f"{label} cannot be read: {error.strerror}") from None
    if len(data) > most:
        raise TooLarge(f"{label} has more than {most:,} bytes, which is too large for one")
    return data


def read_text(path: Path, what: str, most: int = MOST_BYTES) -> str:
    """The text of a file as UTF-8, with or without a byte order mark. Raises ConfigurationError."""
    try:
        return read_bytes(path, what, most).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigurationError(f"{what} {named(path)} is not UTF-8 text") from None


def _is_unnamed(path: Path) -> bool:
    """Whether a shell made this pipe: it ends with its writer. A named pipe may never have a writer."""
    return os.path.realpath(path).rpartition("/")[2].startswith("pipe:[")


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _read(file: IO[bytes], most: int) -> bytes:
    parts = []
    while most > 0 and (part := file.read(most)) != b"":
        if part is None:  # some files in /proc, like kmsg, wait for more
            raise BlockingIOError(EAGAIN, "it has no end")
        parts.append(part)
        most -= len(part)
    return b"".join(parts)


def _read_pipe(file: IO[bytes], most: int) -> bytes:
    data, deadline = b"", time.monotonic() + PIPE_S
    while len(data) < most:
        if not select.select([file], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError
        part = file.read(most - len(data))
        if part == b"":
            break
        data += part or b""
    return data


# ---- YAML ---------------------------------------------------------------------------------------


def load_yaml(text: str, loader: Any, what: str, *, unique: bool = False) -> list[Any]:
    """The documents of a user's YAML, without empty ones. Raises ConfigurationError.

    unique: refuse a mapping that has a key twice; YAML would silently take the last one.

    An error names the place but never shows the value, which may be a secret.
    """
    try:
        if reason := _too_much(text, loader) or (_twice(text, loader) if unique else None):
            raise ConfigurationError(f"{what} {reason}")
        return [document for document in yaml.load_all(text, Loader=loader) if document is not None]
    except (
        yaml.YAMLError,
        ValueError,
        TypeError,
        AttributeError,
        LookupError,
        ArithmeticError,
        RecursionError,
    ) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else _in_words(error)
        raise ConfigurationError(f"{what} is not YAML: {where}") from None


def _in_words(error: Exception) -> str:
    """What is wrong, for an error without a place; without the value, which may be a secret."""
    if isinstance(error, yaml.reader.ReaderError):
        return "it holds a control character, or bytes that are not UTF-8"
    if isinstance(error, RecursionError):
        return "its lists and mappings are nested too deeply"
    return "a value does not fit its tag (!!int, !!bool, !!timestamp and so on)"


def _twice(text: str, loader: Any) -> str | None:
    """Says which key stands twice in its mapping, the first such one."""
    open_: list[set[str] | None] = []  # for each open collection: the keys so far; None for a list
    awaits_key: list[bool] = []
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, yaml.CollectionEndEvent):
            open_.pop()
            awaits_key.pop()
        elif isinstance(event, yaml.NodeEvent):
            if open_ and (keys := open_[-1]) is not None:
                if awaits_key[-1] and isinstance(event, yaml.ScalarEvent):
                    if event.value in keys:
                        where = f", in line {event.start_mark.line + 1}" if event.start_mark else ""
                        return f"has {named(event.value)} a second time{where}"
                    keys.add(event.value)
                awaits_key[-1] = not awaits_key[-1]
            if isinstance(event, yaml.CollectionStartEvent):
                open_.append(set() if isinstance(event, yaml.MappingStartEvent) else None)
                awaits_key.append(True)
    return None


def _is_quoted(event: yaml.ScalarEvent) -> bool:
    """Whether a scalar is read as text. Numbers are not, and parsing one in base 60 (1:1:1) takes quadratic time."""
    return not (event.implicit[0] or event.tag) or event.value.strip("0123456789+-.:_") != ""


def no_json(value: Any, name: str = "") -> str | None:
    """What in a manifest cannot be sent to Kubernetes: JSON lacks YAML's dates, sets and bytes."""
    if isinstance(value, dict):
        key = next((key for key in value if not isinstance(key, str | int | bool)), None)
        if key is not None:
            return f"{brief(key)} is not a key"
        return next((reason for key, inner in value.items() if (reason := no_json(inner, str(key)))), None)
    if isinstance(value, list):
        return next((reason for inner in value if (reason := no_json(inner, name))), None)
    if value is None or (isinstance(value, str) and "\0" not in value and _is_text(value)):
        return None
    if isinstance(value, bool | int | float) and abs(value) < 2**63:
        return None
    return f"{brief(name)} is {brief(value)}, which Kubernetes cannot be sent: put quotes around it"


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _too_much(text: str, loader: Any) -> str | None:
    """Which limit a text exceeds. Checked before any value is built: an alias of an alias can stand for billions."""
    sizes: dict[str, int] = {}
    open_: list[tuple[str | None, int]] = []  # for each open collection: its anchor, and the count before it
    count = 0
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_):
                return f"has an alias inside of its own anchor, {brief(event.anchor)}"
            count += sizes.get(str(event.anchor), 1)
        elif isinstance(event, yaml.NodeEvent):
            count += 1
            if isinstance(event, yaml.CollectionStartEvent):
                open_.append((event.anchor, count - 1))
            elif event.anchor:
                sizes[event.anchor] = 1
            if isinstance(event, yaml.ScalarEvent) and len(event.value) > MOST_DIGITS and not _is_quoted(event):
                return f"has a number of {len(event.value):,} digits"
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_.pop()
            if anchor:
                sizes[anchor] = count - before
        if len(open_) > DEEPEST:
            return f"has more than {DEEPEST} levels of lists and mappings"
        if count > MOST_VALUES:
            return f"has more than {MOST_VALUES:,} values, its aliases counted"
    return None
