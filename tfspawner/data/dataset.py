"""From URIs to a tf.data.Dataset."""

from __future__ import annotations

import itertools
import math
import mmap
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigurationError, DataError
from .encoding import encodings_of, expand, kind_of, stored_features
from .filesystems import File, LocalFiles, filesystem_of, incomplete, list_files, local_path
from .reading import CHUNK_BYTES, WINDOW_BYTES, first_record, read_records
from .records import HEADER, OVERHEAD, boundaries, is_header
from .sharding import Part, divide, shuffled, worker_from

if TYPE_CHECKING:
    import tensorflow as tf

LOCAL_BUFFER_BYTES = 256 << 10  # larger ones leave the processor's cache: half as fast at 4 MiB
LOCAL_FILES_AT_ONCE = 4
LOCAL_BLOCK = 16  # records in turn of each file: one by one, small records take a quarter longer
TAIL_BYTES = 1 << 20
FOOTERS_AT_ONCE = 16
GROUPS_AHEAD = 4


def tfrecords(
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
    """TFRecord files as batches of parsed examples, each worker's share of them.

    Args:
        uris: s3://, https://, paths and mounts; patterns such as s3://bucket/train/part-r-*; folders.
        features: what tf.io.parse_example takes, such as {"x": tf.io.FixedLenFeature([14], tf.float32)}.
        batch_size: records a batch, of this worker; a strategy's fit takes it as the global one, and divides it.
        seed: shuffles the files, anew in each epoch; the order follows from seed and epoch alone.
        shuffle_records: records in the buffer from which each next one is drawn, by the same seed (0 if none is given).
        first_epoch: the epoch that the first pass is, where training goes on from a checkpoint.
        worker, workers: this worker's number and how many share the files; else from TF_CONFIG.
        drop_remainder: leaves out a last batch that is not full.
        window_bytes: bytes of files in memory at most, read ahead and not yet cut into records.

    Returns:
        A dataset of {name: tensor of shape (batch_size, ...)}. Each pass over it is an epoch. Every record comes to
        exactly one worker an epoch; shares differ by one record's bytes, or by 2 % where that spares a file from
        being split. Files that are gzipped are not split.

    Files that `tf-spawner data convert` encoded are known by their first record, and restored.

    Raises DataError (from the dataset: an InvalidArgumentError or UnknownError with its text) for what cannot be
    read or is damaged. Both checksums of each record are looked at.
    """
    import tensorflow as tf

    worker, workers = checked(batch_size, worker, workers)
    files = filled(uris)
    gzipped, first = first_record(files[0])
    encodings = encodings_of(first, files[0].uri)
    wanted = stored_features(features, encodings) if encodings else dict(features)
    local = all(isinstance(filesystem_of(file.uri), LocalFiles) for file in files)
    if local and not gzipped:
        for file in files:
            check_end(file)

    def parts_of(epoch: int) -> list[Part]:
        ordered = files if seed is None else shuffled(files, seed, epoch)
        return divide(ordered, workers, splittable=not gzipped)[worker]

    def read(epoch: Any) -> Iterator[list[bytes]]:
        """The records in lists of batch_size."""
        chunk_bytes = min(CHUNK_BYTES, max(1, window_bytes // 2))
        batch: list[bytes] = []
        for records in read_records(
            parts_of(int(epoch)), gzipped=gzipped, window_bytes=window_bytes, chunk_bytes=chunk_bytes
        ):
            batch += records
            while len(batch) >= batch_size:
                yield batch[:batch_size]
                del batch[:batch_size]
        if batch:
            yield batch

    def stretches(epoch: Any) -> Iterator[tuple[str, int, int]]:
        for part in parts_of(int(epoch)):
            yield local_path(part.file.uri), *_whole_records(part)

    def from_disk(epoch: tf.Tensor | None) -> tf.data.Dataset:
        spec = (tf.TensorSpec((), tf.string), tf.TensorSpec((), tf.int64), tf.TensorSpec((), tf.int64))
        parts = passes.generated(stretches, epoch, spec)
        return parts.interleave(
            lambda path, offset, count: _native(path, offset, "GZIP" if gzipped else "").take(count),
            block_length=LOCAL_BLOCK, cycle_length=LOCAL_FILES_AT_ONCE, num_parallel_calls=LOCAL_FILES_AT_ONCE, deterministic=True,
        )  # fmt: skip

    def from_afar(epoch: tf.Tensor | None) -> tf.data.Dataset:
        return passes.generated(read, epoch, tf.TensorSpec((None,), tf.string))

    def batches(epoch: tf.Tensor | None) -> tf.data.Dataset:
        if not local and not shuffle_records:  # as they come: to take them apart and together again costs much
            whole = from_afar(epoch)
            return whole.filter(lambda batch: tf.size(batch) == batch_size) if drop_remainder else whole
        records = from_disk(epoch) if local else from_afar(epoch).unbatch()
        if epoch is not None:
            records = records.shuffle(shuffle_records, seed=(seed or 0) + epoch, reshuffle_each_iteration=False)
        return records.batch(batch_size, drop_remainder=drop_remainder)

    def parse(batch: tf.Tensor) -> dict[str, tf.Tensor]:
        if drop_remainder:
            batch = tf.ensure_shape(batch, (batch_size,))
        parsed = tf.io.parse_example(batch, wanted)
        return expand(parsed, features, encodings) if encodings else parsed

    passes = Passes(first_epoch)
    found = passes.dataset(batches, knows_epoch=bool(shuffle_records))
    return found.map(parse, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2).with_options(unsharded())


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
            end to end and take the shape, and doubles become float32.
        window_bytes: bytes of row groups in memory at most, unpacked and read ahead; one group is always read ahead.

    Returns:
        A dataset of {name: tensor of shape (batch_size, *shape)}. Every row comes to exactly one worker an epoch;
        shares differ by one row, or by 2 % where that spares a file from being split.

    Raises DataError, as tfrecords does, for damage, nulls, other types and rows that do not fill the shape.
    """
    import tensorflow as tf

    from .tables import rows_of

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
        records = whole.unbatch().shuffle(
            shuffle_records, seed=(seed or 0) + epoch, reshuffle_each_iteration=False
        )  # fmt: skip
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
    from .tables import read_columns

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
    """The same, read ahead by a thread of its own while no more than window_bytes wait."""
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


class Passes:
    """Counts the passes over a dataset, each of which is an epoch, and makes datasets that know which it is."""

    def __init__(self, first_epoch: int) -> None:
        self.count = itertools.count(first_epoch)

    def generated(
        self, of_epoch: Callable[[Any], Iterator[Any]], epoch: tf.Tensor | None, spec: Any
    ) -> tf.data.Dataset:
        """What of_epoch yields for that epoch, or else for the next."""
        import tensorflow as tf

        if epoch is None:
            return tf.data.Dataset.from_generator(lambda: of_epoch(next(self.count)), output_signature=spec)
        return tf.data.Dataset.from_generator(of_epoch, args=(epoch,), output_signature=spec)

    def dataset(self, batches: Callable[[tf.Tensor | None], tf.data.Dataset], *, knows_epoch: bool) -> tf.data.Dataset:
        """The dataset of batches(epoch); of batches(None) where only the generator has to know it."""
        import tensorflow as tf

        if not knows_epoch:
            return batches(None)
        epochs = tf.data.Dataset.from_generator(
            lambda: iter([next(self.count)]), output_signature=tf.TensorSpec((), tf.int64)
        )
        return epochs.flat_map(batches)


def checked(batch_size: int, worker: int | None, workers: int | None) -> tuple[int, int]:
    """(worker, workers), from TF_CONFIG where they are not given. Raises ConfigurationError for nonsense."""
    if batch_size < 1:
        raise ConfigurationError(f"batch_size is {batch_size}; it must be 1 or more")
    if workers is None:
        worker, workers = worker_from(os.environ)
    if worker is None or not 0 <= worker < workers:
        raise ConfigurationError(f"worker is {worker}; it must be 0 to {workers - 1}")
    return worker, workers


def filled(uris: str | Iterable[str]) -> list[File]:
    """The files of the URIs that are not empty. Raises DataError for none."""
    files = [file for file in list_files(uris) if file.size]
    missing = incomplete(files, uris)
    if missing:
        raise DataError(missing[0], hint="run tf-spawner data convert again; or name the files that are to be read")
    if not files:
        raise DataError(f"{uris}: all files there are empty")
    return files


def unsharded() -> tf.data.Options:
    """TensorFlow does not divide the data over workers again."""
    import tensorflow as tf

    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return options


def _native(path: tf.Tensor, offset: tf.Tensor, compression: str) -> tf.data.Dataset:
    """TensorFlow's own reader of a local file, from a record's first byte on."""
    import tensorflow as tf

    source = tf.raw_ops.TFRecordDatasetV2(
        filenames=[path], compression_type=compression, buffer_size=LOCAL_BUFFER_BYTES, byte_offsets=[offset]
    )
    return tf.data.experimental.from_variant(source, tf.TensorSpec((), tf.string))


def _whole_records(part: Part) -> tuple[int, int]:
    """(first record's byte, number of records; -1 for all to the file's end) of a part of a local file."""
    if part.end == part.file.size and part.start == 0:
        return 0, -1
    with open(local_path(part.file.uri), "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        here, count = _first_record(data, part.start, part.file), 0
        first = here
        while here < part.end:
            here += _length_at(data, here, part.file)
            count += 1
        return first, count


def _length_at(data: Any, here: int, file: File) -> int:
    header = data[here : here + HEADER.size]
    if len(header) < HEADER.size:
        raise DataError(
            f"{file.uri} is cut off: the record at byte {here} ends after {len(header)} bytes",
            hint="copy the file again",
        )
    if not is_header(header):
        raise DataError(f"{file.uri} is damaged: no record begins at byte {here}", hint="tf-spawner data check")
    return OVERHEAD + int(HEADER.unpack(header)[0])


def _first_record(data: Any, start: int, file: File) -> int:
    """The first byte from start on where a record begins; the file's size where none does."""
    if start == 0:
        return 0
    for low in range(start, file.size, TAIL_BYTES):
        for place in boundaries(data[low : low + TAIL_BYTES + HEADER.size - 1]):
            end = low + place + OVERHEAD + HEADER.unpack_from(data, low + place)[0]
            if end == file.size or (end < file.size and is_header(data[end : end + HEADER.size])):
                return low + int(place)
    return file.size


def check_end(file: File) -> None:
    """Raises DataError where a local file is cut off: TensorFlow takes a cut inside a record's header for the end."""
    size = file.size
    with open(local_path(file.uri), "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        reach = TAIL_BYTES
        while True:
            start = max(0, size - reach)
            here = _first_record(data, start, file)
            if here < size or start == 0:
                break
            reach *= 8
        while here < size:
            last, here = here, here + _length_at(data, here, file)
        if here > size:
            raise DataError(
                f"{file.uri} is cut off: the record at byte {last} should reach to byte {here}, and the file has {size}",
                hint="copy the file again",
            )


__all__ = ["check_end", "parquet", "tfrecords"]
