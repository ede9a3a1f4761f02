"""Parquet files of selected events, as ingest.py writes them and as CERN has published them.

Columns: hfeatures list<double>[14] (CERN: a Spark ML vector), lfeatures list<list<double>>[≤ 801][19], label int64
(CERN: also as a folder label=N). Rows of zeros at the end of lfeatures are padding, and may be absent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from physics import CLASSES, HIGH_LEVEL, ROWS, WIDTH, Selected
from ragged import Ragged, starts

from tfspawner.data.files import File
from tfspawner.data.tables import Table
from tfspawner.errors import DataError

ROWS_AT_ONCE = 256
SCHEMA = pa.schema([
    ("hfeatures", pa.list_(pa.float64())),
    ("lfeatures", pa.list_(pa.list_(pa.float64()))),
    ("label", pa.int64()),
])  # fmt: skip


@dataclass(frozen=True, slots=True)
class Batch:
    """Some selected events; `counts` and `particles` are empty where only the high-level features were asked for."""

    labels: np.ndarray  # (events,)
    features: np.ndarray  # (events, 14)
    counts: np.ndarray  # (events,)
    particles: np.ndarray  # (all events' particles, 19)


class Writer:
    """Writes selected events to a local Parquet file; with facts of the file, once they are known, in its footer."""

    def __init__(self, path: Path, label: int, *, padded: bool) -> None:
        self.label, self.padded = label, padded
        self.parquet = pq.ParquetWriter(path, SCHEMA, compression="zstd", write_page_checksum=True)

    def write(self, selected: Selected) -> None:
        counts, particles = selected.counts, selected.particles
        if self.padded:
            counts, particles = np.full(len(counts), ROWS), padded(counts, particles).reshape(-1, WIDTH)
        features = lists(selected.features.ravel(), np.full(len(counts), len(HIGH_LEVEL)))
        rows = lists(lists(particles.ravel(), np.full(len(particles), WIDTH)), counts)
        table = pa.table([features, rows, pa.array(np.full(len(counts), self.label))], schema=SCHEMA)
        self.parquet.write_table(table, row_group_size=ROWS_AT_ONCE)

    def close(self, facts: Mapping[str, str]) -> None:
        self.parquet.add_key_value_metadata(dict(facts))
        self.parquet.close()


def lists(values: np.ndarray | pa.Array, counts: np.ndarray) -> pa.ListArray:
    """The values as lists of so many each."""
    ends = np.concatenate(([0], np.cumsum(counts)))
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(values))


def padded(counts: np.ndarray, particles: np.ndarray) -> np.ndarray:
    """(events, 801, 19): each event's particles, and rows of zeros up to 801."""
    found = np.zeros((len(counts), ROWS, particles.shape[1]))
    rows = Ragged(counts, {})
    found[rows.event, rows.place] = particles
    return found


def facts_of(file: File) -> dict[str, str]:
    """What a file's footer tells of it."""
    with Table(file) as table:
        if table.form != "parquet":
            raise DataError(f"{file.uri} is no Parquet file")
        return {key.decode(): value.decode() for key, value in (table.parquet.metadata.metadata or {}).items()}


def read_selected(file: File, *, particles: bool = True, at_once: int = ROWS_AT_ONCE) -> Iterator[Batch]:
    """The file's events, `at_once` at a time. Raises DataError for what is no such file."""
    with Table(file) as table:
        names = set(table.schema.names)
        for name in ("hfeatures", "lfeatures"):
            if table.form != "parquet" or name not in names:
                raise DataError(f"{file.uri} has no column {name}; it has {', '.join(table.schema.names)}")
        columns = ["hfeatures", *(["lfeatures"] if particles else []), *(["label"] if "label" in names else [])]
        first = 0
        batches = table.parquet.iter_batches(at_once, columns=columns, use_threads=False)
        while True:
            with table.errors():
                batch = next(batches, None)
            if batch is None:
                return
            yield _batch(batch, f"{file.uri}: rows from {first} on", file.uri)
            first += len(batch)


def _batch(batch: pa.RecordBatch, where: str, uri: str) -> Batch:
    labels = _labels(batch, where, uri)
    features = _features(batch["hfeatures"], where)
    if not np.isfinite(features).all():
        raise DataError(f"{where}: hfeatures has values that are not finite")
    if "lfeatures" not in batch.schema.names:
        return Batch(labels, features, np.zeros(len(labels), np.int64), np.zeros((0, WIDTH)))
    counts, particles = _particles(batch["lfeatures"], where)
    return Batch(labels, features, counts, particles)


def _labels(batch: pa.RecordBatch, where: str, uri: str) -> np.ndarray:
    if "label" in batch.schema.names:
        labels = batch["label"].to_numpy(zero_copy_only=False)
    elif named := re.search(r"(?:^|/)label=(\d+)/", uri):
        labels = np.full(len(batch), int(named[1]))
    else:
        raise DataError(f"{uri} has no column label, and lies in no folder label=0, label=1 or label=2")
    if not np.isin(labels, range(len(CLASSES))).all():
        raise DataError(f"{where}: there are other labels than 0, 1 and 2")
    return labels.astype(np.int64)


def _features(column: pa.Array, where: str) -> np.ndarray:
    """(events, 14) of lists of doubles, or of Spark's vectors, dense or sparse."""
    values, place = column, None
    if pa.types.is_struct(column.type):
        values = column.field("values")
        sparse = (column.field("type").to_numpy(zero_copy_only=False) == 0).repeat(_lengths(values))
        place = Ragged(_lengths(values), {}).place
        place[sparse] = column.field("indices").flatten().to_numpy(zero_copy_only=False)
    counts = _lengths(values)
    rows = Ragged(counts, {})
    place = rows.place if place is None else place
    is_full = pa.types.is_struct(column.type) or (counts == len(HIGH_LEVEL)).all()
    if column.null_count or not is_full or (len(place) and place.max() >= len(HIGH_LEVEL)):
        raise DataError(f"{where}: hfeatures are not {len(HIGH_LEVEL)} numbers each")
    found = np.zeros((len(column), len(HIGH_LEVEL)))
    found[rows.event, place] = values.flatten().to_numpy(zero_copy_only=False)
    return found


def _particles(column: pa.Array, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Each event's number of particles, and their rows; padding at the end is left out."""
    counts, rows = _lengths(column), column.flatten()
    if column.null_count or (counts > ROWS).any() or (counts == 0).any() or (_lengths(rows) != WIDTH).any():
        raise DataError(f"{where}: lfeatures are not 1 to {ROWS} rows of {WIDTH} numbers each")
    particles = rows.flatten().to_numpy(zero_copy_only=False).reshape(-1, WIDTH)
    place = Ragged(counts, {}).place
    real = np.maximum.reduceat(np.where(particles.any(axis=1), place + 1, 0), starts(counts))
    return real, particles[place < np.repeat(real, counts)]


def _lengths(column: pa.Array) -> np.ndarray:
    return column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
