"""Packs this package to travel: two files, and nvidia-ml-py as a third. This module itself stays here."""

from __future__ import annotations

import io
import zipfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

STARTER, ARCHIVE = "agent.py", "replica.zip"  # their names beside job.json
STAYS = ("starter.py", "packing.py")
HERE = Path(__file__).parent


@cache
def sources() -> dict[str, str]:
    """The text of each module that travels, by file name."""
    return {path.name: path.read_text("utf-8") for path in sorted(HERE.glob("*.py")) if path.name not in STAYS}


@cache
def packed() -> dict[str, bytes]:
    """The starter and the zip file; always the same bytes, so that jobs render the same."""
    modules = {f"replica/{name}": source.encode() for name, source in sources().items()}
    return {STARTER: (HERE / "starter.py").read_bytes(), ARCHIVE: zipped(modules)}


def packed_nvml() -> bytes | None:
    """nvidia-ml-py as a zip file that Python imports from, for images that lack it; None where it is not installed."""
    spec = find_spec("pynvml")
    if spec is None or spec.origin is None:
        return None
    return zipped({"pynvml.py": Path(spec.origin).read_bytes()})


def zipped(files: dict[str, bytes]) -> bytes:
    """A zip file of them, with the time at which zip files begin: 1980."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return made.getvalue()
