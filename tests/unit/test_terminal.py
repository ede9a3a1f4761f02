"""What is not ours reaches a terminal without anything it would obey, and a pipe byte for byte."""

from __future__ import annotations

import ast
import io
import itertools
import json
import logging
import os
import re
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from terminal import Unread

import tfspawner
from tfspawner.base.cause import Cause
from tfspawner.base.terminal import Flow, harmless, print_json, raw, table, take_warnings, text_of, write
from tfspawner.follow.state import JobState, ReplicaState
from tfspawner.views.plain import FollowView, Lines, PlainView

PROJECT = Path(tfspawner.__file__).parent
HOSTILE = "\x1b]52;c;aGVsbG8=\x07\x1b[2J\x1b[31m\u202etxt.exe\u2069\x9b31m\u200b\x07 [red]end"
SHOWN = "txt.exe31m [red]end"
HARM = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]")

# ---- the one way out ------------------------------------------------------------------------------

WRITES = re.compile(
    r"(?:.*\.)?(?:echo|secho|print|add_row|add_column)|(?:.*\.)?(?:Console|Text)(?:\..*)?|print_exc|sys\.(?:stdout|stderr)\b.*\.write"
    r"|self\.(?:out|err)(?:\.buffer)?\.write|(?:.*\.)?console\.(?:file\.write|log|out|rule|status|input)"
)
OURS = {"echo", "text_of", "show", "write", "self.write"}
# Where else something is written, and why that is no way round.
OTHER_WAYS = {
    ("views/pane.py", "ansi"): "makes what a text of text_of() looks like",
    ("views/pane.py", "draw"): "writes such texts, and lines that LiveView.write made harmless",
    ("data/xrootd.py", "main"): "a helper's answers to this program, by a pipe",
    ("data/xrootd.py", "answer"): "the same",
}
TRAVELS = "replica/"  # its output is a script's, or a log


def written_elsewhere(source: str) -> set[tuple[str, str]]:
    """(function, call) of all that may write to a terminal."""
    found = set()
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef | ast.Module):
            inner = function.body if isinstance(function, ast.Module) else [function]
            name = getattr(function, "name", "")
            for node in inner:
                if isinstance(function, ast.Module) and isinstance(node, ast.FunctionDef | ast.ClassDef):
                    continue
                for call in ast.walk(node):
                    words = ast.unparse(call.func) if isinstance(call, ast.Call) else ""
                    if words not in OURS and WRITES.fullmatch(words):
                        found.add((name, words))
    return found


@pytest.mark.parametrize(
    "source",
    ["import click\ndef f(): click.echo(x)", "def f(): print(x)", "def f(): sys.stdout.write(x)", "def f(): sys.stdout.buffer.write(x)",
     "def f(): Console().print(x)", "def f(): Text(x)", "def f(): Text.from_markup(x)", "def f(): table.add_row(x)", "print(1)",
     "def f(): self.err.write(x)", "def f(): self.console.print(x)", "def f(): click.secho(x)"],
)  # fmt: skip
def test_another_way_out_would_be_noticed(source):
    assert written_elsewhere(source)


def test_nothing_is_written_to_a_terminal_but_by_the_one_module():
    found = {}
    for path in sorted(PROJECT.rglob("*.py")):
        name = path.relative_to(PROJECT).as_posix()
        if name != "base/terminal.py" and not name.startswith(TRAVELS):
            for function, call in written_elsewhere(path.read_text()):
                found.setdefault((name, function), set()).add(call)
    assert {place: calls for place, calls in found.items() if place not in OTHER_WAYS} == {}
    assert found.keys() == OTHER_WAYS.keys()


def test_no_module_takes_clicks_own_echo_for_ours():
    importing = [
        path
        for path in PROJECT.rglob("*.py")
        if re.search(r"from click import .*echo|from rich import .*print", path.read_text())
    ]
    assert importing == []


# ---- what is left out -----------------------------------------------------------------------------


def test_every_character_that_controls_hides_or_turns_is_left_out():
    left = [chr(n) for n in range(sys.maxunicode + 1)
            if unicodedata.category(chr(n)) in ("Cc", "Cf", "Zl", "Zp") and chr(n) not in "\n\t" and harmless(f"a{chr(n)}b") != "ab"]  # fmt: skip
    assert left == []
    assert harmless("a\ud800b") == "a?b"


def test_what_people_write_is_left_alone():
    text = "größe 图 ━━━ é שלום \u0645\u0631\u062d\u0628\u0627 \U0001f600\tx\ny"
    assert harmless(text) == text


