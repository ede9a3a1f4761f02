"""The one way out: a terminal gets other people's text without anything it would obey; pipes and files get every byte.

A script's output, names of files, replicas and nodes, servers' messages and values of flags may hold control sequences,
characters that change the direction of text, and invisible ones. tests/unit/test_terminal.py holds that nothing in the
launcher writes in another way.
"""

from __future__ import annotations

import codecs
import io
import json
import math
import os
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, TextIO

import click

if TYPE_CHECKING:
    from logging import LogRecord

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

# A string that a terminal takes in, such as a title or the clipboard (OSC 52), up to where it ends or breaks off.
_STRING = re.compile(r"\x1b[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)?")
# The others; agent.ANSI knows them, too, but to import the agent would make each --help wait.
_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[()][0-9AB]")
# Unicode's Cc but tab and line feed, Cf, Zl, Zp, and what else has no width and no shape of its own.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_SURROGATE = re.compile("[\ud800-\udfff]")  # what was no UTF-8
# The beginning of a sequence whose end is still to come.
_UNFINISHED = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|[()]|[\]PX^_][^\x07\x1b\n]*\x1b?)?\Z")
LONGEST_SEQUENCE = 4096  # characters; of a longer one the rest is shown


def harmless(text: str) -> str:
    """The text without anything that a terminal would obey, or that hides or turns what stands beside it."""
    if text.isascii() and text.isprintable():
        return text
    if "\x1b" in text:
        text = _SEQUENCE.sub("", _STRING.sub("", text))
    return _SURROGATE.sub("?", _HIDDEN.sub("", text))


def one_line(text: str) -> str:
    """The same for a cell of a table: without the ends of lines."""
    return " ".join(harmless(text).split())


def raw(text: str) -> bytes:
    """The bytes that a text was read from."""
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:  # half a pair, as JSON may have it
        return text.encode(errors="replace")


def open_streams() -> None:
    """Makes each stream writable: a closed one goes to /dev/null; characters its encoding lacks become numbers."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # the lowest free number is taken, so that no other file is taken for this stream
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))
        elif name != "stdin" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def silence(stream: IO[str]) -> None:
    """Has what is still printed there go nowhere, so that it fails no more."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def say(stream: TextIO, text: str) -> None:
    """Writes lines for people, on which nothing depends: where they cannot be written, nothing more is said there."""
    try:
        write(stream, harmless(text))
    except OSError:
        silence(stream)


def echo(text: object = "", *, err: bool = False, nl: bool = True, **style: Any) -> None:
    """Prints a text, harmless on a terminal. On stderr, which people read, it is always made harmless."""
    words = str(text)
    try:
        if err or sys.stdout.isatty():
            click.secho(harmless(words), err=err, nl=nl, **style)
        else:
            click.echo(raw(words), nl=nl)
    except OSError:
        if not err:
            raise
        silence(sys.stderr)


def print_json(value: Any) -> None:
    """Prints a result as JSON, which has no NaN and no infinity: null stands for them."""
    echo(json.dumps(_finite(value), indent=1, default=str, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write(stream: TextIO, text: str) -> None:
    """Writes lines of output to a stream, and has them on their way."""
    if stream.isatty():
        encoding = stream.encoding or "utf-8"
        stream.write(harmless(text).encode(encoding, "replace").decode(encoding))
    else:
        _write_bytes(stream, raw(text))
    stream.flush()


def _write_bytes(stream: TextIO, data: bytes) -> None:
    buffer: IO[bytes] | None = getattr(stream, "buffer", None)
    if buffer is None:
        stream.write(data.decode(errors="replace"))
    else:
        stream.flush()
        buffer.write(data)


class Flow:
    """One replica's output; harmless on a terminal, even if a sequence or a character comes in two pieces."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.rest = ""

    def feed(self, data: bytes, *, last: bool = False) -> None:
        """Shows data; last: and what was held back."""
        if not self.stream.isatty():
            _write_bytes(self.stream, data)
            return self.stream.flush()
        text = self.rest + self.decoder.decode(data, last)
        begun = None if last else _UNFINISHED.search(text)
        cut = begun.start() if begun and len(text) - begun.start() <= LONGEST_SEQUENCE else len(text)
        self.rest = text[cut:]
        # A bar goes back to the line's beginning, on which nothing else stands.
        parts = text[:cut].split("\r")
        self.stream.write("\r".join(map(harmless, parts)))
        self.stream.flush()


def show_error(error: click.ClickException) -> None:
    """Prints what click says of a command line, which may hold its words."""
    from io import StringIO

    told = StringIO()
    error.show(told)
    echo(told.getvalue(), err=True, nl=False)


def take_warnings() -> None:
    """Has what libraries warn of by logging, such as of a reply's headers, printed like all else."""
    import logging

    class Handler(logging.Handler):
        def emit(self, record: LogRecord) -> None:
            echo(self.format(record), err=True)

    logging.lastResort = Handler(logging.WARNING)


# ---- rich's -------------------------------------------------------------------------------------


def console(*, err: bool = False, width: int | None = None) -> Console:
    """What draws tables and bars; words with brackets are no markup there."""
    from rich.console import Console

    return Console(stderr=err, width=width, highlight=False, markup=False, emoji=False)


def show(what: Table | Text, *, on: Console | None = None, **how: Any) -> None:
    """Prints a table, or a text of text_of(), on stdout if no other console is given."""
    try:
        (on or console()).print(what, **how)
    except OSError:
        if not (on and on.stderr):
            raise
        silence(sys.stderr)


def show_table(table: Table, *, width: int = 200) -> None:
    """Prints a table on stdout; where that is no terminal, in so many columns."""
    show(table, on=console(width=None if sys.stdout.isatty() else width))


def text_of(*parts: object, style: str = "") -> Text:
    """Words as they are: brackets are no markup. A part may be words and their style."""
    from rich.text import Text

    return Text.assemble(
        *((harmless(str(part[0])), part[1]) if isinstance(part, tuple) else harmless(str(part)) for part in parts),
        style=style,
    )


def table(columns: Iterable[str], rows: Iterable[Iterable[str | Text]], **how: Any) -> Table:
    """A table without lines between its cells, which are words, or texts of text_of(); what is too long is folded."""
    from rich.table import Table

    drawn = Table(**{"box": None, "pad_edge": False, "header_style": "bold", "expand": False, **how})
    for column in columns:
        drawn.add_column(text_of(column), overflow="fold")
    for row in rows:
        drawn.add_row(*(text_of(cell) if isinstance(cell, str) else cell for cell in row))
    return drawn
