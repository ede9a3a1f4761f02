"""Reads whole shards, and says what each one holds or what is wrong with it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tfspawner.base import userfile
from tfspawner.errors import ConfigurationError, DataError

from .decoding import decode_example
from .encoding import MARK, runs_in
from .example import LONGEST_NAME, MOST_NAMES, kind_of, named
from .files import File
from .filesystems import LocalFiles, filesystem_of, local_path
from .reading import CHUNK_BYTES, is_gzipped, read_records
from .sharding import Part, divide
from .tables import Table, form_of

PARALLEL = 4
MOST_LIST_BYTES = 128 << 20  # of --done and --manifest: lines of some 300,000 files
DONE_BEGINS = '{"uri": "'  # each line of --done


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """What one file holds; `error` if it cannot be read to its end."""

    uri: str
    size: int
    records: int = 0
    schema: dict[str, str] = field(default_factory=dict)  # of the first record
    error: str | None = None


def check_shard(file: File, progress: Callable[[int], None] = lambda _: None) -> Shard:
    """Reads one shard: every checksum, every encoding, and the schema of the first record of each 4 MiB.

    progress is called with each number of bytes of records.
    """
    records, schema = 0, None
    try:
        if file.size and form_of(file) != "tfrecord":
            return _check_table(file, progress)
        part = Part(file, 0, file.size)
        for batch in read_records([part], gzipped=is_gzipped(file), window_bytes=2 * CHUNK_BYTES):
            here = _schema(file, batch[0], records)
            if schema is None:
                schema = here
            elif here != schema:
                raise DataError(f"{file.uri}: record {records} has {_words(here)}, and the first has {_words(schema)}")
            for number, record in enumerate(batch[1:], records + 1):
                if MARK.encode() in record:  # whether an encoding can be undone is up to each record
                    _schema(file, record, number)
            records += len(batch)
            progress(sum(map(len, batch)))
    except DataError as error:
        return Shard(uri=file.uri, size=file.size, records=records, schema=schema or {}, error=error.message)
    return Shard(uri=file.uri, size=file.size, records=records, schema=schema or {})


def _check_table(file: File, progress: Callable[[int], None]) -> Shard:
    """Reads every group of rows of a Parquet or Arrow file."""
    with Table(file) as table:
        schema = table.words()
        records = 0
        for group in range(table.groups):
            records += sum(rows.num_rows for rows in table.batches(group))
            progress(file.size // table.groups)
        if records != table.rows:
            raise DataError(f"{file.uri}: {records} rows are there, and {table.rows} in its footer")
    return Shard(uri=file.uri, size=file.size, records=records, schema=schema)


def glance(file: File) -> Shard | None:
    """Rows and schema of a Parquet or Arrow file, from its footer; None for TFRecord files, which have none."""
    try:
        if not file.size or form_of(file) == "tfrecord":
            return None
        with Table(file) as table:
            return Shard(uri=file.uri, size=file.size, records=table.rows, schema=table.words())
    except DataError as error:
        return Shard(uri=file.uri, size=file.size, error=error.message)


def check_shards(files: Iterable[File], progress: Callable[[int], None], done: Path | None = None) -> Iterator[Shard]:
    """Checks the files, some at once. A file that `done` lists as sound, in this size and version, is not read again.

    A file whose place tells no version is read each time. Raises DataError where done cannot be written.
    """
    known = _read_done(done)
    with ThreadPoolExecutor(PARALLEL) as pool:
        futures = []
        for file in files:
            before = known.get(file) if file.version else None
            if before:
                yield before
                progress(file.size)
            else:
                futures.append((file, pool.submit(check_shard, file, progress)))
        try:
            for file, future in futures:
                shard = future.result()
                if done and not shard.error:
                    _write_done(done, file, shard)
                yield shard
        finally:
            pool.shutdown(cancel_futures=True)


def disagreements(shards: list[Shard], manifest: dict[str, int] | None = None) -> list[str]:
    """What is wrong among intact shards: a schema that differs from most, a count that differs from the manifest."""
    problems = []
    schemas = [json.dumps(shard.schema) for shard in shards if shard.records]
    usual = max(set(schemas), key=schemas.count, default="")
    for shard in shards:
        if shard.records and json.dumps(shard.schema) != usual:
            problems.append(f"{shard.uri} has {_words(shard.schema)}, and most have {_words(json.loads(usual))}")
    names = {shard.uri.rsplit("/", 1)[-1]: shard for shard in shards}
    for name, count in (manifest or {}).items():
        if name not in names:
            problems.append(f"{name} is in the manifest, and is not there")
        elif names[name].records != count and not names[name].error:
            problems.append(f"{names[name].uri} has {names[name].records} records, and {count} in the manifest")
    return problems


def balance(files: list[File], workers: int) -> list[int]:
    """Each worker's bytes."""
    if not files:
        return [0] * workers
    splittable = form_of(files[0]) != "tfrecord" or not is_gzipped(files[0])
    return [sum(part.size for part in share) for share in divide(files, workers, splittable=splittable)]


