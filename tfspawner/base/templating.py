"""Jinja for the pages, and where the templates are."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup


def templates_dir() -> Path:
    """The templates: in the package where it was installed as a wheel, one level up in a checkout."""
    here = Path(__file__).resolve().parents[2]
    return next(path for path in (here / "templates", here.parent / "templates") if path.is_dir())


# classes that a state, or a result, has in the pages' style
PAGE_STATES = (
    "pending",
    "running",
    "succeeded",
    "failed",
    "stopped",
    "stopping",
    "ended",
    "timeout",
    "interrupted",
    "incomplete",
)
# control characters, those that turn the text's direction, and halves of characters
_UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@cache
def html_environment() -> Environment:
    """Jinja for pages: what is put in is escaped, and what a record does not have is empty.

    No value has what turns text round or cannot be encoded, and none becomes a class but those that the pages' style has.
    """
    environment = Environment(loader=FileSystemLoader(templates_dir()), autoescape=True, finalize=_plain)
    environment.filters["state"] = lambda word: word if word in PAGE_STATES else ""
    return environment


def _plain(value: object) -> object:
    """A value as a page may have it; what a macro made is left as it is."""
    if isinstance(value, Markup) or not isinstance(value, str | Path):
        return value
    return _UNSHOWN.sub("\N{REPLACEMENT CHARACTER}", str(value))
