"""The Pythons of this machine that replicas may have: those on the PATH, and pyenv's."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

VERSIONS = ("3.9", "3.10", "3.11", "3.12", "3.13")  # what setup.cfg and the README promise of replicas' images


@cache
def interpreter(version: str) -> str | None:
    """The path of a Python of that version which really starts; None where the machine has none."""
    ask = f"import sys; assert '{version}' == '%d.%d' % sys.version_info[:2]; print(sys.executable)"
    for path in _candidates(version):
        try:
            done = subprocess.run([path, "-I", "-c", ask], capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:  # pyenv's shims are there for versions that are not chosen, and fail
            return done.stdout.strip()
    return None


def _candidates(version: str) -> Iterator[str]:
    for folder in os.get_exec_path():
        yield from filter(None, [shutil.which(f"python{version}", path=folder)])
    roots = [os.environ.get("PYENV_ROOT")]
    if shutil.which("pyenv"):
        roots.append(subprocess.run(["pyenv", "root"], capture_output=True, text=True).stdout.strip())
    for root in dict.fromkeys(filter(None, roots)):
        yield from map(str, sorted(Path(root).glob(f"versions/{version}*/bin/python{version}")))
