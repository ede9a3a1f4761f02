"""From URIs to a tf.data.Dataset."""

from __future__ import annotations

import itertools
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfspawner.errors import ConfigurationError, DataError

from .cache import Cache
from .encoding import encodings_of, expand, stored_features
from .files import File
from .filesystems import LocalFiles, filesystem_of, incomplete, list_files, local_path
from .reading import CHUNK_BYTES, WINDOW_BYTES, first_record, read_records
from .records import HEADER, OVERHEAD, boundaries, is_header
from .sharding import Part, divide, shuffled, worker_from

if TYPE_CHECKING:
    import tensorflow as tf

LOCAL_BUFFER_BYTES = 256 << 10  # larger ones leave the processor's cache: half as fast at 4 MiB
LOCAL_FILES_AT_ONCE = 4
LOCAL_BLOCK = 16  # records in turn of each file: one by one, small records take a quarter longer
TAIL_BYTES = 1 << 20


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
    cache: str | Path | None = None,
    cache_bytes: int = 64 << 30,
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
        window_bytes: bytes of files in memory at most, read ahead and not yet cut into records. The process grows by
            up to twice that, whatever the files' sizes.
        cache: a folder on this machine's disk that keeps what comes from afar, for the next pass and for the other
            processes here that name the same folder. Kept by version where the place tells one, as S3 does.
        cache_bytes: what the folder holds at most; a full one keeps what it has.

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
    specs = stored_features(features, encodings) if encodings else dict(features)
    local = all(isinstance(filesystem_of(file.uri), LocalFiles) for file in files)
    if local and not gzipped:
        for file in files:
            check_end(file)
    passes = Passes(first_epoch)
    share = _Share(
        files=files,
        gzipped=gzipped,
        batch_size=batch_size,
        seed=seed,
        worker=worker,
        workers=workers,
        window_bytes=window_bytes,
        read=Cache(Path(cache), cache_bytes, files).read if cache and not local else None,
        passes=passes,
        first_epoch=first_epoch,
    )

    def batches(epoch: tf.Tensor | None) -> tf.data.Dataset:
        if not local and not shuffle_records:  # as they come: to take them apart and together again costs much
            whole = share.from_afar(epoch)
            return whole.filter(lambda batch: tf.size(batch) == batch_size) if drop_remainder else whole
        records = share.from_disk(epoch) if local else share.from_afar(epoch).unbatch()
        if epoch is not None:
            records = records.shuffle(shuffle_records, seed=(seed or 0) + epoch, reshuffle_each_iteration=False)
        return records.batch(batch_size, drop_remainder=drop_remainder)

    def parse(batch: tf.Tensor) -> dict[str, tf.Tensor]:
        if drop_remainder:
            batch = tf.ensure_shape(batch, (batch_size,))
        parsed = tf.io.parse_example(batch, specs)
        return expand(parsed, features, encodings) if encodings else parsed

    dataset = passes.dataset(batches, knows_epoch=bool(shuffle_records))
    return dataset.map(parse, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2).with_options(unsharded())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Share:
    """A worker's share of the files, and how its records are read."""

    files: list[File]
    gzipped: bool
    batch_size: int
    seed: int | None
    worker: int
    workers: int
    window_bytes: int
    read: Callable[..., bytes] | None  # through a cache, if there is one
    passes: Passes
    first_epoch: int

    def parts(self, epoch: int) -> list[Part]:
        """What this worker reads in an epoch."""
        ordered = self.files if self.seed is None else shuffled(self.files, self.seed, epoch)
        return divide(ordered, self.workers, splittable=not self.gzipped)[self.worker]

    def from_afar(self, epoch: tf.Tensor | None) -> tf.data.Dataset:
        """Lists of batch_size records, which this process reads."""
        import tensorflow as tf

        return self.passes.generated(self._lists, epoch, tf.TensorSpec((None,), tf.string))

    def _lists(self, epoch: Any) -> Iterator[list[bytes]]:
        chunk_bytes = min(CHUNK_BYTES, max(1, self.window_bytes // 2))
        batch: list[bytes] = []
        for records in read_records(
            self.parts(int(epoch)),
            gzipped=self.gzipped,
            window_bytes=self.window_bytes,
            chunk_bytes=chunk_bytes,
            read=self.read,
        ):
            batch += records
            while len(batch) >= self.batch_size:
                yield batch[: self.batch_size]
                del batch[: self.batch_size]
        if batch:
            yield batch

    def from_disk(self, epoch: tf.Tensor | None) -> tf.data.Dataset:
        """Single records, which TensorFlow itself reads."""
        import tensorflow as tf

        if self.seed is None:  # the same in each epoch: a generator would cost a pass a third of its time
            stretches = list(self._stretches(self.first_epoch))
            columns = (
                tf.constant([s[i] for s in stretches], kind) for i, kind in enumerate((tf.string, tf.int64, tf.int64))
            )
            parts = tf.data.Dataset.from_tensor_slices(tuple(columns))
        else:
            spec = (tf.TensorSpec((), tf.string), tf.TensorSpec((), tf.int64), tf.TensorSpec((), tf.int64))
            parts = self.passes.generated(self._stretches, epoch, spec)
        return parts.interleave(
            lambda path, offset, count: _native(path, offset, "GZIP" if self.gzipped else "").take(count),
            block_length=LOCAL_BLOCK,
            cycle_length=LOCAL_FILES_AT_ONCE,
            num_parallel_calls=LOCAL_FILES_AT_ONCE,
            deterministic=True,
        )

    def _stretches(self, epoch: Any) -> Iterator[tuple[str, int, int]]:
        for part in self.parts(int(epoch)):
            yield local_path(part.file.uri), *_whole_records(part)


class Passes:
    """Counts the passes over a dataset, each of which is an epoch, and makes datasets that know which it is."""

    def __init__(self, first_epoch: int) -> None:
        self.count = itertools.count(first_epoch)

    def generated(
        self, of_epoch: Callable[[Any], Iterator[Any]], epoch: tf.Tensor | None, spec: Any
    ) -> tf.data.Dataset:
        """What of_epoch yields for that epoch, or for the next one if None."""
        import tensorflow as tf

        if epoch is None:
            return tf.data.Dataset.from_generator(lambda: of_epoch(next(self.count)), output_signature=spec)
        return tf.data.Dataset.from_generator(of_epoch, args=(epoch,), output_signature=spec)

    def dataset(self, batches: Callable[[tf.Tensor | None], tf.data.Dataset], *, knows_epoch: bool) -> tf.data.Dataset:
        """The dataset of batches(epoch), or of batches(None) if only the generator has to know the epoch."""
        import tensorflow as tf

        if not knows_epoch:
            return batches(None)
        epochs = tf.data.Dataset.from_generator(
            lambda: iter([next(self.count)]), output_signature=tf.TensorSpec((), tf.int64)
        )
        return epochs.flat_map(batches)


def checked(batch_size: int, worker: int | None, workers: int | None) -> tuple[int, int]:
    """(worker, workers), from TF_CONFIG if they are not given. Raises ConfigurationError if they are invalid."""
    if batch_size < 1:
        raise ConfigurationError(f"batch_size is {batch_size}; it must be 1 or more")
    if workers is None:
        worker, workers = worker_from(os.environ)
    if worker is None or not 0 <= worker < workers:
        raise ConfigurationError(f"worker is {worker}; it must be 0 to {workers - 1}")
    return worker, workers


def filled(uris: str | Iterable[str]) -> list[File]:
    """The URIs' files that are not empty. Raises DataError if there are none."""
    files = [file for file in list_files(uris) if file.size]
    missing = incomplete(files, uris)
    if missing:
        raise DataError(missing[0], hint="run tf-spawner data convert again; or name the files that are to be read")
    if not files:
        raise DataError(f"{uris}: all files there are empty")
    return files


def unsharded() -> tf.data.Options:
    """TensorFlow does not divide the data over workers again, nor tune what is set already.

    Its tuner sleeps twice as long each time, up to a minute, and a pass that ends meanwhile may wait for its waking:
    one in five did here.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    options.autotune.enabled = False
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
    """The first byte, from start on, where a record begins; the file's size if there is none."""
    if start == 0:
        return 0
    for low in range(start, file.size, TAIL_BYTES):
        for place in boundaries(data[low : low + TAIL_BYTES + HEADER.size - 1]):
            end = low + place + OVERHEAD + HEADER.unpack_from(data, low + place)[0]
            if end == file.size or (end < file.size and is_header(data[end : end + HEADER.size])):
                return low + int(place)
    return file.size


def check_end(file: File) -> None:
    """Raises DataError if a local file is cut off: TensorFlow takes a cut inside a record's header for the end."""
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
                f"{file.uri} is cut off: the record at byte {last} should reach to byte {here}, "
                f"and the file has {size}",
                hint="copy the file again",
            )
