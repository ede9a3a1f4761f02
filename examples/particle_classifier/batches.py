"""Training data as batches: TFRecord files in the published layout, or in tf-spawner's small encoding of it.

    DATA/train*/part-r-*     the events to train on, shuffled once and for all
    DATA/test*/part-r-*      the events to test with

DATA is a folder, s3://BUCKET/FOLDER or root://HOST//FOLDER. Records hold HLF_input float[14], encoded_label float[3]
and, but for the model hlf, GRU_input float[801 x 19]. Each event comes to one worker in a pass.

A model called NAME_masked gets particles alone: the padding, one row that is repeated somewhere among the 801, is
taken out, and zeros at the end fill a batch. Where training is on, events of like numbers of particles share a batch.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from models import HLF, ROWS, WIDTH, kind_of

from tfspawner.data import File, list_files, tfrecords
from tfspawner.data.encoding import encodings_of
from tfspawner.data.filesystems import LocalFiles, filesystem_of, local_path
from tfspawner.data.reading import first_record, read_records
from tfspawner.data.records import OVERHEAD
from tfspawner.data.sharding import Part

BATCHES_SORTED = 32  # so many batches' events are sorted by length at once
LENGTHS = 32  # batches' lengths are multiples of it, but for that of 801
SHUFFLED = {True: 65_536, False: 2_048}  # events in the buffer from which batches are drawn; of the model hlf, others
SAMPLE_FILES, SAMPLE_BYTES = 8, 2 << 20


def files_of(data: str, part: str) -> str:
    """The pattern of the files of `train` or `test`; the published folders are called testUndersampled_… and so on."""
    return f"{data.rstrip('/')}/{part}*/part-r-*"


def features_of(model_name: str) -> dict[str, Any]:
    """What tf.io.parse_example is to look for."""
    wanted = {
        "HLF_input": tf.io.FixedLenFeature([HLF], tf.float32),
        "encoded_label": tf.io.FixedLenFeature([3], tf.float32),
    }
    if kind_of(model_name)[0] != "hlf":
        wanted["GRU_input"] = tf.io.FixedLenFeature([ROWS, WIDTH], tf.float32)
    return wanted


def labelled(
    data: str, model_name: str, batch_size: int, *, part: str = "test", share: bool = False
) -> tf.data.Dataset:
    """(inputs, one-hot labels) of all events of a part, once, in order; the last batch may be smaller.

    Args:
        model_name: the name of the model that is to read them, model.name: masked ones get no padding.
        share: this worker's share of the events, by TF_CONFIG, in place of all.
    """
    alone = {} if share else {"worker": 0, "workers": 1}
    found = tfrecords(files_of(data, part), features_of(model_name), batch_size, **alone)
    return found.map(lambda batch: inputs_of(batch, model_name), num_parallel_calls=2).prefetch(2)


def training(data: str, model_name: str, batch_size: int, *, seed: int, first_pass: int = 0) -> tf.data.Dataset:
    """Batches of this worker's share of the training events, pass after pass without an end, each in another order.

    Every batch is full: what is left of a pass is left out, other events each time.
    """
    name, masked = kind_of(model_name)
    found = tfrecords(
        files_of(data, "train"), features_of(model_name), batch_size, seed=seed, shuffle_records=SHUFFLED[name == "hlf"],
        first_epoch=first_pass, drop_remainder=True,
    )  # fmt: skip
    if masked:
        compact = found.map(lambda batch: {**batch, "GRU_input": real_rows(batch["GRU_input"])}, num_parallel_calls=2)
        chunks = compact.batch(BATCHES_SORTED).enumerate()
        found = chunks.flat_map(lambda number, chunk: by_length(chunk, number, batch_size, model_name, seed))
    else:
        found = found.map(lambda batch: inputs_of(batch, model_name), num_parallel_calls=2)
    return found.repeat().prefetch(4)


def inputs_of(batch: dict[str, Any], model_name: str) -> tuple[Any, Any]:
    """(the model's inputs, labels) of a parsed batch."""
    name, masked = kind_of(model_name)
    if name == "hlf":
        return batch["HLF_input"], batch["encoded_label"]
    particles = batch["GRU_input"]
    if masked:
        particles = padded(real_rows(particles))
    return (particles if name == "sequence" else (particles, batch["HLF_input"])), batch["encoded_label"]


def by_length(chunk: dict[str, Any], number: Any, batch_size: int, model_name: str, seed: int) -> tf.data.Dataset:
    """Some batches' events as batches of like lengths, in an order that is random, and equal on all workers.

    So that workers, who wait for each other at every step, get their long batches at the same time.
    """
    with_features = kind_of(model_name)[0] != "sequence"
    rows = chunk["GRU_input"].merge_dims(0, 1)
    order = tf.argsort(rows.row_lengths())
    rows = tf.gather(rows, order)
    features, labels = (
        tf.gather(tf.reshape(chunk[n], [-1, w]), order) for n, w in (("HLF_input", HLF), ("encoded_label", 3))
    )
    ranks = tf.range(tf.shape(labels)[0] // batch_size)
    ranks = tf.random.experimental.stateless_shuffle(ranks, tf.stack([tf.cast(seed, tf.int64), number]))

    def batch(rank: Any) -> tuple[Any, Any]:
        here = slice(rank * batch_size, (rank + 1) * batch_size)
        particles = tf.ensure_shape(padded(rows[here]), [batch_size, None, WIDTH])
        some, label = (tf.ensure_shape(values[here], [batch_size, n]) for values, n in ((features, HLF), (labels, 3)))
        return ((particles, some) if with_features else particles), label

    return tf.data.Dataset.from_tensor_slices(ranks).map(batch)


def real_rows(particles: tf.Tensor) -> tf.RaggedTensor:
    """The rows of (batch, 801, 19) that hold particles: those unlike the rows before and after.

    Padding is a row that stands there twice or more; one that stands alone cannot be told from a particle.
    """
    same = tf.reduce_all(tf.equal(particles[:, 1:], particles[:, :-1]), 2)
    edge = tf.zeros([tf.shape(particles)[0], 1], tf.bool)
    real = ~(tf.concat([same, edge], 1) | tf.concat([edge, same], 1))
    lengths = tf.reduce_sum(tf.cast(real, tf.int32), 1)
    return tf.RaggedTensor.from_row_lengths(tf.boolean_mask(particles, real), lengths, validate=False)


def padded(rows: tf.RaggedTensor) -> tf.Tensor:
    """Rows as (batch, length, 19), with zeros at the end, to a length that is a multiple of LENGTHS, or all 801."""
    longest = tf.cast(tf.reduce_max(rows.row_lengths()), tf.int32)
    length = tf.maximum(tf.minimum(-(-longest // LENGTHS) * LENGTHS, ROWS), 1)
    return tf.ensure_shape(rows.to_tensor(shape=tf.stack([-1, length, WIDTH])), [None, None, WIDTH])


def count(data: str, part: str) -> tuple[int, bool]:
    """(how many events there are, True), or (an estimate by the first events' bytes, False).

    Records of one size are counted by their files' sizes, those of local files by their lengths, packed ones by
    reading them. Only where the small encoding lies far away, to count would be to read all.
    """
    files = [file for file in list_files(files_of(data, part)) if file.size]
    gzipped, first = first_record(files[0])
    size = len(first) + OVERHEAD
    if gzipped:
        return sum(map(len, read_records((Part(file, 0, file.size) for file in files), gzipped=True))), True
    if not encodings_of(first, files[0].uri) and all(file.size % size == 0 for file in files):
        return sum(file.size for file in files) // size, True
    if all(isinstance(filesystem_of(file.uri), LocalFiles) for file in files):
        return sum(records_in(file) for file in files), True
    return round(sum(file.size for file in files) / mean_size(files)), False


def records_in(file: File) -> int:
    """The number of records in a local TFRecord file, by the length that begins each of them."""
    number = at = 0
    with open(local_path(file.uri), "rb", buffering=0) as opened:
        while at < file.size:
            opened.seek(at)
            at += OVERHEAD + int.from_bytes(opened.read(8), "little")
            number += 1
    return number


def mean_size(files: list[File]) -> float:
    """The mean size of the first records of some files, in bytes."""
    some = files[:: -(-len(files) // SAMPLE_FILES)]
    parts = (Part(file, 0, min(file.size, SAMPLE_BYTES)) for file in some)
    sizes = [len(record) + OVERHEAD for records in read_records(parts) for record in records]
    return sum(sizes) / len(sizes)
