"""tf-spawner's command line in this process, for tests of what a process of its own would not change.

A process costs half a second, and with what reads tables more than one.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from contextlib import redirect_stderr, redirect_stdout
from subprocess import CompletedProcess

import click

from tfspawner.cli.main import call, cli


def called(*words: object) -> CompletedProcess[str]:
    """What the command line says, and its exit code."""
    arguments = list(map(str, words))
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with redirect_stdout(out), redirect_stderr(err):
        code = call(arguments)
    return CompletedProcess(arguments, code, text_of(out), text_of(err))


def context_of(command: str, words: Iterable[str]) -> click.Context:
    """What one command makes of its words, before it runs.

    It gets its parent: click keeps a command's first help option, and what that is called the parent says.
    """
    return cli.commands[command].make_context(command, list(words), parent=click.Context(cli, **cli.context_settings))


def text_of(stream: io.TextIOWrapper) -> str:
    stream.flush()
    return stream.buffer.getvalue().decode()
