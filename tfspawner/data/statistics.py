"""Statistics of the data: each feature's range, mean and spread, its padding, and the count of each class."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from tfspawner.errors import DataError

from .decoding import read_record
from .encoding import encodings_of, longest_run
from .example import Array, kind_of
from .files import File
from .reading import CHUNK_BYTES, first_record, read_records
from .records import OVERHEAD
from .sharding import Part
from .tables import Columns, Numbers, form_of, read_columns, rows_of

CLASSES = 20  # a feature with more distinct values is not a label
MOST_FEATURES = 100_000
PARALLEL = 2
RECORDS_AT_ONCE_BYTES = 1 << 20
VALUES_AT_ONCE = 1 << 16  # as doubles they fit a processor's cache


@dataclass(slots=True)
class Summary:
    """One feature's statistics: `count` is the number of values; mean and variance are of the finite ones."""

    kind: str = ""  # as long as no record says it: a list without values may be of any
    records: int = 0
    count: int = 0
    shortest: int | None = None  # values in a record
    longest: int = 0
    finite: int = 0
    nan: int = 0
    infinite: int = 0
    minimum: float | None = None
    maximum: float | None = None
    mean: float = 0.0
    squares: float = 0.0  # sum of squared differences from the mean
    rows: int = 0  # where a width is known
    padding: int = 0  # rows of each record's longest run of one repeated row
    classes: Counter[int] | None = field(default_factory=Counter)  # None: no label

    def take(self, flat: Array, lengths: Array, shape: tuple[int, int] | None = None) -> None:
        """Takes in the values of some records, which follow one another in flat."""
        self.kind = self.kind or (kind_of(flat) if len(flat) or flat.dtype != object else "")
        self.records += len(lengths)
        self.count += len(flat)
        shortest = int(lengths.min())
        self.shortest = shortest if self.shortest is None else min(self.shortest, shortest)
        self.longest = max(self.longest, int(lengths.max()))
        if flat.dtype == object or not len(flat):
            self.classes = None if len(flat) else self.classes
            return
        self._label(flat, lengths)
        if shape and flat.dtype in (np.float32, np.float64):
            self._pad(flat, lengths, shape)
        for start in range(0, len(flat), VALUES_AT_ONCE):
            self._measure(flat[start : start + VALUES_AT_ONCE])

    def _pad(self, flat: Array, lengths: Array, shape: tuple[int, int]) -> None:
        for end in np.cumsum(lengths)[lengths == shape[0] * shape[1]].tolist():
            run = longest_run(flat[end - shape[0] * shape[1] : end].reshape(shape))[1]
            self.rows += shape[0]
            self.padding += run if run > 1 else 0

    def _measure(self, values: Array) -> None:
        wide = values.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # of doubles near their largest
            low, high = float(values.min()), float(values.max())
            if not math.isfinite(wide.sum()):  # some value is not finite, or there is too much of them
                real = wide[np.isfinite(wide)]
                nan = int(np.isnan(wide).sum())
                self.nan += nan
                self.infinite += len(wide) - len(real) - nan
                if not len(real):
                    return
                low, high, wide = float(real.min()), float(real.max()), real
            mean = float(wide.mean())
            wide -= mean
            wide *= wide
            self._merge(len(wide), mean, float(wide.sum()), low, high)

    def _merge(self, count: int, mean: float, squares: float, low: float, high: float) -> None:
        """Chan, Golub and LeVeque's sum of two samples."""
        total = self.finite + count
        apart = mean - self.mean
        self.squares += squares + apart * apart * self.finite * count / total
        self.mean += apart * count / total
        self.finite = total
        self.minimum = low if self.minimum is None else min(self.minimum, low)
        self.maximum = high if self.maximum is None else max(self.maximum, high)

    def _label(self, flat: Array, lengths: Array) -> None:
        """Counts the classes: each record's integer, or the place of the one 1 among its zeros."""
        if self.classes is None:
            return
        starts = np.cumsum(lengths) - lengths
        for width in np.unique(lengths[lengths > 0]).tolist():
            labels = None
            if width <= CLASSES:
                labels = _labels(flat[starts[lengths == width][:, None] + np.arange(width)])
            if labels is None:
                self.classes = None
                return
            classes, counts = np.unique(labels, return_counts=True)
            self.classes.update(dict(zip(classes[: CLASSES + 1].tolist(), counts.tolist(), strict=False)))
            if len(self.classes) > CLASSES:
                self.classes = None
                return

    def add(self, other: Summary) -> None:
        """Adds another summary to this one."""
        self.kind = self.kind or other.kind
        self.records += other.records
        self.count += other.count
        shortest = [n for n in (self.shortest, other.shortest) if n is not None]
        self.shortest, self.longest = min(shortest, default=None), max(self.longest, other.longest)
        self.nan += other.nan
        self.infinite += other.infinite
        self.rows += other.rows
        self.padding += other.padding
        if other.finite and other.minimum is not None and other.maximum is not None:
            self._merge(other.finite, other.mean, other.squares, other.minimum, other.maximum)
        both = None if self.classes is None or other.classes is None else self.classes + other.classes
        self.classes = None if both is None or len(both) > CLASSES else both

    def words(self) -> dict[str, Any]:
        """The values to print; None for what does not apply."""
        few = self.classes if self.classes else None
        return {
            "kind": self.kind or "empty",
            "records": self.records,
            "values": self.count,
            "shape": [self.shortest, self.longest],
            "minimum": self.minimum,
            "maximum": self.maximum,
            "mean": _finite(self.mean) if self.finite else None,
            "deviation": _finite((self.squares / self.finite) ** 0.5) if self.finite else None,
            "nan": self.nan,
            "infinite": self.infinite,
            "padding": self.padding / self.rows if self.rows else None,
            "classes": {str(label): few[label] for label in sorted(few)} if few else None,
        }


