"""Packs the script's folder into an archive that is sent to the replicas."""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from tfspawner.base.userfile import named
from tfspawner.errors import ConfigurationError
from tfspawner.plan.code import Code
from tfspawner.plan.secrecy import Known

from .travelling import IGNORE_FILE, Travelling, left_out, reading

UNASKED_LIMIT_BYTES = 512 * 1024**2
MOST_MODULE_BYTES = 16 * 1024**2  # a larger .py is data, and is not searched for words
MOST_SEARCHED_BYTES = 16 * 1024**2  # in all, for secrets; larger code is not searched to the end, and is uploaded
WHEELS = ".tfspawner"  # the archive's folder for wheels; the agent unpacks them


def pack(
    folder: Path,
    *,
    out: Path,
    is_named: bool,
    wheels: tuple[Path, ...] = (),
    env_files: Iterable[Path] = (),
    known: Known | None = None,
    script: str | None = None,
) -> Code:
    """Packs the folder, without what .tfspawnerignore names, the env-files, and what looks like a key.

    `out`, the folder of former runs, is left out if it is inside; so is any run elsewhere in the folder. `is_named`
    says that the user named the folder; one that is just the script's may have at most 512 MiB. `script` is the
    script's name in the folder. Raises ConfigurationError, also if the script itself would be left out.
    """
    travelling = Travelling(folder, out, env_files)
    files = list(travelling.files())
    if script is not None and all(name != script for _, name in files):
        travelling.refuse_without(script)
    total = sum(map(_size, files))
    if total > UNASKED_LIMIT_BYTES and not is_named:
        raise ConfigurationError(
            f"the script's folder {folder} holds {total / 1024**3:.1f} GiB, all of which would travel",
            hint=f"name what is not code in {folder / IGNORE_FILE}, or name the folder itself: --workdir {folder}",
        )
    secrets, is_searched = _secrets_in(files, known) if known else ([], True)
    files += [(wheel, f"{WHEELS}/{wheel.name}") for wheel in wheels]
    with _writing():
        archive = tempfile.TemporaryFile(prefix="tf-spawner-")
        _write(archive, files)
        archive.seek(0)
        digest = hashlib.file_digest(archive, "sha256").hexdigest()
    return Code(
        archive=archive,
        sha256=digest,
        size_bytes=os.fstat(archive.fileno()).st_size,
        file_count=len(files),
        left_out=left_out(travelling.keys, travelling.env_names),
        secrets=tuple(secrets),
        is_searched=is_searched,
    )


def _secrets_in(files: list[tuple[Path, str]], known: Known) -> tuple[list[str], bool]:
    """(["train.py, line 3 holds the value of KEY", …], whether all files were searched)."""
    if known.is_idle:
        return [], True
    places = [
        f"the name of {named(known.mask(name))} holds the value of {hit[0]}"
        for _, name in files
        if (hit := known.find(name.encode(errors="surrogateescape")))
    ]
    unsearched = MOST_SEARCHED_BYTES
    for path, name in files:
        with reading(name), path.open("rb") as file:
            data = file.read(unsearched + 1)
        unsearched -= len(data)
        if unsearched < 0:
            return places, False
        if hit := known.find(data):
            places.append(f"{named(known.mask(name))}, line {hit[1]} holds the value of {hit[0]}")
    return places, True


def digests(folder: Path, *, out: Path, env_files: Iterable[Path] = ()) -> dict[str, str]:
    """{name: SHA-256} of every file that pack() would pack."""
    by_name = {}
    for path, name in Travelling(folder, out, env_files).files():
        with reading(name), path.open("rb") as file:
            by_name[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return by_name


def mentions(folder: Path, word: str, *, out: Path) -> list[Path]:
    """The folder's Python files that contain the word."""
    paths = []
    for path, name in Travelling(folder, out).files():
        with reading(name):
            if (
                path.suffix == ".py"
                and path.stat().st_size <= MOST_MODULE_BYTES
                and word in path.read_text(errors="replace")
            ):
                paths.append(path)
    return paths


def _size(file: tuple[Path, str]) -> int:
    with reading(file[1]):
        return os.stat(file[0]).st_size


@contextmanager
def _writing() -> Iterator[None]:
    """Turns an error in the folder for temporary files, for example that it is full, into ConfigurationError."""
    try:
        yield
    except OSError as error:
        place = os.environ.get("TMPDIR") or tempfile.gettempdir()
        raise ConfigurationError(
            f"the archive of the script's folder cannot be written to {named(place)}: {error.strerror or error}",
            hint="set TMPDIR to a folder with more room",
        ) from None


class _Source:
    """A file that is being packed; an error in reading it names the file."""

    def __init__(self, file: IO[bytes], name: str, size: int) -> None:
        self.file, self.name, self.remaining = file, name, size

    def read(self, size: int) -> bytes:
        with reading(self.name):
            data = self.file.read(size)
        self.remaining -= len(data)
        if len(data) < size and self.remaining > 0:
            raise ConfigurationError(
                f"{named(self.name)}, in the folder that travels, became shorter while it was read",
                hint=f"start again when nothing writes to it, or name it in {IGNORE_FILE}",
            )
        return data


def _write(raw: IO[bytes], files: list[tuple[Path, str]]) -> None:
    with (
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path, name in files:
            with reading(name):
                source = open(path, "rb")
            with source:
                info = tarfile.TarInfo(name)
                status = os.fstat(source.fileno())
                info.size, info.mode = status.st_size, 0o755 if status.st_mode & 0o100 else 0o644
                archive.addfile(info, cast(IO[bytes], _Source(source, name, info.size)))
