"""Parquet and Arrow IPC files as records: opened by ranged reads wherever they lie, columns flattened to features."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ConfigurationError, DataError
from .encoding import Loss
from .example import Array, kind_of
from .filesystems import File, LocalFiles, filesystem_of, local_path
from .reading import read_exactly
from .sharding import Part

MAGIC = {b"PAR1": "parquet", b"ARROW1": "arrow"}
PIECE_BYTES = 1 << 20
PIECES_AT_ONCE = 8
ROWS_AT_ONCE_BYTES = 16 << 20  # of a row group that is written
ROW_BYTES, FEATURE_BYTES = 250, 200  # that Python takes for each, whatever it holds


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
        self.at = offset + (0, self.at, self.file.size)[whence]
        return self.at

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


@dataclass(frozen=True, slots=True)
class Columns:
    """Some rows of one column: each row's values lie one after the other in `flat`."""

    flat: Array
    ends: Array  # where each row ends in flat

    def row(self, number: int) -> Array:
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

                self.parquet = pq.ParquetFile(_source(file), pre_buffer=True, page_checksum_verification=True)
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

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *_: object) -> None:
        if self.form == "parquet":
            self.parquet.close()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """pyarrow's errors as ours."""
        pa = arrow()
        try:
            yield
        except (pa.ArrowException, OSError, EOFError) as error:
            raise DataError(
                f"{self.file.uri} is damaged or cut off: {str(error).splitlines()[0][:200]}", hint="copy the file again"
            ) from None

    def words(self) -> dict[str, str]:
        """{column: its type}; lists by their values' type alone, whatever the format calls these."""
        return {field.name: re.sub(r"<\w+: ", "<", str(field.type)) for field in self.schema}

    def group_rows(self, group: int) -> int:
        """Rows of a group; Arrow files tell them only with the group's data."""
        if self.form == "parquet":
            return int(self.parquet.metadata.row_group(group).num_rows)
        return int(self._batch(group).num_rows)

    def group(self, group: int, names: Sequence[str] | None = None) -> Any:
        """A group's rows as a pyarrow.Table, of all columns or those."""
        with self.errors():
            if self.form == "parquet":
                return self.parquet.read_row_group(group, columns=names, use_threads=False)
            return arrow().Table.from_batches([self._batch(group)]).select(names or self.schema.names)

    def _batch(self, group: int) -> Any:
        """An Arrow file's group; the last is kept, for it is asked for its rows and then for its data."""
        if self.last[0] != group:
            with self.errors():
                self.last = group, self.ipc.get_batch(group)
        return self.last[1]


def _source(file: File) -> Any:
    """The file for pyarrow, which reads local ones by itself."""
    if isinstance(filesystem_of(file.uri), LocalFiles):
        return arrow().memory_map(local_path(file.uri))
    return arrow().PythonFile(RangedFile(file), mode="r")


def rows_of(file: File) -> int:
    """How many rows a Parquet or Arrow file has, by its footer."""
    with Table(file) as table:
        return int(table.rows)


def arrow() -> Any:
    try:
        import pyarrow as pa
        import pyarrow.ipc
    except ImportError:
        raise ConfigurationError("Parquet and Arrow files need pyarrow here", hint="pip install pyarrow") from None
    return pa


def read_columns(
    part: Part, names: Sequence[str] | None = None, *, nulls: str = "error", loss: Loss | None = None
) -> Iterator[tuple[int, int, dict[str, Columns]]]:
    """(first row, number of rows, {name: its values}) of each group of rows of a part, whose start and end are rows.

    Raises DataError for a type that an Example cannot hold, for nulls unless they are to be "empty", and for damage.
    """
    with Table(part.file) as table:
        missing = [name for name in names or [] if name not in table.schema.names]
        if missing:
            raise DataError(f"{part.file.uri} has no column {missing[0]}; it has {', '.join(table.schema.names)}")
        for field in table.schema:
            if names is None or field.name in names:
                kind_in(field.type, field.name, part.file.uri)
        first = 0
        for group in range(table.groups):
            if first >= part.end:
                break
            count = table.group_rows(group)
            low, high = max(part.start - first, 0), min(part.end - first, count)
            if low < high:
                data = table.group(group, names).slice(low, high - low)
                where = f"{part.file.uri}: row {first + low}"
                with table.errors():
                    columns = {
                        name: flattened(data.column(name), name, where, first + low, nulls, loss)
                        for name in data.column_names
                    }
                yield first + low, high - low, columns
            first += count


def kind_in(kind: Any, name: str, uri: str) -> str:
    """The feature's kind that a column's type becomes: "int64", "float32" or "bytes". Raises DataError."""
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
        f"{uri}: the column {name} is of type {kind}, which a tf.train.Example cannot hold",
        hint="numbers, text, bytes and lists of them can be converted",
    )