def read_manifest(path: Path) -> dict[str, int]:
    """{file's name: number of records} from a JSON file."""
    try:
        manifest = json.loads(userfile.read_text(path, "--manifest", MOST_LIST_BYTES))
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"--manifest {path}: {error}") from None
    if not isinstance(manifest, dict) or not all(type(count) is int for count in manifest.values()):
        raise ConfigurationError(f"--manifest {path} must be a mapping of files' names to numbers of records")
    return manifest


def without(files: list[File], done: Path) -> list[File]:
    """The files without that of --done, which may be in the same folder and is not data."""
    own = os.path.realpath(done)

    def is_own(file: File) -> bool:
        path = local_path(file.uri)
        is_named_so = os.path.basename(path) in (done.name, os.path.basename(own))  # spares the links of a whole mount
        return is_named_so and isinstance(filesystem_of(file.uri), LocalFiles) and os.path.realpath(path) == own

    return [file for file in files if not is_own(file)]


def _read_done(done: Path | None) -> dict[File, Shard]:
    """The sound shards that the file lists; it is made where it is missing, so that it can be written later.

    Raises ConfigurationError for a file that this command has not written: nothing is added to another's.
    """
    if done is None:
        return {}
    kind = userfile.kind_of(done)
    if kind not in ("", userfile.ABSENT):
        raise ConfigurationError(f"--done {userfile.named(done)} {kind}", hint="name a file")
    text = "" if kind == userfile.ABSENT else userfile.read_text(done, "--done", MOST_LIST_BYTES)
    try:
        if text and not text.strip():
            raise ValueError
        shards = dict(_remembered(json.loads(line)) for line in text.splitlines() if line.strip() and not _is_cut(line))
    except (ValueError, TypeError, RecursionError):
        raise ConfigurationError(
            f"--done {userfile.named(done)} is not what this command writes", hint="name another file, or a new one"
        ) from None
    try:
        with done.open("a") as lines:
            lines.write("\n" if text and not text.endswith("\n") else "")  # after a line that was cut off
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigurationError(f"--done {userfile.named(done)} cannot be written: {reason}") from None
    return shards


def _is_cut(line: str) -> bool:
    """Whether a line of --done was cut off, by a full disk or a kill."""
    return bool(line) and not line.endswith("}") and (line.startswith(DONE_BEGINS) or DONE_BEGINS.startswith(line))


def _write_done(done: Path, file: File, shard: Shard) -> None:
    try:
        with done.open("a") as lines:
            lines.write(json.dumps({**asdict(shard), "version": file.version}) + "\n")
    except OSError as error:
        raise DataError(
            f"--done {userfile.named(done)} cannot be written: {error.strerror}",
            hint="make room there, or name another file",
        ) from None


def _remembered(entry: dict[str, Any]) -> tuple[File, Shard]:
    """A file and its shard from an entry of --done. Raises TypeError for an invalid entry."""
    entry = dict(entry)
    version = entry.pop("version", "")  # older ones have none
    shard = Shard(**entry)
    words = [shard.uri, *shard.schema, *shard.schema.values()] if isinstance(shard.schema, dict) else [None]
    if not all(isinstance(word, str) for word in (*words, version)) or shard.error is not None:
        raise TypeError
    if not all(type(number) is int and number >= 0 for number in (shard.size, shard.records)):
        raise TypeError
    return File(shard.uri, shard.size, version), shard


def _schema(file: File, record: bytes, number: int) -> dict[str, str]:
    where = f"{file.uri}: record {number}"
    try:
        features = decode_example(record)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
    schema = {name: f"{kind_of(values)}[{len(values)}]" for name, values in features.items()}
    for encoding, _, _ in runs_in(features, where).values():
        del schema[encoding.values_key], schema[encoding.run_key]
        schema[encoding.name] = f"float32[{encoding.rows}x{encoding.width}] stored as {encoding.stored} runs"
    return dict(sorted(schema.items()))


def _words(schema: dict[str, str]) -> str:
    words = [f"{named(name)} {kind[:LONGEST_NAME]}" for name, kind in schema.items()]
    rest = [f"and {len(words) - MOST_NAMES} more"] if len(words) > MOST_NAMES else []
    return ", ".join(words[:MOST_NAMES] + rest) or "no features"
