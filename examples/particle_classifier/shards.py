"""Writes the files of a set: TFRecords in the published layout and in tf-spawner's small encoding, and Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from physics import CLASSES, HIGH_LEVEL, ROWS, WIDTH
from places import written
from scaling import model_inputs, one_hot
from selected import lists, padded

from tfspawner.data.encoding import Encoder, Encoding
from tfspawner.data.example import write_example
from tfspawner.data.records import frame

FORMS = ("hlf", "inclusive", "small")
EVENTS_AT_ONCE = 64  # 801 x 19 doubles of each are 8 MB
SMALL = Encoding(name="GRU_input", rows=ROWS, width=WIDTH, stored="float16")
COLUMNS = {"HLF_input": len(HIGH_LEVEL), "GRU_input": ROWS * WIDTH, "encoded_label": len(CLASSES)}
OF_FORM = {"hlf": ["HLF_input", "encoded_label"], "inclusive": list(COLUMNS), "small": list(COLUMNS)}


def write_shards(
    output: str, split: str, number: int, forms: Sequence[str], parquet: bool,
    features: np.ndarray, labels: np.ndarray, particles: pa.ChunkedArray,
) -> None:  # fmt: skip
    """The files of one part: scaled features (events, 14), labels (events,), and each event's particles as bytes."""
    with ExitStack() as stack:
        writers: list[Any] = []
        for form in forms:
            path = stack.enter_context(written(f"{output}/{form}/{split}/part-r-{number:05}.tfrecord"))
            writers.append(stack.enter_context(Records(path, form)))
            if parquet and form != "small":
                path = stack.enter_context(written(f"{output}/{form}/{split}.parquet/part-{number:05}.parquet"))
                writers.append(stack.enter_context(Columns(path, form)))
        for values in batches(features, labels, particles, whole=list(forms) != ["hlf"]):
            for writer in writers:
                writer.write(values)


def batches(
    features: np.ndarray, labels: np.ndarray, particles: pa.ChunkedArray, *, whole: bool
) -> Iterator[dict[str, np.ndarray]]:
    """{feature: (events, its size)}; with the particles only if `whole`."""
    for first in range(0, len(labels), EVENTS_AT_ONCE):
        some = slice(first, first + EVENTS_AT_ONCE)
        values = {"HLF_input": features[some], "encoded_label": one_hot(labels[some])}
        if whole:
            rows = [np.frombuffer(data).reshape(-1, WIDTH) for data in particles[some].to_pylist()]
            values["GRU_input"] = model_inputs(padded(np.array([len(r) for r in rows]), np.concatenate(rows)))
        yield values


class Records:
    """A TFRecord file; numbers are float32."""

    def __init__(self, path: Any, form: str) -> None:
        self.file, self.names = open(path, "wb"), OF_FORM[form]
        self.encoder = Encoder((SMALL,) if form == "small" else ())

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, values: dict[str, np.ndarray]) -> None:
        columns = [values[name].astype(np.float32) for name in self.names]
        for row in zip(*columns, strict=True):
            record = dict(zip(self.names, row, strict=True))
            self.file.write(frame(write_example(self.encoder.encode(record, self.file.name))))


class Columns:
    """A Parquet file; numbers are doubles."""

    def __init__(self, path: Any, form: str) -> None:
        self.names = OF_FORM[form]
        self.schema = pa.schema([(name, pa.list_(pa.float64())) for name in self.names])
        self.parquet = pq.ParquetWriter(path, self.schema, compression="snappy")

    def __enter__(self) -> Columns:
        return self

    def __exit__(self, *_: object) -> None:
        self.parquet.close()

    def write(self, values: dict[str, np.ndarray]) -> None:
        arrays = [lists(values[n].ravel(), np.full(len(values[n]), values[n].shape[1])) for n in self.names]
        self.parquet.write_table(pa.table(arrays, schema=self.schema))
