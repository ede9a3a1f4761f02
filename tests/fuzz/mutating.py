"""Values, texts and bytes that come close to right ones, and are not: what a broken or hostile sender sends."""

from __future__ import annotations

import copy
import math
from random import Random
from typing import Any

ODD_NUMBERS = (0, -1, 1, 2**31, 2**53, 2**63, 10**30, 10**400, -(10**400), 1e308, 0.5, math.nan, math.inf, -math.inf)
ODD_TEXTS = (
    "", " ", "x", "../../x", "/etc/passwd", "a/b", ".", "..", "\0", "\n", "\r", "x" * 5000, "9" * 5000, "\x1b[2J", "\x1b]52;c;eA==\x07",
    "\u202ex", "\u2066", "\ud800", "\U0001f600", "[/bold]", "[red]", "<script>", "{{7*7}}", "worker-99", "chief--1", "NaN", "null",
)  # fmt: skip
ODD_VALUES = (None, True, False, [], {}, [[]], {"": None}, *ODD_NUMBERS, *ODD_TEXTS)


def deep(depth: int) -> Any:
    """Lists in lists, so deep."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def odd(rng: Random) -> Any:
    """A value that hardly anyone expects."""
    return deep(rng.choice((10, 400))) if rng.random() < 0.05 else copy.deepcopy(rng.choice(ODD_VALUES))


def changed(value: Any, rng: Random, times: int | None = None) -> Any:
    """A copy of a JSON value in which some places are left out, doubled or replaced by odd values."""
    value = copy.deepcopy(value)
    for _ in range(times or rng.choice((1, 1, 1, 2, 5))):
        places = list(_places(value))
        if not places:
            return odd(rng)
        holder, key = rng.choice(places)
        how = rng.random()
        if how < 0.2:
            del holder[key]
        elif how < 0.3 and isinstance(holder, dict):
            holder[str(odd(rng))] = holder.pop(key)
        elif how < 0.35 and isinstance(holder, list):
            holder.insert(key, holder[key])
        else:
            holder[key] = odd(rng)
    return odd(rng) if rng.random() < 0.03 else value


def _places(value: Any) -> Any:
    if isinstance(value, dict):
        items: Any = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return
    for key, inner in items:
        yield value, key
        yield from _places(inner)


def damaged(data: bytes, rng: Random) -> bytes:
    """A copy of some bytes with one to five places cut, flipped, doubled, lengthened or replaced."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(out) + 1)
        width = rng.choice((1, 1, 2, 4, 8, 64, 1024))
        how = rng.randrange(6)
        if how == 0:
            del out[at:]
        elif how == 1:
            del out[at : at + width]
        elif how == 2:
            out[at:at] = out[at : at + width]
        elif how == 3 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif how == 4:
            out[at : at + width] = rng.choice((b"\0", b"\xff", b"9", b"\x80")) * width
        else:
            out[at:at] = rng.randbytes(width)
    return bytes(out)
