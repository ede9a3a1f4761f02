"""A script whose output is made to break who reads it, and a terminal: the job ends as it does, and everything can be read."""

from __future__ import annotations

import re
import sys
import time
from types import SimpleNamespace

import pytest
from terminal import Unread

EVIL = "\x1b]52;c;aGVsbG8=\x07\x1b[2J\x1b[31mred\x1b[0m \u202etxt.exe\u2066 \x9b31m"
LINES = [
    EVIL.encode(), b"\xff\xfe no UTF-8", b"1/2 [==>] - " + b"a" * 32_000, b"Epoch " + b"9" * 5000 + b"/" + b"9" * 5000,
    b"9" * 400 + b"/" + b"9" * 401 + b" [==>..] - loss: 1.0", b"Epoch 1/2", b"2/2 - 1s - loss: 1.5 - " + b"9" * 300 + b"s/epoch",
    b"1/2 [==>.] - loss: " + b"9" * 3000 + b" - a: 1e999", *[b"1/2 [==>] - " + b"a" * 4000] * 300, *[b"1/2 " + b"a" * 65_000] * 10,
]  # fmt: skip
SCRIPT = f"""
import os, sys
for line in {LINES!r}:
    os.write(1, line + b"\\n")
os.symlink("/etc", os.environ["TFSPAWNER_OUTPUT"] + "/\\x1b[2J\\u202elink")
open(os.environ["TFSPAWNER_OUTPUT"] + "/\\u202efile", "w").write("x")
raise ValueError({EVIL!r} + "9" * 5000)
"""
HARM = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]")
OURS = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture(scope="module")
def hostile(shared_place):
    """A job with such a script that has failed, and how each command that reads it was shown in a terminal and a pipe."""
    place, seen = shared_place, SimpleNamespace(place=shared_place, shown={}, codes={})
    began = time.monotonic()
    place.run(place.script(SCRIPT), "--name", "hostile", "-w", "1", "--detach")
    seen.waited = place.of("wait", "hostile")
    seen.seconds = time.monotonic() - began
    for verb, *words in (("logs", "--replica", "worker-0"), ("logs",), ("status",), ("wait",), ("logs", "-f", "--replica", "worker-0"),
                         ("fetch", "--keep", "--out", str(place.runs))):  # fmt: skip
        terminal = Unread(
            [sys.executable, "-m", "tfspawner", verb, *place.target, "hostile", *words], place.env, place.folder
        )
        try:
            seen.codes[verb, *words] = terminal.done(120)
        finally:
            terminal.end()
        seen.shown[verb, *words] = bytes(terminal.sent).decode()
    terminal = Unread([sys.executable, "-m", "tfspawner", "run", *place.target, "--out", str(place.runs), "-w", "1", "--name", "shown",
                       str(place.script(SCRIPT))], place.env, place.folder)  # fmt: skip
    try:
        seen.run_code = terminal.done(120)
    finally:
        terminal.end()
    seen.run = bytes(terminal.sent).decode()
    seen.piped = place.of("logs", "hostile", "--replica", "worker-0")
    seen.lines = place.of("logs", "hostile")
    seen.fetched = place.of("fetch", "hostile", "--out", place.runs)
    seen.page = place.tf("report", "hostile", "--out", place.runs)
    return seen


def test_the_job_ends_as_the_script_did_and_soon(hostile):
    assert hostile.waited.code == 125, hostile.waited.err
    assert "ended with exit code 1: ValueError: " in hostile.waited.err
    assert hostile.seconds < 60


def test_nothing_that_a_terminal_obeys_reaches_it(hostile):
    for words, shown in hostile.shown.items():
        assert not HARM.search(OURS.sub("", shown).replace("\r", "")), words
        assert "txt.exe" in shown or words[0] != "logs", words
    assert hostile.codes["logs", "--replica", "worker-0"] == 0
    assert "Traceback" not in hostile.shown["status",]


def test_the_live_view_shows_the_output_and_ends_with_the_script(hostile):
    own = re.compile(r"\x1b\[(?:[0-9;]*m|\d+[AB]|[JK])|\r")
    assert hostile.run_code == 125, hostile.run
    assert not HARM.search(own.sub("", hostile.run))
    assert "red txt.exe 31m" in own.sub("", hostile.run)


def test_a_pipe_and_the_record_have_the_output_byte_for_byte(hostile):
    log = (hostile.place.runs / "hostile/logs/worker-0.log").read_bytes()
    assert log.startswith(b"".join(line + b"\n" for line in LINES))
    piped = [line for line in hostile.lines.stdout.split(b"\n") if line.startswith(b"worker-0 | ")]
    assert piped[:2] == [b"worker-0 | " + line for line in LINES[:2]]
    assert hostile.piped.stdout == log


def test_all_that_reads_the_output_later_goes_on(hostile):
    assert (hostile.fetched.code, hostile.page.code) == (0, 0), hostile.fetched.err + hostile.page.err
    assert "1.5" in (hostile.place.runs / "hostile/report.html").read_text()
