"""tf-spawner's command line in this process, for tests of what a process of its own would not change.

A process costs half a second, and with what reads tables more than one.
"""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from subprocess import CompletedProcess

from tfspawner.cli.main import call


def called(*words: object) -> CompletedProcess[str]:
    """What the command line says, and its exit code."""
    arguments = list(map(str, words))
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with redirect_stdout(out), redirect_stderr(err):
        code = call(arguments)
    return CompletedProcess(arguments, code, text_of(out), text_of(err))


def text_of(stream: io.TextIOWrapper) -> str:
    stream.flush()
    return stream.buffer.getvalue().decode()
