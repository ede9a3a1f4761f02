"""What is in the data: per feature its numbers' range, mean and spread, how much is padding, how many of each class."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfspawner.errors import DataError

from .encoding import encodings_of, longest_run, read_record
from .example import Array, kind_of
from .files import File
from .reading import CHUNK_BYTES, first_record, read_records
from .sharding import Part
from .tables import Numbers, form_of, read_columns, rows_of

CLASSES = 20  # with more distinct values a feature is no label
MOST_FEATURES = 100_000
PARALLEL = 2


@dataclass(slots=True)
class Summary:
    """Of one feature: `count` is of values; mean and variance are of those that are finite."""

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

    def take(self, values: Array, shape: tuple[int, int] | None) -> None:
        """Takes in one record's values."""
        self.kind = self.kind or (kind_of(values) if len(values) or values.dtype != object else "")
        self.records += 1
        self.count += len(values)
        self.shortest = len(values) if self.shortest is None else min(self.shortest, len(values))
        self.longest = max(self.longest, len(values))
        if values.dtype == object or not len(values):
            self.classes = None if len(values) else self.classes
            return
        self._label(values)
        if shape and shape[0] * shape[1] == len(values) and values.dtype in (np.float32, np.float64):
            run = longest_run(values.reshape(shape))[1]
            self.rows += shape[0]
            self.padding += run if run > 1 else 0
        wide = values.astype(np.float64)
        real = wide[np.isfinite(wide)]
        nan = int(np.isnan(wide).sum())
        self.nan += nan
        self.infinite += len(wide) - len(real) - nan
        if len(real):
            with np.errstate(over="ignore", invalid="ignore"):  # of doubles near their largest
                mean = float(real.mean())
                squares = float(((real - mean) ** 2).sum())
            self._merge(len(real), mean, squares, real.min().item(), real.max().item())

    def _merge(self, count: int, mean: float, squares: float, low: float, high: float) -> None:
        """Chan, Golub and LeVeque's sum of two samples."""
        total = self.finite + count
        apart = mean - self.mean
        self.squares += squares + apart * apart * self.finite * count / total
        self.mean += apart * count / total
        self.finite = total
        self.minimum = low if self.minimum is None else min(self.minimum, low)
        self.maximum = high if self.maximum is None else max(self.maximum, high)

    def _label(self, values: Array) -> None:
        """Counts the class: an integer, or the place of the one 1 among zeros."""
        if self.classes is None:
            return
        label: int | None = None
        if len(values) == 1 and values.dtype in (np.int64, np.uint64):
            label = int(values[0])
        elif 2 <= len(values) <= CLASSES and np.count_nonzero(values) == 1 and values.max() == 1:
            label = int(values.argmax())
        if label is None:
            self.classes = None
            return
        self.classes[label] += 1
        if len(self.classes) > CLASSES:
            self.classes = None

    def add(self, other: Summary) -> None:
        """The summary of both."""
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
        """For printing; None for what does not apply."""
        few = self.classes if self.classes else None
        return {
            "kind": self.kind or "empty", "records": self.records, "values": self.count,
            "shape": [self.shortest, self.longest], "minimum": self.minimum, "maximum": self.maximum,
            "mean": _finite(self.mean) if self.finite else None,
            "deviation": _finite((self.squares / self.finite) ** 0.5) if self.finite else None,
            "nan": self.nan, "infinite": self.infinite,
            "padding": self.padding / self.rows if self.rows else None,
            "classes": {str(label): few[label] for label in sorted(few)} if few else None,
        }  # fmt: skip


def _finite(value: float) -> float | None:
    """None for what has grown beyond a double."""
    return value if math.isfinite(value) else None


def summarize(
    files: list[File], shapes: Mapping[str, tuple[int, int]], progress: Callable[[int], None]
) -> dict[str, Summary]:
    """{feature: its summary} over all files, read whole. Raises DataError for damage."""
    total: dict[str, Summary] = {}
    with ThreadPoolExecutor(PARALLEL) as pool:
        for found in pool.map(lambda file: _of_file(file, shapes, progress), files):
            for name, summary in found.items():
                total.setdefault(name, Summary()).add(summary)
    return total


def _of_file(file: File, shapes: Mapping[str, tuple[int, int]], progress: Callable[[int], None]) -> dict[str, Summary]:
    found: dict[str, Summary] = {}
    known = dict(shapes)
    if file.size and form_of(file) == "tfrecord":
        encodings = encodings_of(first_record(file)[1], file.uri)
        known = {name: (e.rows, e.width) for name, e in encodings.items()} | known
    for record in records_of(file):
        for name, values in record.items():
            found.setdefault(name, Summary()).take(values, known.get(name))
        if len(found) > MOST_FEATURES:
            raise DataError(f"{file.uri}: more than {MOST_FEATURES} features", hint="tf-spawner data head shows them")
    progress(file.size)
    return found


def records_of(file: File, chunk_bytes: int = CHUNK_BYTES) -> Iterator[dict[str, Array]]:
    """The records of a file of any known form, encoded features restored."""
    if not file.size:
        return
    if form_of(file) != "tfrecord":
        for _, count, columns in read_columns(Part(file, 0, rows_of(file)), nulls="empty", numbers=Numbers(exact=True)):
            for number in range(count):
                yield {name: column.row(number) for name, column in columns.items()}
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
            yield read_record(record, f"{file.uri}: record {number}")
            number += 1
