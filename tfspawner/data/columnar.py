"""Parquet and Arrow files as a tf.data.Dataset."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from tfspawner.errors import ConfigurationError, DataError

from .dataset import Passes, checked, filled, unsharded
from .example import kind_of
from .files import File
from .reading import WINDOW_BYTES
from .sharding import Part, divide, shuffled
from .tables import read_columns, rows_of

if TYPE_CHECKING:
    import tensorflow as tf

FOOTERS_AT_ONCE = 16
GROUPS_AHEAD = 4


def parquet(
    uris: str | Iterable[str],
    features: Mapping[str, Any],
    batch_size: int,
    *,
    seed: int | None = None,
    shuffle_records: int = 0,
    first_epoch: int = 0,
    worker: int | None = None,
    workers: int | None = None,
    drop_remainder: bool = False,
    window_bytes: int = WINDOW_BYTES,
) -> tf.data.Dataset:
    """Parquet and Arrow IPC files as batches, each worker's share of their rows; arguments as of tfrecords.

    Args:
        features: {column: tf.io.FixedLenFeature(shape, dtype)} of float32, int64 or string; lists of lists are laid
            end to end and take the shape, and doubles become float32: one that would become infinite is an error.
        window_bytes: bytes of row groups in memory at most, unpacked and read ahead; one group is always read ahead.

    Returns:
        A dataset of {name: tensor of shape (batch_size, *shape)}. Every row comes to exactly one worker an epoch;
        shares differ by one row, or by 2 % where that spares a file from being split.

    Raises DataError, as tfrecords does, for damage, nulls, other types and rows that do not fill the shape.
    """
    import tensorflow as tf

    worker, workers = checked(batch_size, worker, workers)
    for name, spec in features.items():
        if not isinstance(spec, tf.io.FixedLenFeature) or spec.dtype not in (tf.float32, tf.int64, tf.string):
            raise ConfigurationError(
                f"the feature {name} is {spec}", hint="tf.io.FixedLenFeature of tf.float32, tf.int64 or tf.string"
            )
    sizes = {file.uri: file for file in filled(uris)}
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
        rows = [File(file.uri, n) for file, n in zip(sizes.values(), pool.map(rows_of, sizes.values()), strict=True)]
    rows = [file for file in rows if file.size]
    if not rows:
        raise DataError(f"{uris}: there are no rows")
    shapes = {name: list(spec.shape) for name, spec in features.items()}
    kinds = {name: spec.dtype.name.replace("string", "bytes") for name, spec in features.items()}

    def read(epoch: Any) -> Iterator[dict[str, Any]]:
        ordered = rows if seed is None else shuffled(rows, seed, int(epoch))
        parts = [Part(sizes[p.file.uri], p.start, p.end) for p in divide(ordered, workers)[worker]]
        return read_batches(parts, shapes, kinds, batch_size, window_bytes)

    def batches(epoch: tf.Tensor | None) -> tf.data.Dataset:
        spec = {name: tf.TensorSpec([None, *shapes[name]], features[name].dtype) for name in features}
        whole = passes.generated(read, epoch, spec)
        if epoch is None:
            if not drop_remainder:
                return whole
            fixed = {name: [batch_size, *shapes[name]] for name in features}
            return whole.filter(lambda batch: tf.shape(tf.nest.flatten(batch)[0])[0] == batch_size).map(
                lambda batch: {name: tf.ensure_shape(batch[name], fixed[name]) for name in features}
            )
        records = whole.unbatch().shuffle(shuffle_records, seed=(seed or 0) + epoch, reshuffle_each_iteration=False)
        return records.batch(batch_size, drop_remainder=drop_remainder)

    passes = Passes(first_epoch)
    return passes.dataset(batches, knows_epoch=bool(shuffle_records)).prefetch(2).with_options(unsharded())


def read_batches(
    parts: list[Part], shapes: Mapping[str, list[int]], kinds: Mapping[str, str], batch_size: int, window_bytes: int
) -> Iterator[dict[str, Any]]:
    """{column: array of (batch_size, *shape)} of the rows of parts; the last batch may be smaller."""
    waiting: list[dict[str, Any]] = []
    held = 0
    for arrays in _ahead(_shaped(parts, shapes, kinds), window_bytes):
        waiting.append(arrays)
        held += len(next(iter(arrays.values())))
        if held < batch_size:
            continue
        joined = {name: _joined([some[name] for some in waiting]) for name in shapes}
        whole = held - held % batch_size
        for at in range(0, whole, batch_size):
            yield {name: values[at : at + batch_size] for name, values in joined.items()}
        waiting, held = [{name: values[whole:] for name, values in joined.items()}], held - whole
    if held:
        yield {name: _joined([some[name] for some in waiting]) for name in shapes}


def _joined(arrays: list[Any]) -> Any:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _shaped(parts: list[Part], shapes: Mapping[str, list[int]], kinds: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Each group's rows as arrays of their shapes. Raises DataError for a row that does not fill its shape."""
    for part in parts:
        for first, count, columns in read_columns(part, list(shapes)):
            arrays = {}
            for name, shape in shapes.items():
                flat, ends = columns[name].flat, columns[name].ends
                if kind_of(flat) != kinds[name]:
                    raise DataError(f"{part.file.uri}: the column {name} is {kind_of(flat)}, not {kinds[name]}")
                lengths, size = np.diff(ends, prepend=0), math.prod(shape)
                if (lengths != size).any():
                    row = int(np.flatnonzero(lengths != size)[0])
                    raise DataError(
                        f"{part.file.uri}: row {first + row}: the column {name} has {lengths[row]} values,"
                        f" and the shape {shape} takes {size}"
                    )
                arrays[name] = flat.reshape([count, *shape])
            yield arrays


def _ahead(groups: Iterator[dict[str, Any]], window_bytes: int) -> Iterator[dict[str, Any]]:
    """The same, read ahead by another thread while at most window_bytes wait."""
    ready: deque[Future[Any]] = deque()
    pool = ThreadPoolExecutor(1, thread_name_prefix="tfspawner-read")
    try:
        ready.append(pool.submit(next, groups, None))
        while (arrays := ready.popleft().result()) is not None:
            size = sum(values.nbytes for values in arrays.values())
            while len(ready) < min(GROUPS_AHEAD, max(1, window_bytes // max(1, size) - 1)):
                ready.append(pool.submit(next, groups, None))
            yield arrays
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
