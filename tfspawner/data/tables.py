"""Parquet and Arrow IPC files as records: opened by ranged reads wherever they lie, columns flattened to features."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfspawner.errors import ConfigurationError, DataError

from .encoding import Loss
from .example import LONGEST_NAME, Array, kind_of, named, names_of
from .files import File
from .filesystems import LocalFiles, filesystem_of, local_path
from .reading import read_exactly
from .sharding import Part

MAGIC = {b"PAR1": "parquet", b"ARROW1": "arrow"}
PIECE_BYTES = 1 << 20
PIECES_AT_ONCE = 8
ROWS_AT_ONCE_BYTES = 16 << 20  # of a row group that is written
ROW_BYTES, FEATURE_BYTES = 250, 200  # that Python takes for each, whatever it holds
BATCH_BYTES = 64 << 20  # of a Parquet file's rows, unpacked, that are read at once
MOST_INT64 = (1 << 63) - 1
FOOTER_LIMITS = {"thrift_string_size_limit": 16 << 20, "thrift_container_size_limit": 200_000}


def form_of(file: File) -> str:
    """ "parquet", "arrow" or "tfrecord", by the file's first bytes."""
    head = read_exactly(file, 0, min(6, file.size))
    return next((form for magic, form in MAGIC.items() if head.startswith(magic)), "tfrecord")


class RangedFile(io.RawIOBase):
    """A file anywhere, as a seekable stream."""

    def __init__(self, file: File) -> None:
        self.file, self.at = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = max(0, offset + (0, self.at, self.file.size)[whence])
        return self.at

    def read(self, size: int = -1) -> bytes | None:
        """As other files; takes no more memory than the file has bytes left, whatever is asked for."""
        left = max(0, self.file.size - self.at)
        return super().read(left if size < 0 else min(size, left))

    def readinto(self, buffer: Any) -> int:
        size = max(0, min(len(buffer), self.file.size - self.at))
        starts = range(0, size, PIECE_BYTES)

        def fill(start: int) -> None:
            end = min(start + PIECE_BYTES, size)
            buffer[start:end] = read_exactly(self.file, self.at + start, end - start)

        if len(starts) > 1:
            with ThreadPoolExecutor(min(PIECES_AT_ONCE, len(starts))) as pool:
                list(pool.map(fill, starts))
        elif size:
            fill(0)
        self.at += size
        return size


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """What to do with numbers that do not fit a tf.train.Example, which has int64 and float32."""

    exact: bool = False  # doubles and uint64 are kept, for display
    overflow: bool = False  # doubles may become infinite
    loss: Loss | None = (
        None  # of doubles, so far; it is measured where it is asked for, as that costs more than the reading
    )


@dataclass(frozen=True, slots=True)
class Columns:
    """Some rows of one column: the rows' values follow one another in `flat`."""

    flat: Array
    ends: Array  # where each row ends in flat

    def row(self, number: int) -> Array:
        """One row's values."""
        return self.flat[self.ends[number - 1] if number else 0 : self.ends[number]]