def flattened(column: Any, name: str, where: str, first: int, nulls: str, loss: Loss | None) -> Columns:
    """A column's values, lists of lists laid end to end; where such inner lists differ in length, that is an error."""
    pa = arrow()
    import pyarrow.compute as pc

    found = column.combine_chunks()
    found = found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
    lengths = np.ones(len(found), np.int64)
    kind = kind_in(found.type, name, where)
    outermost = True
    while pa.types.is_list(found.type) or pa.types.is_large_list(found.type) or pa.types.is_fixed_size_list(found.type):
        if found.null_count:
            found, lengths = _without_nulls(found, lengths, name, where, first, nulls, outermost)
        inner = pc.list_value_length(found).to_numpy(zero_copy_only=False).astype(np.int64)
        if outermost:
            spread = np.zeros(len(lengths), np.int64)
            spread[lengths > 0] = inner
            lengths = spread
        else:
            if len(inner) and (inner != inner[0]).any():
                bad = int(np.searchsorted(np.cumsum(lengths), np.flatnonzero(inner != inner[0])[0], side="right"))
                raise DataError(
                    f"{where.rsplit(' ', 1)[0]} {first + bad}: the column {name} has inner lists of unlike lengths"
                )
            lengths = lengths * (int(inner[0]) if len(inner) else 0)
        found = found.flatten()
        outermost = False
    if found.null_count:
        found, lengths = _without_nulls(found, lengths, name, where, first, nulls, outermost)
    if kind == "bytes":
        flat = np.empty(len(found), object)
        text = pa.types.is_string(found.type) or pa.types.is_large_string(found.type)
        flat[:] = [value.encode() for value in found.to_pylist()] if text else found.to_pylist()
    elif kind == "int64":
        flat = found.cast(pa.int64()).to_numpy(zero_copy_only=False)
    else:
        flat = found.to_numpy(zero_copy_only=False)
        if flat.dtype == np.float64:
            with np.errstate(over="ignore"):
                smaller = flat.astype(np.float32)
            if loss is not None:
                loss.measure(flat, smaller)
            flat = smaller
        flat = flat.astype(np.float32, copy=False)
    return Columns(flat, np.cumsum(lengths))


def _without_nulls(
    found: Any, lengths: Array, name: str, where: str, first: int, nulls: str, outermost: bool
) -> tuple[Any, Array]:
    place = int(np.flatnonzero(found.is_null().to_numpy(zero_copy_only=False))[0])
    row = first + int(np.searchsorted(np.cumsum(lengths), place, side="right"))
    if nulls != "empty" or not outermost:
        raise DataError(
            f"{where.rsplit(' ', 1)[0]} {row}: the column {name} is null" + ("" if outermost else " in a list"),
            hint="--nulls empty makes whole rows' nulls features without values" if outermost else None,
        )
    valid = found.is_valid().to_numpy(zero_copy_only=False)
    return found.drop_null(), lengths * valid


class TableWriter:
    """Writes records to a local Parquet or Arrow file, a list of values a feature; row groups of about 16 MiB."""

    def __init__(self, path: str, form: str) -> None:
        self.path, self.form = path, form
        self.kinds: dict[str, str] = {}
        self.waiting: list[Mapping[str, Array]] = []
        self.held = self.rows = 0
        self.writer: Any = None

    def write(self, record: Mapping[str, Array], where: str) -> None:
        """One record. Raises DataError where its features are not those of the first."""
        if not self.kinds:
            self.kinds = {name: kind_of(values) for name, values in record.items()}
        for name in self.kinds.keys() | record.keys():
            kind = kind_of(record[name]) if name in record else "missing"
            wanted = self.kinds.get(name, "missing")
            if kind != wanted and not (name in record and name in self.kinds and not len(record[name])):
                raise DataError(f"{where}: the feature {name} is {kind}, and {wanted} in the first record")
        self.waiting.append(record)
        self.held += ROW_BYTES + sum(
            FEATURE_BYTES + (values.nbytes if values.dtype != object else sum(map(len, values)) + 8 * len(values))
            for values in record.values()
        )
        if self.held >= ROWS_AT_ONCE_BYTES:
            self._flush()

    def _flush(self) -> None:
        pa = arrow()
        types = {"int64": pa.int64(), "float32": pa.float32(), "bytes": pa.binary()}
        schema = pa.schema([(name, pa.list_(types[kind])) for name, kind in self.kinds.items()])
        if self.writer is None:
            if self.form == "parquet":
                import pyarrow.parquet as pq

                self.writer = pq.ParquetWriter(self.path, schema, compression="zstd", write_page_checksum=True)
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
        if self.waiting or self.writer is None:
            self._flush()
        self.writer.close()
