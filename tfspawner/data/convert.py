"""Converts training data: other file formats, smaller encodings, another number of shards.

A conversion is a plan of shards, each of which a process reads, converts and writes on its own, holding two chunks of
the source and a row group of the destination at most. What is under way lies in the hidden folder _converting of a
local destination, and moves to its place when every shard is whole; elsewhere a shard is put there whole.
"""

from __future__ import annotations

import ctypes
import fcntl
import gzip
import multiprocessing
import os
import posixpath
import re
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tfspawner.errors import ConfigurationError, DataError

from .decoding import read_record
from .encoding import Encoder, Encoding, Loss
from .example import Array, write_example
from .files import File, has_pattern
from .filesystems import LocalFiles, filesystem_of, local_path
from .reading import CHUNK_BYTES, is_gzipped, read_records
from .records import OVERHEAD, frame
from .sharding import Part, divide
from .tables import Numbers, TableWriter, form_of, read_columns, rows_of

SUFFIXES = {"tfrecord": ".tfrecord", "parquet": ".parquet", "arrow": ".arrow"}
FORMS = {
    ".tfrecord": "tfrecord",
    ".tfrecords": "tfrecord",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
WINDOW_BYTES = 2 * CHUNK_BYTES
STAGE = "_converting"
PR_SET_PDEATHSIG = 1
MOST_SHARDS = 99_999  # five digits, which their names have and by which a missing one is noticed


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is done to each record, and how it is written."""

    form: str
    encodings: tuple[Encoding, ...] = ()
    plain: bool = False  # encoded features are restored
    gzip: bool = False
    overflow: bool = False
    nulls: str = "error"


@dataclass(frozen=True, slots=True)
class Shard:
    """One file to write: its name, and the parts it is made from."""

    name: str
    parts: tuple[Part, ...]
    source: str  # its form
    gzipped: bool = False  # the source


@dataclass(slots=True)
class Done:
    """What was converted, for one shard or for all."""

    files: int = 0
    records: int = 0
    size: int = 0
    read_bytes: int = 0  # of TFRecord files, framing and all
    loss: Loss = field(default_factory=Loss)
    doubles: Loss = field(default_factory=Loss)

    def add(self, other: Done) -> None:
        """Adds another part's counts."""
        self.files += other.files
        self.records += other.records
        self.size += other.size
        self.read_bytes += other.read_bytes
        self.loss.add(other.loss)
        self.doubles.add(other.doubles)


def destination_of(uri: str, to: str | None) -> tuple[str, str | None, str]:
    """(folder, the one file's name or None, the format), from the destination's URI and --to."""
    stem = uri.removesuffix(".gz")
    form = FORMS.get(posixpath.splitext(stem)[1])
    if has_pattern(uri) or uri.startswith(("http://", "https://")):
        raise ConfigurationError(f"{uri}: nothing can be written there", hint="name a folder, a file or s3://…")
    if form is None:
        return uri.rstrip("/") or "/", None, to or "tfrecord"
    if to not in (None, form):
        raise ConfigurationError(f"{uri} is a name for {form}, and --to is {to}")
    folder, name = posixpath.split(uri)
    return folder or ".", name, form


def plan(files: Sequence[File], name: str | None, shards: int | None, options: Options) -> list[Shard]:
    """The shards to write. Raises ConfigurationError for sources that do not go together."""
    forms = {form_of(file) for file in files}
    if len(forms) > 1:
        raise ConfigurationError(f"the sources are of unlike kinds: {' and '.join(sorted(forms))}")
    source = forms.pop()
    gzipped = source == "tfrecord" and is_gzipped(files[0])
    if name and shards not in (None, 1):
        raise ConfigurationError(f"{shards} shards cannot be one file, {name}", hint="name a folder")
    count = 1 if name else shards or len(files)
    if count > MOST_SHARDS:
        raise ConfigurationError(f"{count:,} shards are too many", hint=f"--shards {MOST_SHARDS:,} is the most")
    if gzipped and count > len(files):
        raise ConfigurationError(
            f"{len(files)} gzipped files cannot become {count} shards: they are not split",
            hint=f"--shards {len(files)}",
        )
    if source != "tfrecord":
        files = [File(file.uri, rows_of(file)) for file in files]  # divided by rows
    if count == len(files):
        shares = [[Part(file, 0, file.size)] for file in files]
    else:
        shares = divide(files, count, splittable=not gzipped)
    suffix = SUFFIXES[options.form] + (".gz" if options.gzip else "")
    names = [name] if name else [f"part-{number:05}-of-{count:05}{suffix}" for number in range(count)]
    return [Shard(n, tuple(parts), source, gzipped) for n, parts in zip(names, shares, strict=True)]


def convert(
    files: Sequence[File],
    destination: str,
    *,
    options: Options,
    name: str | None = None,
    shards: int | None = None,
    jobs: int = 1,
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> Done:
    """Converts the files into a folder, or one file `name` in it, in so many processes.

    Nothing of an unfinished conversion has a final name in a local folder. Elsewhere each shard is put whole.
    Raises DataError for what cannot be read, converted or written, and ConfigurationError where files are in the way.
    """
    sizes = {file.uri: file.size for file in files}
    planned = plan(files, name, shards, options)
    both = [shard.name for shard in planned if posixpath.join(destination, shard.name) in sizes]
    if both:
        raise ConfigurationError(f"{destination}: {both[0]} is read, and would be written", hint="name another folder")
    _refuse_existing(destination, [shard.name for shard in planned], alone=name is None, overwrite=overwrite)
    total = Done()
    with _stage(destination) as stage, _pool(jobs) as pool:
        futures = {pool.submit(_write, shard, sizes, str(stage), destination, options): shard for shard in planned}
        try:
            for future in as_completed(futures):
                total.add(future.result())
                progress(sum(sizes[uri] * share // 1000 for uri, share in _shares(futures[future])))
        except BrokenProcessPool:
            raise DataError("a process that converted was killed", hint="perhaps out of memory: --jobs 1") from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        _compare(planned, sizes, total)
        if _is_local(destination):
            for shard in planned:
                os.replace(stage / shard.name, Path(local_path(destination), shard.name))
    return total


def _shares(shard: Shard) -> Iterator[tuple[str, int]]:
    for part in shard.parts:
        yield part.file.uri, 1000 * part.size // max(1, part.file.size)


def _compare(planned: list[Shard], sizes: dict[str, int], total: Done) -> None:
    """Checks that each row, or each byte of the records, was read once."""
    if planned[0].source != "tfrecord":
        rows = sum(part.size for shard in planned for part in shard.parts)
        if rows != total.records:
            raise DataError(f"the sources have {rows} rows, and {total.records} were written")
    elif not planned[0].gzipped and total.read_bytes != sum(sizes.values()):
        raise DataError(f"the sources have {sum(sizes.values())} bytes, and records of {total.read_bytes} were read")


def _refuse_existing(destination: str, names: list[str], *, alone: bool, overwrite: bool) -> None:
    """Raises ConfigurationError if the destination has these files already, or others that would be read with them."""
    there = {posixpath.basename(file.uri) for file in filesystem_of(destination).list(destination)}
    taken = sorted(there & set(names))
    if taken and not overwrite:
        raise ConfigurationError(f"{destination} has {taken[0]} already", hint="--overwrite writes it anew")
    others = sorted(there - set(names))
    if alone and others:
        raise ConfigurationError(
            f"{destination} holds {others[0]}, which would be read together with the new files",
            hint="name an empty folder, or remove it",
        )


@contextmanager
def _stage(destination: str) -> Iterator[Path]:
    """An empty folder for unfinished files, removed at the end; one conversion at a time uses a local target."""
    if not _is_local(destination):
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)
        return
    folder = Path(local_path(destination))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}") from None
    stage = folder / STAGE
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(0o700)
        yield stage
    except BlockingIOError:
        raise ConfigurationError(f"another conversion writes to {folder}") from None
    except OSError as error:
        raise DataError(f"{error.filename or folder}: {error.strerror or error}") from None
    finally:
        if stage.is_dir():
            shutil.rmtree(stage, ignore_errors=True)
        os.close(lock)


@contextmanager
def _pool(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes that end with this one, however it ends."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_child, initargs=(os.getpid(),))
    try:
        yield pool
    except BaseException:
        for child in multiprocessing.active_children():
            child.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _child(parent: int) -> None:
    """Leaves Ctrl-C to the parent, and ends this process when the parent is gone, even if it was killed before."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _is_local(uri: str) -> bool:
    return isinstance(filesystem_of(uri), LocalFiles)


def _write(shard: Shard, sizes: dict[str, int], stage: str, destination: str, options: Options) -> Done:
    """Writes one whole shard into its stage, or to its final place if that is not local."""
    path = os.path.join(stage, shard.name)
    done = Done(files=1)
    try:
        if options.form == "tfrecord":
            _write_records(shard, sizes, path, options, done)
        else:
            writer = TableWriter(path, options.form)
            for where, record in _records(shard, sizes, options, done):
                writer.write(record, where)
            writer.close()
            done.records = writer.rows
        done.size = os.stat(path).st_size
        if not _is_local(destination):
            filesystem_of(destination).put(path, posixpath.join(destination, shard.name))
            os.unlink(path)
    except OSError as error:
        raise DataError(f"{shard.name} cannot be written: {path}: {error.strerror or error}") from None
    return done


def _write_records(shard: Shard, sizes: dict[str, int], path: str, options: Options, done: Done) -> None:
    encoder = Encoder(options.encodings, overflow=options.overflow, loss=done.loss)
    as_they_are = shard.source == "tfrecord" and not options.encodings and not options.plain
    with open(path, "wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) if options.gzip else raw as out:
        if as_they_are:
            for _, data in _raw(shard, done):
                out.write(frame(data))
                done.records += 1
        else:
            for where, record in _records(shard, sizes, options, done):
                out.write(frame(write_example(encoder.encode(record, where))))
                done.records += 1
        if options.gzip:
            out.close()
        raw.flush()
        os.fsync(raw.fileno())


def _raw(shard: Shard, done: Done) -> Iterator[tuple[str, bytes]]:
    for part in shard.parts:
        number = 0
        for records in read_records([part], gzipped=shard.gzipped, window_bytes=WINDOW_BYTES):
            for record in records:
                done.read_bytes += len(record) + OVERHEAD
                begins = f" of those from byte {part.start} on" if part.start else ""
                yield f"{part.file.uri}: record {number}{begins}", record
                number += 1


def _records(
    shard: Shard, sizes: dict[str, int], options: Options, done: Done
) -> Iterator[tuple[str, dict[str, Array]]]:
    """(where it is, its features restored) of each record."""
    if shard.source == "tfrecord":
        for where, data in _raw(shard, done):
            yield where, read_record(data, where)
        return
    for part in shard.parts:
        whole = Part(File(part.file.uri, sizes[part.file.uri]), part.start, part.end)
        numbers = Numbers(overflow=options.overflow, loss=done.doubles)
        for first, count, columns in read_columns(whole, nulls=options.nulls, numbers=numbers):
            for number in range(count):
                yield f"{part.file.uri}: row {first + number}", {name: c.row(number) for name, c in columns.items()}


def parse_shapes(words: Sequence[str], option: str) -> dict[str, tuple[int, int]]:
    """{feature: (rows, width)} from words like GRU_input=801x19."""
    shapes = {}
    for word in words:
        match = re.fullmatch(r"(.+)=([1-9]\d{0,8})x([1-9]\d{0,8})", word)
        if not match:
            raise ConfigurationError(f"{option} {word}: that is no shape", hint=f"write like {option} GRU_input=801x19")
        shapes[match[1]] = int(match[2]), int(match[3])
    return shapes
