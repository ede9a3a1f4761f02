"""Reads a field of JSON that others wrote, by its path. A value of the wrong kind counts as absent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

LONGEST_TEXT = 4096


def mapping(value: object, *path: str) -> Mapping[str, Any]:
    """The mapping at the end of the path; {} if there is none."""
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def mappings(value: object, *path: str) -> list[Mapping[str, Any]]:
    """The mappings of the list at the end of the path."""
    items = mapping(value, *path[:-1]).get(path[-1]) if path else value
    return [item for item in items if isinstance(item, Mapping)] if isinstance(items, list) else []


def text(value: object, *path: str) -> str:
    """The text at the end of the path, cut to LONGEST_TEXT characters; "" if there is none."""
    content = mapping(value, *path[:-1]).get(path[-1])
    return _encodable(content[:LONGEST_TEXT]) if isinstance(content, str) else ""


def texts(value: object, *path: str) -> dict[str, str]:
    """The texts of the mapping at the end of the path, for example labels."""
    return {key: content for key, content in mapping(value, *path).items() if isinstance(content, str)}


def count(value: object, *path: str) -> int | None:
    """The whole number at the end of the path; None if there is none."""
    number = mapping(value, *path[:-1]).get(path[-1])
    return number if type(number) is int else None


def names(values: Iterable[object]) -> list[str]:
    """The texts among the values."""
    return [value for value in values if isinstance(value, str)]


def _encodable(content: str) -> str:
    """The text without lone surrogates, which can be neither printed nor written."""
    return content.encode(errors="replace").decode()
