"""Checks downloaded files of CERN's against the sizes and SHA-256 that are known of them.

    python manifest.py DIR          a folder that holds rawData_sample/, testUndersampled_HLF_features.tfrecord/, …
    python manifest.py --list       what is known

Exit codes: 0 all files of the sets that are there are whole, 1 a file is missing or is another one, 2 there is none.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import posixpath
import sys
from dataclasses import dataclass
from pathlib import Path

from console import errors_told

from tfspawner.data.files import File
from tfspawner.data.filesystems import filesystem_of
from tfspawner.data.reading import CHUNK_BYTES, read_chunks
from tfspawner.data.sharding import Part
from tfspawner.errors import ConfigurationError

PUBLISHED = Path(__file__).with_name("published.json")
WINDOW_BYTES = 4 * CHUNK_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A published file."""

    path: str
    size: int
    sha256: str

    @property
    def set(self) -> str:
        return self.path.split("/")[0]


def known_files() -> list[Known]:
    return [Known(**entry) for entry in json.loads(PUBLISHED.read_text())["files"]]


def fault(known: Known, file: File | None) -> str | None:
    """What is wrong with the file, if anything."""
    if file is None:
        return "is missing"
    if file.size != known.size:
        return f"has {file.size:,} bytes, not {known.size:,}" + (": cut off" if file.size < known.size else "")
    digest = sha256_of(file)
    return None if digest == known.sha256 else f"has the SHA-256 {digest}, not {known.sha256}"


def sha256_of(file: File) -> str:
    digest = hashlib.sha256()
    for _, _, data in read_chunks([Part(file, 0, file.size)], window_bytes=WINDOW_BYTES, chunk_bytes=CHUNK_BYTES):
        digest.update(data)
    return digest.hexdigest()


def check(folder: str, known: list[Known]) -> int:
    """Prints a line for each file, and for each set of which none is there; returns how many are not right."""
    listed = {one.path: filesystem_of(folder).list(posixpath.join(folder, one.path)) for one in known}
    there = {one.set for one in known if listed[one.path]}
    if not there:
        sets = ", ".join(sorted({one.set for one in known}))
        raise ConfigurationError(f"{folder} holds no published file", hint=f"it should be the folder that holds {sets}")
    faults = 0
    for one in known:
        if one.set in there:
            wrong = fault(one, next(iter(listed[one.path]), None))
            faults += wrong is not None
            print(f"{'ok   ' if wrong is None else 'WRONG'} {one.path} {wrong or ''}".rstrip())
    for name in sorted({one.set for one in known} - there):
        print(f"-     {name} was not downloaded")
    return faults


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("folder", nargs="?", help="a path, s3://… or root://…")
    words.add_argument("--list", action="store_true", help="print path, size and SHA-256 of the published files")
    options = words.parse_args()
    if options.list:
        print(*(f"{one.sha256}  {one.size:>11}  {one.path}" for one in known_files()), sep="\n")
        return 0
    if options.folder is None:
        words.error("name a folder, or --list")
    return 1 if check(options.folder, known_files()) else 0


if __name__ == "__main__":
    with errors_told():
        sys.exit(main())
