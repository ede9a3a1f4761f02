"""Every --help fits a screen and has an example; completion installs itself, and works."""

from __future__ import annotations

import os
import pty
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from itertools import chain
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from forked import Forked

from tfspawner.cli import target
from tfspawner.cli.job_command import JobCommand
from tfspawner.cli.main import COMMANDS, cli, main

ROWS, COLUMNS = 24, 80
GROUP_ROWS = 42  # which lists all commands


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


def help_of(path: tuple[str, ...], flag: str = "--help") -> list[str]:
    done = CliRunner().invoke(cli, [*path, flag], prog_name="tf-spawner", terminal_width=COLUMNS)
    assert done.exit_code == 0, done.output
    return done.output.splitlines()


ALL = [((), cli), *commands(cli)]


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) or "tf-spawner" for path, _ in ALL])
def test_it_fits_a_screen_and_has_an_example(path, command):
    lines = help_of(path)
    assert len(lines) <= (ROWS if path else GROUP_ROWS)
    assert max(map(len, lines)) <= COLUMNS
    assert any(line.startswith("  " + " ".join(("tf-spawner", *path))) for line in lines)
    assert not any(line.endswith("...") for line in lines[1:]), "a command's first sentence is cut off"


def test_each_command_that_a_module_of_cli_makes_has_its_place_in_one_section():
    folder = Path(target.__file__).parent
    modules = [import_module(f"{target.__package__}.{path.stem}") for path in folder.glob("[!_]*.py")]
    made = [one for module in modules for one in vars(module).values() if isinstance(one, click.Command)]
    shown = [one for several in COMMANDS.values() for one in several]
    of_data = chain.from_iterable(one.commands.values() for one in shown if isinstance(one, click.Group))
    assert len(shown) == len(set(map(id, shown)))
    assert set(map(id, made)) == {*map(id, shown), *map(id, of_data), id(cli)}


@pytest.mark.parametrize("name", [name for name, command in cli.commands.items() if isinstance(command, JobCommand)])
def test_help_all_has_each_option_once_in_a_section(name):
    command = cli.commands[name]
    lines = help_of((name,), "--help-all")
    told = [line[2:].split("  ")[0].replace(",", "").split() for line in lines if line.startswith("  -")]
    for option in (p for p in command.params if isinstance(p, click.Option)):
        assert sum(option.opts[-1] in words for words in told) == 1, option.opts
    assert {"Replicas:", "Kubernetes:", "Options:"} <= set(lines)
    assert len(lines) > len(help_of((name,)))


# ---- completion ---------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home folder, and a tf-spawner on the way to it."""
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "ZDOTDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    program = tmp_path / "bin/tf-spawner"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m tfspawner "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return tmp_path


