"""Replaces secret values in the script's output by ***."""

from __future__ import annotations

import base64
import json
import re
import select
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, quote_plus

from .protocol import CHUNK, MASK, MASKED_BYTES

ENCODED_BYTES = 4096  # a longer text is masked as it stands, not in base64: its pattern would take seconds to make

HELD_S = 0.2  # how long output that may begin a secret waits for the rest

# The bytes of logs, from the rarer to the commoner; before them all others.
COMMON = b"QZXJYKVHjqzUBGMRWFDPLOCNSATIEyvxkwbgmfpduhclsrnioat9876543210_[=]-:,/.e "


def spelled(text: bytes) -> set[bytes]:
    """A text as it is, as in quotes in Python and JSON, and percent-encoded."""
    words = text.decode(errors="replace")
    percent = {quote(text), quote(text, safe=""), quote_plus(text)}
    small = {re.sub("%[0-9A-F]{2}", lambda code: code[0].lower(), form) for form in percent}
    quoted = {repr(words)[1:-1], ascii(words)[1:-1], json.dumps(words)[1:-1], *percent, *small}
    escaped = words.encode("ascii", "backslashreplace")
    return {text, escaped, repr(text)[2:-1].encode(), *(form.encode() for form in quoted)}


def encoded(text: bytes) -> set[bytes]:
    """A text in base64: alone, in lines of 64 or 76 characters, and the part that is certain inside a longer text."""
    forms: set[bytes] = set()
    if len(text) > ENCODED_BYTES:
        return forms
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        whole = encode(text)
        inside = [
            encode(bytes(shift) + text)[first : (shift + len(text)) * 8 // 6] for shift, first in enumerate((0, 2, 3))
        ]
        lines = {
            form[at : at + width]
            for form in (whole, inside[0])
            for width in (64, 76)
            for at in range(0, len(form), width)
        }
        forms.update([whole, whole.rstrip(b"="), *inside, *lines])
    return forms


def forms_of(value: bytes) -> set[bytes]:
    """How a value may appear in a log. No form contains a line end: each line of a value has its own."""
    parts = [part for part in (value, *map(bytes.strip, value.splitlines())) if len(part.strip()) >= MASKED_BYTES]
    forms: set[bytes] = set().union(*(spelled(part) | encoded(part) for part in parts))
    return {form for form in forms if len(form) >= MASKED_BYTES and len(form.splitlines()) == 1}


def quick_pattern(forms: list[bytes]) -> bytes:
    """A pattern that quickly finds whether any of the forms may be there, by a byte of it that is rare in logs."""
    around: dict[int, list[bytes]] = {}
    for form in forms:
        rare = next((byte for byte in around if byte in form), min(form, key=COMMON.find))
        at = form.index(rare) + 1
        around.setdefault(rare, []).append(b"(?<=%s)%s" % (re.escape(form[:at]), re.escape(form[at:])))
    return b"|".join(re.escape(bytes([rare])) + b"(?:%s)" % b"|".join(ends) for rare, ends in around.items())


class Masker:
    """Puts *** where a secret value stands in a stream, also where it comes in pieces.

    A secret has no line's end in it, so only a line that is not whole yet can be held back: from where a secret may
    have begun.
    """

    def __init__(self, values: list[bytes]) -> None:
        forms = sorted(set().union(*map(forms_of, values)), key=lambda form: (-len(form), form))
        self.is_idle = not forms
        self.held = b""
        self.longest = max(map(len, forms), default=0)
        self.forms: dict[int, list[bytes]] = {}
        for form in forms:
            self.forms.setdefault(form[0], []).append(form)
        self.quick = re.compile(quick_pattern(forms))
        self.exact = re.compile(b"|".join(map(re.escape, forms)))

    def feed(self, data: bytes) -> bytes:
        """The next part of the output that can be passed on, masked."""
        if self.is_idle:
            return data
        data = self.held + data
        cut = self.decided(data)
        self.held = data[cut:]
        return self.mask(data[:cut])

    def end(self) -> bytes:
        """What was held back, masked: nothing more comes."""
        data, self.held = self.held, b""
        return self.mask(data)

    def mask(self, data: bytes) -> bytes:
        """The bytes with *** in place of each secret."""
        return data if self.is_idle or not self.quick.search(data) else self.exact.sub(MASK, data)

    def mask_text(self, text: str) -> str:
        """The same for a text."""
        return self.mask(text.encode(errors="replace")).decode(errors="replace")

    def decided(self, data: bytes) -> int:
        """How many bytes of data can be masked now, because what comes next does not matter for them."""
        line = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        tail = range(max(line, len(data) - self.longest + 1), len(data))
        cut = next((at for at in tail if self.may_begin(data, at)), len(data))
        if cut < len(data) and self.quick.search(data, line):
            for match in self.exact.finditer(data, line):
                if match.start() < cut < match.end():
                    return match.start()
        return cut

    def may_begin(self, data: bytes, at: int) -> bool:
        """Whether data ends, from there on, with the first part of a secret."""
        candidates = self.forms.get(data[at])
        if not candidates:
            return False
        end = data[at:]
        return any(len(form) > len(end) and form.startswith(end) for form in candidates)


def masked(output: Any, masker: Masker) -> Iterator[bytes]:
    """The stream's bytes until its end, masked, as soon as possible."""
    waiting = select.poll()
    waiting.register(output, select.POLLIN)
    while True:
        if masker.held and not waiting.poll(HELD_S * 1000):
            yield masker.end()
        data = output.read(CHUNK)
        if not data:
            break
        yield masker.feed(data)
    yield masker.end()
