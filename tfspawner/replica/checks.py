"""Reads others' messages within bounds."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Callable

DEEPEST = 24  # lists in lists that are read

LONGEST_TEXT, LONGEST_LINE = 8192, 4096  # characters of a message, and of a script's line, that are kept

MOST_LINES = 200  # of a stack, or of a log's end

ADDRESS = re.compile(r"(?:\[[0-9A-Fa-f:.%\w]+\]|[\w.-]+):([0-9]{1,5})", re.A)

Check = Callable[[Any], Any]  # returns the value to keep; raises ValueError if it is invalid

STRUCTURE = bytes(set(range(256)) - set(b"[]{},:"))

LONG_NUMBER = re.compile(rb"(?<![0-9])[0-9]{400}")


def read_json(data: bytes, most_marks: int) -> Any:
    """The value of JSON text.

    Raises ValueError, and before it makes an object, for what is nested deeper than DEEPEST or has more marks. Marks
    are brackets, commas and colons: a list of three values has four.
    """
    plain = data.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in data else data
    if plain.count(b'"') > 2 * most_marks + 2:
        raise ValueError("too many texts")
    bare = b"".join(plain.split(b'"')[::2])  # without its strings
    marks = bare.translate(None, STRUCTURE)
    if len(marks) > most_marks:
        raise ValueError(f"more than {most_marks:,} values")
    brackets = marks.translate(None, b",:")
    for _ in range(DEEPEST):  # removes the innermost ones each time
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    if brackets:
        raise ValueError(f"nested deeper than {DEEPEST}, or not closed")
    if LONG_NUMBER.search(bare):
        raise ValueError("a number of 400 digits")
    return json.loads(data.decode())  # as UTF-8: in another encoding the marks would have been others


def shown(value: Any) -> str:
    """A value that another agent sent, shortened for a message."""
    try:
        text = ascii(value)
    except (ValueError, RecursionError):  # a number of thousands of digits
        return f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:60]}..."


def whole_number(value: Any) -> int:
    """The value, a whole number of 0 or more. Raises ValueError, as all of these do."""
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError(f"{shown(value)} is not a whole number")
    return value


def number(value: Any) -> float:
    """The value, a finite number."""
    if type(value) not in (int, float) or not -1e15 <= value <= 1e15:
        raise ValueError(f"{shown(value)} is not a number")
    return value  # type: ignore[no-any-return]  # an int or a float: see above


def metric(value: Any) -> float:
    """What Keras prints, such as NaN."""
    if type(value) is float:
        return value
    return float(number(value))


def text(value: Any, longest: int = LONGEST_TEXT) -> str:
    """The value, a text, cut after `longest` characters."""
    if type(value) is not str:
        raise ValueError(f"{shown(value)} is not a text")
    return value[:longest]


def lines(value: Any) -> list[str]:
    """The value, a list of lines; only the first ones are taken."""
    if type(value) is not list:
        raise ValueError(f"{shown(value)} is not a list of lines")
    return [text(line, LONGEST_LINE) for line in value[:MOST_LINES]]


def flag(value: Any) -> bool:
    """The value, true or false."""
    if type(value) is not bool:
        raise ValueError(f"{shown(value)} is neither true nor false")
    return value


def network_address(value: Any) -> str:
    """The value, host:port."""
    match = ADDRESS.fullmatch(text(value, 300))
    if not match or not 0 < int(match[1]) < 65536:
        raise ValueError(f"{shown(value)} is not an address with a port")
    return str(value)


def one_of(*values: Any) -> Check:
    """A check for one of these values, texts or None."""

    def check(value: Any) -> Any:
        if type(value) not in (str, type(None)) or value not in values:
            raise ValueError(f"{shown(value)} is none of {', '.join(map(str, values))}")
        return value

    return check


def or_none(check: Check) -> Check:
    """The check for a value that may also be None."""
    return lambda value: None if value is None else check(value)


def fields(value: Any, checks: Mapping[str, Check], needed: tuple[str, ...] = ()) -> dict[str, Any]:
    """The known fields of an object, each checked. Raises ValueError that names what is wrong or missing."""
    if type(value) is not dict:
        raise ValueError(f"{shown(value)} is not an object")
    missing = [key for key in needed if key not in value]
    if missing:
        raise ValueError(f"it has no {missing[0]}")
    checked = {}
    for key, check in checks.items():
        if key in value:
            try:
                checked[key] = check(value[key])
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from None
    return checked


def relative_name(value: Any) -> str:
    """The value, a path below a folder."""
    name = text(value)
    if "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise ValueError(f"{shown(name)} is no path below a folder")
    return name
