"""Reads our JSON files and checks each value's kind and size. An error names the file and the place in it."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from tfspawner.errors import ConfigurationError

from .names import shown

Shape = Callable[[Any], Any]  # returns the checked value, or raises Wrong

LONGEST_TEXT = 1 << 20
MOST = 1e15  # the largest number, unless a shape says less
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Wrong(ValueError):
    """A value is not what it must be; `place` is the path of keys to it."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what, self.place = what, ""

    def at(self, key: str | int) -> Wrong:
        """Puts a key in front of the place, and returns this error: for the caller one level up."""
        step = (
            f"[{key}]" if isinstance(key, int) else key if re.fullmatch(r"[\w-]{1,64}", key) else f"[{shown(key[:64])}]"
        )
        dot = "." if self.place and not self.place.startswith("[") else ""
        self.place = f"{step}{dot}{self.place}"
        return self

    def __str__(self) -> str:
        return f"{self.place} {self.what}".strip()


class DamagedFile(ConfigurationError):
    """One of our files does not hold what we write there."""


def is_not(value: Any, must: str) -> Wrong:
    """The error for a value that must be something else; it shows the value, unless that is a list or a mapping."""
    description = "a list" if isinstance(value, list) else "a mapping" if isinstance(value, dict) else _brief(value)
    return Wrong(f"is {description}; it must be {must}")


def _brief(value: Any) -> str:
    return shown(value[:101] if isinstance(value, str) else value)


# ---- shapes -------------------------------------------------------------------------------------


def text(longest: int = LONGEST_TEXT, *, pattern: str = "", lines: bool = True, must: str = "a text") -> Shape:
    """A text that can be encoded; lines: whether it may have line breaks and other control characters."""

    def shape(value: Any) -> str:
        if not isinstance(value, str) or (pattern and not re.fullmatch(pattern, value)):
            raise is_not(value, must)
        if len(value) > longest:
            raise is_not(value, f"{must} of at most {longest:,} characters")
        try:
            value.encode(errors="surrogateescape")
        except UnicodeEncodeError:
            raise is_not(value, f"{must} without halves of characters") from None
        if not lines and _UNPRINTABLE.search(value):
            raise is_not(value, f"{must} on one line")
        return value

    return shape


def number(low: float = -MOST, high: float = MOST) -> Shape:
    """A finite number from low to high."""

    def shape(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise is_not(value, f"a number from {low:g} to {high:g}")
        return value

    return shape


def whole(low: int, high: int) -> Shape:
    """A whole number within these bounds, both included."""

    def shape(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise is_not(value, f"a whole number from {low} to {high}")
        return value

    return shape


def measure(value: Any) -> float:
    """A metric's value, which may be nan or infinite."""
    if not isinstance(value, bool) and isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    raise is_not(value, "a number")


def switch(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise is_not(value, "true or false")
    return value


def optional(of: Shape) -> Shape:
    """null, or a value of that shape."""
    return lambda value: None if value is None else of(value)


def listed(of: Shape, most: int) -> Shape:
    """A list of at most `most` entries, all of one shape."""

    def shape(value: Any) -> list[Any]:
        if not isinstance(value, list) or len(value) > most:
            raise is_not(value, f"a list of at most {most:,}")
        return [_inner(of, entry, index) for index, entry in enumerate(value)]

    return shape


def mapped(key: Shape, of: Shape, most: int) -> Shape:
    """A mapping with keys of one shape and values of another."""

    def shape(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) > most:
            raise is_not(value, f"a mapping of at most {most:,}")
        return {_inner(key, name, name): _inner(of, inner, name) for name, inner in value.items()}

    return shape


def record(needed: Mapping[str, Shape], may_have: Mapping[str, Shape] | None = None) -> Shape:
    """A mapping that has the needed keys and may have those of `may_have`. Other keys are dropped."""
    known = {**needed, **(may_have or {})}

    def shape(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise is_not(value, "a mapping")
        for name in needed:
            if name not in value:
                raise Wrong("is missing").at(name)
        return {name: _inner(of, value[name], name) for name, of in known.items() if name in value}

    return shape


def _inner(of: Shape, value: Any, key: str | int) -> Any:
    try:
        return of(value)
    except Wrong as wrong:
        raise wrong.at(key) from None


# ---- files --------------------------------------------------------------------------------------


def read(path: Path, shape: Shape, longest: int, hint: str) -> Any:
    """The value in a JSON file; None if there is no file.

    Raises DamagedFile for a link, a device, a file of more than `longest` bytes, or a value of the wrong shape.
    """
    data = read_bytes(path, longest, hint)
    if data is None:
        return None
    try:
        return shape(json_of(data))
    except Wrong as wrong:
        raise damaged(path, f": {wrong}", hint) from None


def read_bytes(path: Path, longest: int, hint: str) -> bytes | None:
    """A file's bytes; None if there is no file. Raises DamagedFile."""
    try:
        file = opened(path)
        if file is None:
            return None
        with file:
            data = file.read(longest + 1)
    except OSError as error:
        raise damaged(path, f" cannot be read: {reason(error)}", hint) from None
    if len(data) > longest:
        raise damaged(path, f" is longer than {longest:,} bytes", hint)
    return data


def opened(path: Path) -> BinaryIO | None:
    """Opens a plain file; None if there is none. Raises OSError, also for a link, a pipe or a device."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    file = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is not a plain file")
    return file


def reason(error: OSError) -> str:
    """Why a file could not be opened, in words; says so if it is a link."""
    return "it is a link" if error.errno == errno.ELOOP else error.strerror or str(error)


def json_of(data: bytes) -> Any:
    """Parses JSON. Raises Wrong with the line of the error."""
    try:
        return json.loads(data.decode())
    except json.JSONDecodeError as error:
        raise Wrong(f"line {error.lineno}, column {error.colno}: that is not JSON; is it cut off?") from None
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise Wrong(f"line {line}: that is not UTF-8") from None
    except ValueError:  # Python limits the digits of an integer
        raise Wrong("it has a number of too many digits") from None
    except RecursionError:
        raise Wrong("its lists or mappings are nested too deeply") from None


def damaged(path: Path, what: str, hint: str) -> DamagedFile:
    """The error for one of our files that is not as we write it: its path, then `what`."""
    name = str(path)
    return DamagedFile(f"{name if name.isprintable() else ascii(name)}{what}", hint=hint)
