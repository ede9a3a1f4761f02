"""Several runs on one HTML page: their results, times, curves and differing options. Reads only files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tfspawner.base.templating import html_environment
from tfspawner.base.userfile import named, read_bytes
from tfspawner.base.words import age
from tfspawner.errors import ConfigurationError
from tfspawner.plan.grid import best
from tfspawner.record.folder import RunFolder
from tfspawner.record.reading import Note, read_events, read_spec

from .charts import charts
from .run import compared_run, curves_of, no_note, write_html
from .timeline import length_s, timeline

NOT_COMPARED = {"job", "name", "out", "detach", "args", "tag", "code_sha256"}  # each run's own, or shown in its row


def refuse_foreign(path: Path) -> None:
    """Raises ConfigurationError if path is not an HTML file's, or if a file is there that is not a page of ours."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigurationError(f"--page {named(path)} does not end in .html", hint="--page compared.html")
    if os.path.lexists(path):
        text = read_bytes(path, "--page").lstrip() if path.is_file() else b""
        if not (text.startswith(b"<!doctype html>") and b" side by side</h1>" in text):
            raise ConfigurationError(
                f"--page {named(path)} is there already, and is not a page that compare wrote",
                hint="name another --page, or remove it",
            )


def write_page(path: Path, folders: Sequence[Path], note: Note = no_note) -> Path:
    """Writes the page that compares the runs recorded in folders."""
    return write_html(path, page(folders, path.parent, note))


def page(folders: Sequence[Path], place: Path, note: Note = no_note) -> str:
    """The page's HTML. It needs no network and no other file, except for its links, relative to `place`."""
    names = names_of(folders)
    curves = dict(zip(names, map(curves_of, folders), strict=True))
    rows = [{**compared_run(folder, curves[name]), "job": name} for folder, name in zip(folders, names, strict=True)]
    return (
        html_environment()
        .get_template("compare.html")
        .render(
            rows=rows,
            names=names,
            metrics=list(dict.fromkeys(name for row in rows for name in row["metrics"])),
            bests=best(rows),
            links=[
                os.path.relpath(RunFolder(folder).page, place) if RunFolder(folder).page.exists() else ""
                for folder in folders
            ],
            differing=differing([options_of(read_spec(folder)) for folder in folders]),
            age=age,
            charts=charts(curves, merged=False),
            **times(names, folders, note),
        )
    )


def times(names: Sequence[str], folders: Sequence[Path], note: Note = no_note) -> dict[str, Any]:
    """The phases of each run on a common time scale, and the length of that scale."""
    events = [read_events(folder, note) for folder in folders]
    lengths = [length_s(history) for history in events]
    longest = max(lengths)
    rows = []
    for name, length, run_rows in zip(names, lengths, map(timeline, events), strict=True):
        if run_rows:
            scale = length / longest
            bars = [replace(bar, left=bar.left * scale, width=bar.width * scale) for bar in run_rows[0][1]]
            rows.append((name, bars))
    return {"times": rows, "longest": age(longest)}


def names_of(folders: Sequence[Path]) -> list[str]:
    """A name for each run: its folder's name, or the whole path if several share it; numbered if given twice."""
    same_name = Counter(folder.name for folder in {folder.resolve() for folder in folders})
    names = [folder.resolve().name for folder in folders]
    names = [name if same_name[name] == 1 else str(folder) for name, folder in zip(names, folders, strict=True)]
    return [
        name if names.count(name) == 1 else f"{name} ({names[: at + 1].count(name)})" for at, name in enumerate(names)
    ]


def options_of(spec: Mapping[str, Any]) -> dict[str, str]:
    """{flag: value} of a job's options and its script's arguments, as text."""
    words = {key.replace("_", "-"): as_text(value) for key, value in spec.items() if key not in NOT_COMPARED}
    words["code's SHA-256"] = spec.get("code_sha256", "")[:12]
    return words | {f"-- {name}": value for name, value in arguments(spec.get("args", [])).items()}


def as_text(value: Any) -> str:
    """An option's value as a table's cell."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def arguments(words: Sequence[str]) -> dict[str, str]:
    """{flag: values} of a script's arguments; those before the first flag are called "argument 1" and so on."""
    by_flag: dict[str, list[str]] = {}
    flag = ""
    for place, word in enumerate(words, 1):
        if is_flag(word):
            flag, has_value, value = word.partition("=")
            by_flag.setdefault(flag, []).extend([value] if has_value else [])
        else:
            by_flag.setdefault(flag or f"argument {place}", []).append(word)
    return {name: " ".join(values) or "given" for name, values in by_flag.items()}


def is_flag(word: str) -> bool:
    """Whether the word is a flag and not a value; -5 and -1e-3 are values."""
    return word.startswith("-") and not word[1:2].isdigit() and word[1:2] not in ("", ".")


def differing(options: Sequence[Mapping[str, str]]) -> list[tuple[str, list[tuple[str, bool]]]]:
    """[(option, [(its value, whether it differs from the first run's)])] of the options that are not all the same."""
    names = dict.fromkeys(name for of_run in options for name in of_run)
    values = {name: [of_run.get(name, "") for of_run in options] for name in names}
    return [(name, [(value, value != of[0]) for value in of]) for name, of in values.items() if len(set(of)) > 1]
