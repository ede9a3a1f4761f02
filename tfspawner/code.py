"""The script's folder as an archive that travels to the replicas."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .errors import ConfigurationError
from .recorded import ID_FILE

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

IGNORE_FILE = ".tfspawnerignore"
ALWAYS_IGNORED = (".git/", "__pycache__/", ".ipynb_checkpoints/", ".venv/", ".mypy_cache/", ".pytest_cache/")
UNASKED_LIMIT_BYTES = 512 * 1024**2
WHEELS = ".tfspawner"  # the archive's folder for wheels; the agent unpacks them


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """A gzipped tar archive, the same bytes for the same files, in a file without a name: nothing to clean up."""

    archive: IO[bytes]
    sha256: str
    size_bytes: int
    file_count: int

    def open(self) -> IO[bytes]:
        """The archive, from its beginning; jobs that share it read it side by side."""
        return io.BufferedReader(_Reader(self.archive.fileno()))


class _Reader(io.RawIOBase):
    """Reads a file from a place of its own on; the file stays open."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self.place = descriptor, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: os.fstat(self.descriptor).st_size}
        self.place = base[whence] + offset
        return self.place

    def readinto(self, buffer: Any) -> int:
        data = os.pread(self.descriptor, len(buffer), self.place)
        buffer[: len(data)] = data
        self.place += len(data)
        return len(data)


def pack(folder: Path, *, out: Path, asked: bool, wheels: tuple[Path, ...] = ()) -> Code:
    """Packs the folder, without what .tfspawnerignore names.

    `out` is left out where it lies inside: it holds former runs, which are left out anywhere. A folder that was not `asked` for by
    name (it is just where the script lies) may not be over 512 MiB. Raises ConfigurationError.
    """
    files = list(_files(folder, _ignored(folder), {out.resolve()}))
    total = sum(os.stat(path).st_size for path, _ in files)
    if total > UNASKED_LIMIT_BYTES and not asked:
        raise ConfigurationError(
            f"the script's folder {folder} holds {total / 1024**3:.1f} GiB, all of which would travel",
            hint=f"name what is not code in {folder / IGNORE_FILE}, or name the folder itself: --workdir {folder}",
        )
    files += [(wheel, f"{WHEELS}/{wheel.name}") for wheel in wheels]
    archive = tempfile.TemporaryFile(prefix="tf-spawner-")
    _write(archive, files)
    archive.seek(0)
    digest = hashlib.file_digest(archive, "sha256").hexdigest()
    return Code(archive=archive, sha256=digest, size_bytes=os.fstat(archive.fileno()).st_size, file_count=len(files))


def digests(folder: Path, *, out: Path) -> dict[str, str]:
    """The SHA-256 of every file that pack() would take."""
    found = {}
    for path, name in _files(folder, _ignored(folder), {out.resolve()}):
        with path.open("rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def mentions(folder: Path, word: str, *, out: Path) -> list[Path]:
    """The folder's Python files that contain the word."""
    return [
        path
        for path, _ in _files(folder, _ignored(folder), {out.resolve()})
        if path.suffix == ".py" and word in path.read_text(errors="replace")
    ]


def _ignored(folder: Path) -> GitIgnoreSpec:
    from pathspec import GitIgnoreSpec

    lines = list(ALWAYS_IGNORED)
    if (folder / IGNORE_FILE).is_file():
        text = (folder / IGNORE_FILE).read_text(encoding="utf-8-sig", errors="surrogateescape")
        lines += text.splitlines()
    return GitIgnoreSpec.from_lines(lines)


def _files(folder: Path, ignored: GitIgnoreSpec, left_out: set[Path]) -> Iterator[tuple[Path, str]]:
    """(path, name in the archive) of every file, links followed unless they lead round."""
    for top, folders, names in os.walk(folder, followlinks=True):
        here = Path(top)
        relative = here.relative_to(folder)
        leads_round = here.resolve() in {(folder / parent).resolve() for parent in relative.parents}
        if here != folder and (
            leads_round or here.resolve() in left_out or not {"pyvenv.cfg", ID_FILE}.isdisjoint(names)
        ):
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not ignored.match_file(f"{relative / name}/"))
        for name in sorted(names):
            path = here / name
            if path.is_file() and not ignored.match_file(str(relative / name)):
                yield path, str(relative / name)


def _write(raw: IO[bytes], files: list[tuple[Path, str]]) -> None:
    with (
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path, name in files:
            with open(path, "rb") as source:
                info = tarfile.TarInfo(name)
                status = os.fstat(source.fileno())
                info.size, info.mode = status.st_size, 0o755 if status.st_mode & 0o100 else 0o644
                archive.addfile(info, source)
