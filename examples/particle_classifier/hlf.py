"""Reads the 14 high-level features and the labels of prepared events, from TFRecord or Parquet, without TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from physics import HIGH_LEVEL

from tfspawner.data import File, list_files
from tfspawner.data.columnar import read_batches
from tfspawner.data.example import read_example
from tfspawner.data.reading import WINDOW_BYTES, first_record, read_records
from tfspawner.data.sharding import Part
from tfspawner.data.tables import form_of, rows_of
from tfspawner.errors import DataError

SHAPES = {"HLF_input": [len(HIGH_LEVEL)], "encoded_label": [3]}
ROWS_AT_ONCE = 1 << 16

Floats, Labels = NDArray[np.float32], NDArray[np.int64]
Events = tuple[Floats, Labels]


def files_of(data: str, part: str) -> list[File]:
    """The files of `train` or `test`: TFRecord, or else Parquet; published folders are called testUndersampled_… and so on."""
    try:
        files = list_files(f"{data.rstrip('/')}/{part}*/part-r-*")
    except DataError:
        files = list_files(f"{data.rstrip('/')}/{part}*/part-*")
    return [file for file in files if file.size]


def read(data: str, part: str) -> Events:
    """(features of (events, 14), labels 0 to 2) of all events of a part, in the files' order, wherever they are."""
    found = [pair for file in files_of(data, part) for pair in read_file(file)]
    if not found:
        raise DataError(f"{data}: all files of {part} are empty", hint="run prepare.py again")
    features, encoded = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    return features, encoded.argmax(axis=1)


def read_file(file: File) -> Iterator[tuple[Floats, Floats]]:
    """(features, one-hot labels) of a file, in pieces."""
    if form_of(file) == "tfrecord":
        gzipped, _ = first_record(file)
        for records in read_records([Part(file, 0, file.size)], gzipped=gzipped):
            yield decoded(records, file.uri)
    else:
        parts = [Part(file, 0, rows_of(file))]
        for columns in read_batches(parts, SHAPES, dict.fromkeys(SHAPES, "float32"), ROWS_AT_ONCE, WINDOW_BYTES):
            yield columns["HLF_input"], columns["encoded_label"]


def decoded(records: list[bytes], uri: str) -> tuple[Floats, Floats]:
    """(features, one-hot labels) of records.

    Where all bytes but the values' are those of the first record, as in files of one writer, the values are taken from
    their places in it: a hundred times faster than one record after another.
    """
    places = _places(records[0], uri)
    if len({len(record) for record in records}) == 1:
        table = np.frombuffer(b"".join(records), np.uint8).reshape(len(records), -1)
        fixed = np.ones(table.shape[1], bool)
        for place in places:
            fixed[place] = False
        if (table[:, fixed] == table[0, fixed]).all():
            features, encoded = (np.ascontiguousarray(table[:, place]).view("<f4") for place in places)
            return features, encoded
    examples = [_values(record, uri) for record in records]
    features, encoded = (np.stack(arrays) for arrays in zip(*examples, strict=True))
    return features, encoded


def _places(record: bytes, uri: str) -> list[slice]:
    """Where in a record the bytes of its features and of its one-hot label are."""
    places = []
    for name, values in zip(SHAPES, _values(record, uri), strict=True):
        content = values.astype("<f4").tobytes()
        at = record.index(content, record.index(name.encode()))  # the values follow their name
        places.append(slice(at, at + len(content)))
    return places


def _values(record: bytes, uri: str) -> tuple[Floats, Floats]:
    example = read_example(record)
    for name, (size,) in SHAPES.items():
        values = example.get(name)
        if values is None or values.dtype != np.float32 or len(values) != size:
            there = "is missing" if values is None else f"has {len(values)} values of {values.dtype}"
            raise DataError(f"{uri}: the feature {name} {there}; it must be {size} float32", hint="run prepare.py")
    return example["HLF_input"], example["encoded_label"]