@given(st.text(st.characters(codec=None)), st.text(st.sampled_from("\x1b[]0;\x07\x9b\\2J\udcff\u202e\nP_c")))
def test_what_is_harmless_stays_so_and_can_be_written(text, controls):
    shown = harmless(text + controls)
    shown.encode()
    assert not HARM.search(shown)
    assert harmless(shown) == shown


def test_filtering_takes_time_in_proportion_to_the_text():
    def cpu_s(text: str) -> float:
        began = time.process_time()
        harmless(text)
        return time.process_time() - began

    for piece in ("\x1b]", "\x1b]x\n", "\x1b[", "\x1b[0", "\x1b[ ", "\x1bP\x1b", "\u202e", "\x08"):
        assert min(cpu_s(piece * (200_000 // len(piece)) + "\nx") for _ in range(2)) < 0.5


# ---- terminals, pipes -----------------------------------------------------------------------------


class Tty(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def piped() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8")


OUTPUT = f"one {HOSTILE}\n".encode() + b"bad \xff\xfe bytes\n" + "gr\u00f6\u00dfe\n".encode()


@given(st.lists(st.integers(0, len(OUTPUT))))
def test_a_replicas_own_output_is_harmless_on_a_terminal_however_it_is_cut(cuts):
    places, terminal = [0, *sorted(cuts), len(OUTPUT)], Tty()
    flow = Flow(terminal)
    for begin, end in itertools.pairwise(places):
        flow.feed(OUTPUT[begin:end])
    flow.feed(b"", last=True)
    assert terminal.getvalue() == f"one {SHOWN}\nbad \ufffd\ufffd bytes\ngr\u00f6\u00dfe\n"


def test_a_sequence_without_end_is_not_held_back_for_ever():
    flow = Flow(terminal := Tty())
    for _ in range(100):
        flow.feed(b"\x1b]52;c;" + b"A" * 1000)
    assert len(flow.rest) < 10_000
    flow.feed(b"", last=True)
    assert not HARM.search(terminal.getvalue())


def test_a_bar_goes_back_to_its_lines_beginning():
    flow = Flow(terminal := Tty())
    flow.feed(b"\x08" * 80 + b"\r1/9 [>..]\x1b[2K\r2/9 [=>.]\n")
    assert terminal.getvalue() == "\r1/9 [>..]\r2/9 [=>.]\n"


def test_output_comes_byte_for_byte_through_a_pipe():
    for out in (piped(), piped()):
        Flow(out).feed(OUTPUT, last=True)
        assert out.buffer.getvalue() == OUTPUT
    view = PlainView(out := piped(), io.StringIO())
    view.log("worker-0", OUTPUT)
    view.finish()
    assert out.buffer.getvalue() == b"".join(b"worker-0 | " + line + b"\n" for line in OUTPUT.splitlines() if line)


def test_lines_on_a_terminal_are_harmless():
    view = PlainView(out := Tty(), io.StringIO())
    view.log("worker-0", OUTPUT)
    assert out.getvalue() == f"worker-0 | one {SHOWN}\nworker-0 | bad ?? bytes\nworker-0 | gr\u00f6\u00dfe\n"


def test_lines_as_json_are_ascii_and_whole():
    view = FollowView(out := piped(), io.StringIO(), as_json=True)
    view.log("worker-0", OUTPUT)
    told = out.buffer.getvalue().decode("ascii").splitlines()
    whole = [line.decode(errors="replace") for line in OUTPUT.splitlines()]
    assert [json.loads(line)["line"] for line in told] == whole


def test_the_bytes_of_a_line_are_had_again():
    assert b"\n".join(map(raw, Lines().feed("w", OUTPUT))) + b"\n" == OUTPUT
    assert raw("\ud800") == b"?"


def test_a_cell_is_no_markup_and_no_control():
    (column,) = table(["\x1b[31mname"], [[HOSTILE], [text_of((HOSTILE, "red"))]]).columns
    assert [cell.plain for cell in column.cells] == [SHOWN, SHOWN]
    assert column.header.plain == "name"


def test_a_table_of_replicas_holds_nothing_that_a_terminal_would_obey():
    from tfspawner.views.table import replica_cells, replica_table

    line = ReplicaState(replica="worker-0", state=HOSTILE, node=HOSTILE + "\nx", message=HOSTILE,
                        progress={"epoch": 1, "epochs": 2, "metrics": {HOSTILE: 1.0}})  # fmt: skip
    state = JobState(job=HOSTILE, replicas={"worker-0": line}, phase=HOSTILE, times={HOSTILE: 1.0, "b": 2.0},
                     cause=Cause.of({"replica": HOSTILE, "message": HOSTILE}), result="failed")  # fmt: skip
    for width in (None, 40, 100):
        shown = replica_table(state, width).plain
        assert not HARM.search(shown)
        assert len(shown.splitlines()) == 3
    columns, rows, more = replica_cells(state)
    assert not HARM.search("".join([*columns, *(cell for _, cells in rows for cell in cells), more]))


def test_what_a_library_warns_of_is_harmless(monkeypatch, capfd):
    monkeypatch.setattr(logging, "lastResort", None)
    take_warnings()
    logging.lastResort.handle(logging.LogRecord("urllib3", logging.WARNING, "", 0, "headers: %s", (HOSTILE,), None))
    assert capfd.readouterr().err == f"headers: {SHOWN}\n"


def test_json_has_null_for_what_is_no_number(capfd):
    print_json({"loss": float("nan"), "values": (1.5, float("-inf")), "name": HOSTILE})
    text = capfd.readouterr().out
    assert text.isascii()
    assert json.loads(text, parse_constant=pytest.fail) == {"loss": None, "values": [1.5, None], "name": HOSTILE}


def test_a_terminal_that_knows_few_characters_is_written_to_all_the_same():
    class Latin(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    out = Latin(io.BytesIO(), encoding="latin-1")
    write(out, "gr\u00f6\u00dfe \u2501\n")
    assert out.buffer.getvalue() == "gr\u00f6\u00dfe ?\n".encode("latin-1")


# ---- commands, in a real terminal and in a pipe -----------------------------------------------------


@pytest.fixture
def at(tmp_path):
    """Runs tf-spawner with these words in a terminal; returns what it was sent, and the exit code."""
    env = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "KUBECONFIG": str(tmp_path / "none")}

    def run(*words: str) -> tuple[str, int]:
        terminal = Unread([sys.executable, "-m", "tfspawner", *words], env, tmp_path, width=200)
        try:
            code = terminal.done()
        finally:
            terminal.end()
        return bytes(terminal.sent).decode(), code

    def pipe(*words: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "tfspawner", *words], env=env, cwd=tmp_path, capture_output=True, timeout=60
        )

    run.pipe, run.folder = pipe, tmp_path
    return run


def colours_left_out(sent: str) -> str:
    """Without the colours and the bar that are tf-spawner's own."""
    return re.sub(r"\x1b\[(?:[0-9;]*m|2K|\?25[lh]|1A)|\r", "", sent)


EVIL = "a\x1b]0;x\x07\u202eb\x1b[2Jc"


@pytest.mark.parametrize(
    "words",
    [("report", EVIL), ("run", EVIL), ("run", f"--{EVIL}"), (EVIL,), ("logs", "j", EVIL), ("run", "x.py", "-w", EVIL), ("status", EVIL),
     ("run", "--on", EVIL), ("tensorboard", EVIL), ("rbac", "-n", EVIL), ("data", "ls", EVIL), ("compare", EVIL), ("wait", "j", "--timeout", EVIL)],
    ids=range(13),
)  # fmt: skip
def test_words_of_a_command_line_come_back_harmless(at, words):
    sent, _ = at(*words)
    assert not HARM.search(colours_left_out(sent)), sent


@pytest.fixture
def data_file(at):
    """The name of a file whose features have names that do harm, too."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    name = "x\x1b[2J\u202e.parquet"
    pq.write_table(pa.table({HOSTILE.replace("[red]", "[/red]"): [1, 2], "s": [HOSTILE, "b"]}), at.folder / name)
    return name


@pytest.mark.parametrize("words", [("ls", "-r"), ("check",), ("head",), ("stats",)], ids=" ".join)
def test_names_of_data_files_and_features_are_harmless_on_a_terminal(at, data_file, words):
    sent, code = at("data", *words, data_file)
    assert code == 0, sent
    assert not HARM.search(colours_left_out(sent)), sent


def test_names_of_data_files_are_whole_in_a_pipe(at, data_file):
    assert data_file.encode() in at.pipe("data", "ls", str(at.folder / "*.parquet")).stdout


def test_a_bug_of_ours_shows_its_traceback_and_nothing_that_a_terminal_obeys(at):
    runs = at.folder / "runs/j"
    runs.mkdir(parents=True)
    (runs / "report.json").write_text(json.dumps({"result": "failed", "seconds": EVIL, "replicas": [], "files": {}}))
    (runs / "spec.json").write_text("{}")
    sent, code = at("report", "j")
    assert code != 0
    assert not HARM.search(colours_left_out(sent)), sent