def told(capsys, *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit:
        main(["completion", *words])
    return exit.value.code or 0, *capsys.readouterr()


def files_of(home: Path) -> dict[str, str]:
    return {str(path.relative_to(home)): path.read_text() for path in home.rglob("*") if path.is_file()}


def test_an_rc_file_of_another_encoding_stays_as_it_is(home, capsys):
    mine = b"alias l='ls \xe9t\xe9'\n"
    (home / ".bashrc").write_bytes(mine)
    assert told(capsys, "bash", "--install")[0] == 0
    assert (home / ".bashrc").read_bytes().startswith(mine + b"source ")
    assert told(capsys, "bash", "--uninstall")[0] == 0
    assert (home / ".bashrc").read_bytes() == mine


@pytest.mark.parametrize(("shell", "rc"), [("bash", ".bashrc"), ("zsh", ".zshrc"), ("fish", None)])
def test_it_is_installed_once_and_uninstalled_whole(home, capsys, shell, rc):
    if rc:
        (home / rc).write_text("alias l=ls")  # whose last line has no end
    before = files_of(home)
    for _ in range(2):
        assert told(capsys, shell, "--install")[0] == 0
    after = files_of(home)
    assert len(after) == len(before) + 1
    if rc:
        first, second = after[rc].splitlines()
        assert first == "alias l=ls"
        assert "source " in second
    code, out, _ = told(capsys, shell, "--uninstall")
    assert (code, "removed" in out) == (0, True)
    before = {name: text + "\n" if name == rc else text for name, text in before.items()}
    assert files_of(home) == before
    assert "no completion" in told(capsys, shell, "--uninstall")[1]


def test_a_shell_that_is_not_known_is_named(home, capsys, monkeypatch):
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    code, _, err = told(capsys, "--install")
    assert code == 2
    assert "$SHELL is tcsh" in err
    assert "hint: name one: tf-spawner completion bash --install" in err


def test_a_file_that_cannot_be_written_is_named(home, capsys):
    (home / ".local").write_text("")
    code, _, err = told(capsys, "bash", "--install")
    assert code == 2
    assert ".local" in err


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_in_bash_the_tabulator_completes_commands_and_options(home, capsys):
    (home / ".bashrc").write_text("PS1='ready> '\n")
    assert told(capsys, "bash", "--install")[0] == 0
    environment = {**os.environ, "TERM": "dumb"}
    process, terminal = pty.fork()
    if not process:
        os.execvpe("bash", ["bash", "-i"], environment)
    try:
        read_until(terminal, "ready> ")
        for typed, completed in (("tf-spawner compar", "e "), ("--outp", "ut "), ("\x15tf-spawner tens", "orboard ")):
            os.write(terminal, f"{typed}\t".encode())
            read_until(terminal, typed.lstrip("\x15") + completed)
    finally:
        os.close(terminal)
        os.waitpid(process, 0)


def read_until(terminal: int, text: str) -> None:
    found, deadline = "", time.monotonic() + 20
    while text not in found:
        assert select.select([terminal], [], [], max(0, deadline - time.monotonic()))[0], (
            f"{text!r} is not in {found!r}"
        )
        found += os.read(terminal, 4096).decode(errors="replace")


def test_what_is_printed_is_what_bash_can_read(home, capsys):
    code, out, _ = told(capsys, "bash")
    assert code == 0
    assert subprocess.run(["bash", "-n"], input=out, text=True, check=False).returncode == 0


HURRIED = "from tfspawner.cli import main, target; target.COMPLETE_WITHIN_S = 0.5; main.main()"


def completed(
    home: Path, *words: str, program: tuple[str, ...] = ("tf-spawner",), **more: str
) -> subprocess.CompletedProcess[str]:
    """What the shell is told of the last word."""
    environment = {**os.environ, "KUBECONFIG": str(home / "none"), "XDG_STATE_HOME": str(home / "state"), **more,
                   "_TF_SPAWNER_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}  # fmt: skip
    return subprocess.run(program, env=environment, cwd=home, capture_output=True, text=True, timeout=60)


@pytest.fixture
def runs(home):
    """A run, and a folder that is none."""
    (home / "runs/wasted").mkdir(parents=True)
    (home / "runs/waited").mkdir()
    (home / "runs/waited/spec.json").write_text("{}")


def test_jobs_are_completed(home, runs):
    (home / "train.py").write_text("import time; time.sleep(60)")
    environment = {**os.environ, "XDG_STATE_HOME": str(home / "state")}
    assert Forked(["run", "train.py", "-w", "1", "--detach", "--name", "waits"], environment, home).wait(60) == 0
    try:
        assert completed(home, "tf-spawner", "status", "wa").stdout == "plain,waits\n"
    finally:
        assert Forked(["delete", "waits"], environment, home).wait(60) == 0


@pytest.mark.parametrize("command", ["report", "compare", "rerun"])
def test_runs_are_completed(home, runs, command):
    assert completed(home, "tf-spawner", command, "wa").stdout == "plain,waited\n"


def test_a_cluster_that_does_not_answer_holds_no_shell_up(home):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (home / "kubeconfig").write_text(
            "{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}], users: [{name: u, user: {}}],"
            f" clusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:{silent.getsockname()[1]}'}}}}]}}"
        )
        began = time.monotonic()
        hurried = (sys.executable, "-c", HURRIED)
        done = completed(home, "tf-spawner", "logs", "", program=hurried, KUBECONFIG=str(home / "kubeconfig"))
    assert (done.stdout.strip(), done.stderr) == ("", "")
    assert time.monotonic() - began < 15
    assert target.COMPLETE_WITHIN_S < 15
