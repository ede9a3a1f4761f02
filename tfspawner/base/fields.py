"""Reads a JSON value of others by the path to a field: what stands there and is of another kind counts as absent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

LONGEST_TEXT = 4096


def mapping(value: object, *path: str) -> Mapping[str, Any]:
    """The mapping at the end of the path; {} where there is none."""
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def mappings(value: object, *path: str) -> list[Mapping[str, Any]]:
    """The mappings of the list at the end of the path."""
    found = mapping(value, *path[:-1]).get(path[-1]) if path else value
    return [item for item in found if isinstance(item, Mapping)] if isinstance(found, list) else []


def text(value: object, *path: str) -> str:
    """The text at the end of the path, or its beginning where it is long; "" where there is none."""
    found = mapping(value, *path[:-1]).get(path[-1])
    return _encodable(found[:LONGEST_TEXT]) if isinstance(found, str) else ""


def texts(value: object, *path: str) -> dict[str, str]:
    """The mapping of texts at the end of the path, such as labels."""
    return {key: found for key, found in mapping(value, *path).items() if isinstance(found, str)}


def count(value: object, *path: str) -> int | None:
    """The whole number at the end of the path; None where there is none."""
    found = mapping(value, *path[:-1]).get(path[-1])
    return found if type(found) is int else None


def names(values: Iterable[object]) -> list[str]:
    """The texts among the values."""
    return [value for value in values if isinstance(value, str)]


def _encodable(found: str) -> str:
    """Without halves of surrogate pairs, which no terminal and no file takes."""
    return found.encode(errors="replace").decode()
