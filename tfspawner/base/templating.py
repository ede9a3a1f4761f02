"""Jinja's environment for HTML pages, and the templates' folder."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup


def templates_dir() -> Path:
    """The templates' folder: in the package if it was installed as a wheel, one level up in a checkout."""
    here = Path(__file__).resolve().parents[1]
    return next(path for path in (here / "templates", here.parent / "templates") if path.is_dir())


# states and results that are CSS classes of the pages
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
# control characters, characters that change the text's direction, and lone surrogates
_UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@cache
def html_environment() -> Environment:
    """Jinja for pages: values are escaped, a missing one is empty, and no odd character gets through.

    The filter `state` turns a word into a CSS class only if it is one of PAGE_STATES.
    """
    environment = Environment(loader=FileSystemLoader(templates_dir()), autoescape=True, finalize=_plain)
    environment.filters["state"] = lambda word: word if word in PAGE_STATES else ""
    return environment


def _plain(value: object) -> object:
    """A value without the characters of _UNSHOWN; a macro's output stays as it is."""
    if isinstance(value, Markup) or not isinstance(value, str | Path):
        return value
    return _UNSHOWN.sub("\N{REPLACEMENT CHARACTER}", str(value))
