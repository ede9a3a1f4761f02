"""Reads an S3 server's answers in XML, and makes them fit to show."""

from __future__ import annotations

import re
import xml.etree.ElementTree as xml
from typing import Any

MOST_TAGS = 500_000  # in an answer; a page of 1,000 keys has less


def parsed(data: bytes) -> xml.Element:
    """An answer in XML. Raises ParseError for other bytes, document types and what takes more memory than a listing.

    S3 sends no document types; their entities may grow to gigabytes, and name files. All is taken for UTF-8, so that
    none can hide in another encoding.
    """
    if re.search(rb"<!(?!--|\[CDATA\[)", data) or data.count(b"<") > MOST_TAGS:
        raise xml.ParseError("no answer of S3")
    return xml.fromstring(data, xml.XMLParser(encoding="utf-8"))


def printable(text: str) -> str:
    """Text from a server, made fit for a message."""
    return "".join(c if c.isprintable() else "?" for c in text[:200])


def text_of(element: Any, name: str) -> str:
    """The text of an element's child with that name; "" if there is none."""
    return element.findtext(f"{{*}}{name}") or ""
