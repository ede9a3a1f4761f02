"""Chooses the view for this terminal."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from tfspawner.base.terminal import console

from .plain import PlainView


def is_terminal(stream: TextIO) -> bool:
    """Whether this stream is a terminal that can redraw lines."""
    return stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def make_view(*, logs: bool = True) -> PlainView:
    """A live view if stderr is a terminal, else a plain one."""
    if not is_terminal(sys.stderr):
        return PlainView(sys.stdout, sys.stderr, logs=logs)
    from .live import LiveView

    return LiveView(console(err=True), sys.stdout, logs=logs)


def in_kernel() -> bool:
    """Whether this is a Jupyter kernel, which has imported IPython."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return get_ipython is not None and hasattr(get_ipython(), "kernel")