class Table:
    """An open Parquet or Arrow IPC file; its rows come in groups. Use as a context manager."""

    def __init__(self, file: File) -> None:
        pa = arrow()
        self.file, self.form = file, form_of(file)
        self.last: tuple[int, Any] = -1, None
        with self.errors():
            if self.form == "parquet":
                import pyarrow.parquet as pq

                self.parquet = pq.ParquetFile(
                    _source(file), pre_buffer=True, page_checksum_verification=True, **FOOTER_LIMITS
                )
                self.schema = self.parquet.schema_arrow
                self.rows = self.parquet.metadata.num_rows
                self.groups = self.parquet.num_row_groups
            elif self.form == "arrow":
                self.ipc = pa.ipc.open_file(_source(file))
                self.schema = self.ipc.schema
                self.rows = self.ipc.count_rows()
                self.groups = self.ipc.num_record_batches
            else:
                raise DataError(f"{file.uri} is neither a Parquet nor an Arrow file")
            self._check_footer()

    def _check_footer(self) -> None:
        names = self.schema.names
        twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
        if twice is not None:
            raise DataError(f"{self.file.uri} has the column {named(twice)} twice")
        counts = [self.group_rows(group) for group in range(self.groups)] if self.form == "parquet" else [self.rows]
        if min(counts, default=0) < 0 or sum(counts) != self.rows:
            raise DataError(
                f"{self.file.uri} is damaged or cut off: its footer tells of {self.rows} rows, "
                f"and {sum(counts)} in groups",
                hint="copy the file again",
            )
        self.words()

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *_: object) -> None:
        if self.form == "parquet":
            self.parquet.close()

    @contextmanager
    def errors(self, place: str = "") -> Iterator[None]:
        """Translates pyarrow's errors into ours."""
        pa = arrow()
        try:
            yield
        except (pa.ArrowException, OSError, EOFError, MemoryError, UnicodeError, OverflowError) as error:
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            reason = "".join(c if c.isprintable() else "?" for c in reason[:200])
            raise DataError(
                f"{self.file.uri} is damaged or cut off{place}: {reason}", hint="copy the file again"
            ) from None

    def words(self) -> dict[str, str]:
        """{column: its type}; lists by the type of their values, whatever the format calls them."""
        return {field.name: re.sub(r"<\w+: ", "<", str(field.type)) for field in self.schema}

    def group_rows(self, group: int) -> int:
        """A group's number of rows; an Arrow file has it only with the group's data."""
        if self.form == "parquet":
            return int(self.parquet.metadata.row_group(group).num_rows)
        return int(self._batch(group).num_rows)

    def batches(self, group: int, names: Sequence[str] | None = None) -> Iterator[Any]:
        """A group's rows as pyarrow.Tables of all columns or those; each is looked through before it is used.

        Offsets of lists and texts that lead out of their bytes would otherwise crash whoever follows them.
        """
        count, done = self.group_rows(group), 0
        reading = self._unchecked(group, names)
        while True:
            with self.errors(f" in its rows from {done} of group {group} on"):
                batch = next(reading, None)
                if batch is None:
                    break
                batch.validate(full=True)
            done += batch.num_rows
            yield batch
        if done != count:
            raise DataError(f"{self.file.uri} is damaged or cut off: group {group} has {done} rows, not {count}")

    def _unchecked(self, group: int, names: Sequence[str] | None) -> Iterator[Any]:
        table = arrow().Table
        if self.form == "arrow":
            yield table.from_batches([self._batch(group)]).select(names or self.schema.names)
            return
        size = self._rows_at_once(group)
        for batch in self.parquet.iter_batches(size, row_groups=[group], columns=names, use_threads=False):
            yield table.from_batches([batch])

    def _rows_at_once(self, group: int) -> int:
        """How many rows of a Parquet group may be unpacked at once: a few bytes may stand for millions of rows.

        What a footer says of single columns is not asked for: pyarrow 26 aborts the process where that is damaged.
        """
        row_group = self.parquet.metadata.row_group(group)
        rows = max(1, row_group.num_rows)
        return int(
            min(
                rows, max(1, BATCH_BYTES * rows // max(1, row_group.total_byte_size + 8 * row_group.num_columns * rows))
            )
        )

    def _batch(self, group: int) -> Any:
        """An Arrow file's group. The last one is kept: its number of rows is needed, and then its data."""
        if self.last[0] != group:
            with self.errors(f" in group {group}"):
                self.last = group, self.ipc.get_batch(group)
        return self.last[1]


def _source(file: File) -> Any:
    """The file in a form that pyarrow reads; it opens local files itself."""
    if isinstance(filesystem_of(file.uri), LocalFiles):
        return arrow().memory_map(local_path(file.uri))
    return arrow().PythonFile(RangedFile(file), mode="r")


def rows_of(file: File) -> int:
    """How many rows a Parquet or Arrow file has, by its footer."""
    with Table(file) as table:
        return int(table.rows)


def arrow() -> Any:
    """The pyarrow module. Raises ConfigurationError if it is not installed."""
    try:
        import pyarrow as pa
        import pyarrow.ipc
    except ImportError:
        raise ConfigurationError("Parquet and Arrow files need pyarrow here", hint="pip install pyarrow") from None
    return pa


def read_columns(
    part: Part, names: Sequence[str] | None = None, *, nulls: str = "error", numbers: Numbers | None = None
) -> Iterator[tuple[int, int, dict[str, Columns]]]:
    """(first row, number of rows, {name: its values}) of each group of rows of a part, whose start and end are rows.

    Raises DataError for a type or a number that an Example cannot hold, for nulls unless they are to be "empty", and
    for damage.
    """
    numbers = numbers or Numbers()
    with Table(part.file) as table:
        missing = [name for name in names or [] if name not in table.schema.names]
        if missing:
            raise DataError(f"{part.file.uri} has no column {missing[0]}; it has {names_of(table.schema.names)}")
        for field in table.schema:
            if names is None or field.name in names:
                kind_in(field.type, field.name, part.file.uri)
        first = 0
        for group in range(table.groups):
            if first >= part.end:
                break
            count = table.group_rows(group)
            low, high = max(part.start - first, 0), min(part.end - first, count)
            at = first
            for data in table.batches(group, names) if low < high else ():
                begin, end = max(low + first, at), min(high + first, at + data.num_rows)
                if begin < end:
                    piece = data.slice(begin - at, end - begin)
                    yield begin, end - begin, _columns(table, piece, begin, nulls, numbers)
                at += data.num_rows
            first += count


def _columns(table: Table, data: Any, first: int, nulls: str, numbers: Numbers) -> dict[str, Columns]:
    where = f"{table.file.uri}: row {first}"
    with table.errors(f" at row {first} or behind it"):
        return {name: flattened(data.column(name), name, where, first, nulls, numbers) for name in data.column_names}


def kind_in(kind: Any, name: str, uri: str) -> str:
    """The kind of feature for a column's type: "int64", "float32" or "bytes". Raises DataError."""
    types = arrow().types
    inner = kind
    while types.is_list(inner) or types.is_large_list(inner) or types.is_fixed_size_list(inner):
        inner = inner.value_type
    if types.is_integer(inner) or types.is_boolean(inner):
        return "int64"
    if types.is_floating(inner):
        return "float32"
    if types.is_binary(inner) or types.is_string(inner) or types.is_large_binary(inner) or types.is_large_string(inner):
        return "bytes"
    raise DataError(
        f"{uri}: the column {named(name)} is of type {str(kind)[:LONGEST_NAME]}, which a tf.train.Example cannot hold",
        hint="numbers, text, bytes and lists of them can be converted",
    )


def flattened(column: Any, name: str, where: str, first: int, nulls: str, numbers: Numbers) -> Columns:
    """A column's values, with lists of lists flattened. Inner lists of different lengths are an error."""
    pa = arrow()
    import pyarrow.compute as pc

    values = column.combine_chunks()
    values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    lengths = np.ones(len(values), np.int64)
    kind = kind_in(values.type, name, where)
    outermost = True
    while (
        pa.types.is_list(values.type) or pa.types.is_large_list(values.type) or pa.types.is_fixed_size_list(values.type)
    ):
        if values.null_count:
            values, lengths = _without_nulls(values, lengths, name, where, first, nulls, outermost)
        inner = pc.list_value_length(values).to_numpy(zero_copy_only=False).astype(np.int64)
        if outermost:
            spread = np.zeros(len(lengths), np.int64)
            spread[lengths > 0] = inner
            lengths = spread
        else:
            if len(inner) and (inner != inner[0]).any():
                row = _row(where, first, lengths, int(np.flatnonzero(inner != inner[0])[0]))
                raise DataError(f"{row}: the column {named(name)} has inner lists of unlike lengths")
            lengths = lengths * (int(inner[0]) if len(inner) else 0)
        values = values.flatten()
        outermost = False
    if values.null_count:
        values, lengths = _without_nulls(values, lengths, name, where, first, nulls, outermost)
    if kind == "bytes":
        flat = np.empty(len(values), object)
        text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
        flat[:] = [value.encode() for value in values.to_pylist()] if text else values.to_pylist()
    else:
        flat = values.cast(pa.int64()) if pa.types.is_boolean(values.type) else values
        flat = flat.to_numpy(zero_copy_only=False)
    if kind != "bytes" and not (numbers.exact and flat.dtype in (np.float64, np.uint64)):
        flat = _narrowed(
            flat, kind, numbers, lambda place: f"{_row(where, first, lengths, place)}: the column {named(name)}"
        )
    return Columns(flat, np.cumsum(lengths))


def _narrowed(flat: Array, kind: str, numbers: Numbers, at: Callable[[int], str]) -> Array:
    """Numbers in an Example's types. Raises DataError for one that does not fit."""
    if flat.dtype == np.uint64 and (large := flat > np.uint64(MOST_INT64)).any():
        place = int(np.flatnonzero(large)[0])
        raise DataError(
            f"{at(place)} has {flat[place]}, and the integers of a tf.train.Example are int64: at most {MOST_INT64}",
            hint="make the column text, or doubles, where it is written",
        )
    with np.errstate(over="ignore"):
        narrowed = flat.astype(kind, copy=False)
    if flat.dtype == np.float64:
        lost = np.flatnonzero(np.isinf(narrowed))
        lost = lost[np.isfinite(flat[lost])]
        if len(lost) and not numbers.overflow:
            raise DataError(
                f"{at(int(lost[0]))} has {flat[lost[0]]:g}, which becomes infinite in float32, "
                "the floats of a tf.train.Example",
                hint="tf-spawner data convert --overflow lets such values become infinite",
            )
        if numbers.loss is not None:
            numbers.loss.measure(flat, narrowed)
    return narrowed


def _row(where: str, first: int, lengths: Array, place: int) -> str:
    """The file and the row that the value at that place belongs to."""
    return f"{where.rsplit(' ', 1)[0]} {first + int(np.searchsorted(np.cumsum(lengths), place, side='right'))}"


def _without_nulls(
    values: Any, lengths: Array, name: str, where: str, first: int, nulls: str, outermost: bool
) -> tuple[Any, Array]:
    place = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
    if nulls != "empty" or not outermost:
        raise DataError(
            f"{_row(where, first, lengths, place)}: the column {named(name)} is null"
            + ("" if outermost else " in a list"),
            hint="--nulls empty makes whole rows' nulls features without values" if outermost else None,
        )
    valid = values.is_valid().to_numpy(zero_copy_only=False)
    return values.drop_null(), lengths * valid


class TableWriter:
    """Writes records to a local Parquet or Arrow file, a list of values a feature; row groups of about 16 MiB."""

    def __init__(self, path: str, form: str) -> None:
        self.path, self.form = path, form
        self.kinds: dict[str, str] = {}
        self.waiting: list[Mapping[str, Array]] = []
        self.held = self.rows = 0
        self.writer: Any = None

    def write(self, record: Mapping[str, Array], where: str) -> None:
        """Writes one record. Raises DataError if its features are not those of the first one."""
        if not self.kinds:
            self.kinds = {name: kind_of(values) for name, values in record.items()}
        if self.kinds != {name: kind_of(values) for name, values in record.items()}:
            self._check(record, where)
        self.waiting.append(record)
        self.held += ROW_BYTES + sum(
            FEATURE_BYTES + (values.nbytes if values.dtype != object else sum(map(len, values)) + 8 * len(values))
            for values in record.values()
        )
        if self.held >= ROWS_AT_ONCE_BYTES:
            self._flush()

    def _check(self, record: Mapping[str, Array], where: str) -> None:
        """Raises DataError if a feature differs from the first record's; one without values fits any kind."""
        for name in {**self.kinds, **record}:
            kind = kind_of(record[name]) if name in record else "missing"
            expected = self.kinds.get(name, "missing")
            if kind != expected and not (name in record and name in self.kinds and not len(record[name])):
                raise DataError(f"{where}: the feature {named(name)} is {kind}, and {expected} in the first record")

    def _flush(self) -> None:
        pa = arrow()
        types = {"int64": pa.int64(), "float32": pa.float32(), "bytes": pa.binary()}
        schema = pa.schema([(name, pa.list_(types[kind])) for name, kind in self.kinds.items()])
        if self.writer is None:
            if self.form == "parquet":
                import pyarrow.parquet as pq

                repeated = [f"{name}.list.element" for name, kind in self.kinds.items() if kind != "float32"]
                self.writer = pq.ParquetWriter(
                    self.path, schema, compression="zstd", use_dictionary=repeated, write_page_checksum=True
                )
            else:
                self.writer = pa.ipc.new_file(self.path, schema)
        arrays = []
        for name, kind in self.kinds.items():
            values = [record[name] for record in self.waiting]
            ends = np.cumsum([0, *map(len, values)])
            flat = np.concatenate([v.astype(object if kind == "bytes" else kind, copy=False) for v in values] or [[]])
            arrays.append(pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(flat, types[kind])))
        if self.waiting:
            self.writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
        self.rows += len(self.waiting)
        self.waiting, self.held = [], 0

    def close(self) -> None:
        """Writes the pending rows and the file's end; a table without rows still gets its columns."""
        if self.waiting or self.writer is None:
            self._flush()
        self.writer.close()
