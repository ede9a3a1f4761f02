"""What the benchmarks share: a namespace of their own, a clock, and one way to print a comparison."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TF_SPAWNER = str(Path(sys.executable).with_name("tf-spawner"))


def call(*command: str, **options: Any) -> str:
    """Runs a command, which must succeed, and gives what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return str(done.stdout)


def seconds_of(*command: str, **options: Any) -> float:
    """How long the command takes."""
    began = time.monotonic()
    call(*command, **options)
    return time.monotonic() - began


@contextmanager
def namespace(name: str) -> Iterator[str]:
    """A fresh namespace on the current kube context, deleted in the end."""
    name = f"{name}-{os.getpid()}"
    call("kubectl", "create", "namespace", name)
    try:
        yield name
    finally:
        call("kubectl", "delete", "namespace", name)


def until(condition: Callable[[], Any], timeout_s: float = 300.0, pause_s: float = 0.5) -> None:
    """Waits until condition() is true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"it did not happen within {timeout_s:g} s")
        time.sleep(pause_s)


def write_script(folder: Path, text: str) -> str:
    """Writes the script that a job runs, in a folder where nothing else lies."""
    folder.mkdir()
    (folder / "script.py").write_text(text)
    return str(folder / "script.py")


def compare(title: str, rows: dict[str, list[float]], at_most: float | None) -> bool:
    """Prints medians with their spread, and the first row's ratio to the least of the others against its bound."""
    print(f"\n{title}")
    for name, values in rows.items():
        middle, low, high = statistics.median(values), min(values), max(values)
        print(f"  {name:36} {middle:7.2f} s   ({low:.2f} to {high:.2f}, {len(values)} runs)")
    ours, *others = (statistics.median(values) for values in rows.values())
    ratio = ours / min(others)
    if at_most is None:
        print(f"  ratio {ratio:.2f}, no target", flush=True)
        return True
    print(f"  ratio {ratio:.2f}, target at most {at_most}: {'pass' if ratio <= at_most else 'MISS'}", flush=True)
    return ratio <= at_most
