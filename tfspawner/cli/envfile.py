"""Env-files: KEY=VALUE lines, as Docker and the original tf-spawner take them, with quotes and comments."""

from __future__ import annotations

import re
from pathlib import Path

from tfspawner.base.userfile import brief_line, named, read_text
from tfspawner.errors import ConfigurationError
from tfspawner.plan.limits import MOST_VARIABLES

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_.-]*)\s*=(.*)", re.S)
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"\s*(?:#.*)?')
_SINGLE = re.compile(r"'([^']*)'\s*(?:#.*)?")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def read_env_file(path: Path) -> dict[str, str]:
    """The variables of an env-file.

    Blank lines and lines that begin with # are skipped; `export ` may stand before a name. A value is
    taken as it stands, without surrounding blanks and a comment set off by a blank; in single quotes
    nothing is special, in double quotes \\n, \\t, \\" and \\\\ are. Raises ConfigurationError with the
    line's number, and never with its value.
    """
    text = read_text(path, "env-file")
    env: dict[str, str] = {}
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if not match:
            raise ConfigurationError(
                f"env-file {path}, line {number}: this is no KEY=VALUE, comment or blank line",
                hint="a key has letters, digits and '_'; comments begin with '#'",
            )
        if match[1] in env:
            raise ConfigurationError(f"env-file {path}, line {number}: {match[1]} is set a second time")
        if len(env) >= MOST_VARIABLES:
            raise ConfigurationError(
                f"env-file {named(path)} has more than {MOST_VARIABLES:,} variables",
                hint="data go into a file in the script's folder",
            )
        env[match[1]] = _value(match[2].strip(), f"env-file {path}, line {number}: ", match[1])
    return env


def _value(text: str, where: str, name: str) -> str:
    if text[:1] not in ("'", '"'):
        return re.split(r"(?:^|\s)#", text, maxsplit=1)[0].rstrip()
    match = (_DOUBLE if text[0] == '"' else _SINGLE).fullmatch(text)
    if not match:
        raise ConfigurationError(
            f"{where}the quotes around the value of {brief_line(name)} do not match in this line",
            hint='a value of several lines stands in one, in double quotes: "first\\nsecond"',
        )
    if text[0] == "'":
        return match[1]
    return re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[1]), match[1])