def _labels(rows: Array) -> Array | None:
    """The label of each record; None if one of them has none."""
    if rows.shape[1] == 1:
        return rows[:, 0] if rows.dtype in (np.int64, np.uint64) else None
    if (np.count_nonzero(rows, axis=1) == 1).all() and (rows.max(axis=1) == 1).all():
        return rows.argmax(axis=1)
    return None


def _finite(value: float) -> float | None:
    """The number, or None if it is too large for a double."""
    return value if math.isfinite(value) else None


def summarize(
    files: list[File], shapes: Mapping[str, tuple[int, int]], progress: Callable[[int], None]
) -> dict[str, Summary]:
    """{feature: its summary} over all files, read whole. Raises DataError for damage."""
    total: dict[str, Summary] = {}
    with ThreadPoolExecutor(PARALLEL) as pool:
        for summaries in pool.map(lambda file: _of_file(file, shapes, progress), files):
            for name, summary in summaries.items():
                total.setdefault(name, Summary()).add(summary)
    return total


def _of_file(file: File, shapes: Mapping[str, tuple[int, int]], progress: Callable[[int], None]) -> dict[str, Summary]:
    summaries: dict[str, Summary] = {}
    known = dict(shapes)
    if file.size and form_of(file) == "tfrecord":
        encodings = encodings_of(first_record(file)[1], file.uri)
        known = {name: (e.rows, e.width) for name, e in encodings.items()} | known
    for name, flat, lengths in _features_of(file):
        summaries.setdefault(name, Summary()).take(flat, lengths, known.get(name))
        if len(summaries) > MOST_FEATURES:
            raise DataError(f"{file.uri}: more than {MOST_FEATURES} features", hint="tf-spawner data head shows them")
    progress(file.size)
    return summaries


def _features_of(file: File) -> Iterator[tuple[str, Array, Array]]:
    """(feature, some records' values, how many each record has) of a whole file, piece by piece."""
    if file.size and form_of(file) != "tfrecord":
        for _, columns in _columns_of(file):
            for name, column in columns.items():
                yield name, column.flat, np.diff(column.ends, prepend=0)
        return
    for block in _blocks(_examples_of(file, CHUNK_BYTES)):
        for name, lists in block.items():
            for _, group in groupby(lists, lambda values: values.dtype):
                some = list(group)
                yield name, np.concatenate(some), np.fromiter(map(len, some), np.int64, len(some))


def _blocks(records: Iterable[tuple[int, dict[str, Array]]]) -> Iterator[dict[str, list[Array]]]:
    """{feature: its values in each record} of some records at a time."""
    block: dict[str, list[Array]] = {}
    held = 0
    for size, record in records:
        for name, values in record.items():
            block.setdefault(name, []).append(values)
            held += values.nbytes  # restored, a tiny record may be large
        held += size
        if held >= RECORDS_AT_ONCE_BYTES:
            yield block
            block, held = {}, 0
    yield block


def records_of(file: File, chunk_bytes: int = CHUNK_BYTES) -> Iterator[dict[str, Array]]:
    """The records of a file of any known form, encoded features restored."""
    if file.size and form_of(file) != "tfrecord":
        for count, columns in _columns_of(file):
            for number in range(count):
                yield {name: column.row(number) for name, column in columns.items()}
        return
    for _, record in _examples_of(file, chunk_bytes):
        yield record


def _columns_of(file: File) -> Iterator[tuple[int, dict[str, Columns]]]:
    """(number of rows, {column: their values}) of a Parquet or Arrow file."""
    whole = Part(file, 0, rows_of(file))
    for _, count, columns in read_columns(whole, nulls="empty", numbers=Numbers(exact=True)):
        yield count, columns


def _examples_of(file: File, chunk_bytes: int) -> Iterator[tuple[int, dict[str, Array]]]:
    """(its bytes, its features, restored) of each record of a TFRecord file."""
    if not file.size:
        return
    reading = read_records(
        [Part(file, 0, file.size)],
        gzipped=first_record(file)[0],
        window_bytes=2 * chunk_bytes,
        chunk_bytes=chunk_bytes,
    )
    number = 0
    for records in reading:
        for record in records:
            yield OVERHEAD + len(record), read_record(record, f"{file.uri}: record {number}")
            number += 1
