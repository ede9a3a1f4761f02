"""Smaller records: a feature of rows, most of them one repeated row, is stored with that row once.

An encoded feature NAME of shape [rows, width] is two features of the Example. One holds the rows' bytes,
little-endian, with the longest run of one repeated row as a single row; its own name says all that is needed to read
it, such as "tf-spawner/1/run/float16/801x19/GRU_input". The other, "tf-spawner/run/GRU_input", holds where that row is
and how often it stands there. So the description travels with each record, files of two encodings cannot be mixed up
(the feature would be missing), and a version that is not known here is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tfspawner.base.names import shown
from tfspawner.errors import ConfigurationError, DataError

from .example import Array, kind_of, named, names_of, read_example

if TYPE_CHECKING:
    import tensorflow as tf

MARK = "tf-spawner/"
VERSION = 1
STORED = {"float32": 4, "float16": 2, "bfloat16": 2}  # bytes of a value
MOST_RESTORED_BYTES = 64 << 20  # of a record that is small itself
MOST_TIMES = 16  # of a large one's own bytes
_KEY = re.compile(rf"{MARK}{VERSION}/run/(\w+)/([1-9]\d{{0,9}})x([1-9]\d{{0,9}})/(.*)", re.DOTALL | re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How one feature of shape [rows, width] is stored."""

    name: str
    rows: int
    width: int
    stored: str = "float32"

    @property
    def size_bytes(self) -> int:
        """Of the restored values."""
        return 4 * self.rows * self.width

    @property
    def values_key(self) -> str:
        return f"{MARK}{VERSION}/run/{self.stored}/{self.rows}x{self.width}/{self.name}"

    @property
    def run_key(self) -> str:
        return f"{MARK}run/{self.name}"


@dataclass(slots=True)
class Loss:
    """What was lost by storing smaller numbers: the largest differences, and how many became infinite."""

    absolute: float = 0.0
    relative: float = 0.0
    infinite: int = 0

    def add(self, other: Loss) -> None:
        """Combines two losses: the greater difference, and the infinite values of both."""
        self.absolute = max(self.absolute, other.absolute)
        self.relative = max(self.relative, other.relative)
        self.infinite += other.infinite

    def measure(self, before: Array, after: Array) -> None:
        """Takes in the differences of two arrays; values that were already infinite or NaN count as kept."""
        real = np.isfinite(before)
        lost = real & ~np.isfinite(after)
        self.infinite += int(lost.sum())
        real &= ~lost
        difference = np.abs(after[real].astype(np.float64) - before[real])
        if difference.size:
            self.absolute = max(self.absolute, float(difference.max()))
            size = np.abs(before[real].astype(np.float64))
            self.relative = max(
                self.relative, float(np.divide(difference, size, out=np.zeros_like(size), where=size > 0).max())
            )


@dataclass(slots=True)
class Encoder:
    """Encodes records' features; `loss` sums up what all records so far have lost."""

    encodings: Iterable[Encoding]
    overflow: bool = False  # whether values may become infinite
    loss: Loss = field(default_factory=Loss)

    def encode(self, record: Mapping[str, Array], where: str) -> dict[str, Array]:
        """The record with its encoded features. Raises DataError for one that is missing or of another size."""
        by_name = {encoding.name: encoding for encoding in self.encodings}
        encoded: dict[str, Array] = {}
        for name, values in record.items():
            encoding = by_name.pop(name, None)
            encoded |= self._encoded(values, encoding, where) if encoding else {name: values}
        for encoding in by_name.values():
            raise DataError(f"{where}: there is no feature {named(encoding.name)}; there are {names_of(record)}")
        _bounded(encoded, encodings_in(encoded, where).values(), where)
        return encoded

    def _encoded(self, values: Array, encoding: Encoding, where: str) -> dict[str, Array]:
        if values.dtype != np.float32 or len(values) != encoding.rows * encoding.width:
            raise DataError(
                f"{where}: {named(encoding.name)} is {kind_of(values)}[{len(values)}]; to be encoded as"
                f" {encoding.rows}x{encoding.width} it must be float32[{encoding.rows * encoding.width}]"
            )
        rows = values.reshape(encoding.rows, encoding.width)
        index, count = longest_run(rows)
        kept = np.concatenate((rows[: index + 1], rows[index + count :]))
        stored = narrow(kept, encoding.stored)
        if encoding.stored != "float32":
            self._look(kept, widen(stored, encoding.stored), encoding, where)
        content = np.empty(1, object)
        content[0] = stored.tobytes()
        return {encoding.values_key: content, encoding.run_key: np.array([index, count], np.int64)}

    def _look(self, before: Array, after: Array, encoding: Encoding, where: str) -> None:
        lost = self.loss.infinite
        self.loss.measure(before, after)
        if self.loss.infinite > lost and not self.overflow:
            value = before[np.isfinite(before) & ~np.isfinite(after)][0]
            raise DataError(
                f"{where}: {named(encoding.name)} has {value:g}, which becomes infinite in {encoding.stored}",
                hint="--dtype bfloat16 or float32; or --overflow, to let such values become infinite",
            )


def longest_run(rows: Array) -> tuple[int, int]:
    """(first row, number of rows) of the longest run of one repeated row, bit for bit; (0, 1) if none repeats."""
    bits = np.ascontiguousarray(rows).view(np.uint32)
    same = np.zeros(len(rows) + 1, np.int8)
    same[1:-1] = (bits[1:] == bits[:-1]).all(axis=1)
    edges = np.flatnonzero(np.diff(same))
    if not len(edges):
        return 0, 1
    lengths = edges[1::2] - edges[::2]
    longest = int(lengths.argmax())
    return int(edges[2 * longest]), int(lengths[longest]) + 1


def narrow(values: Array, stored: str) -> Array:
    """float32 values as they are stored, rounded to nearest, ties to even."""
    if stored == "float32":
        return values.astype("<f4", copy=False)
    if stored == "float16":
        with np.errstate(over="ignore", invalid="ignore"):
            return values.astype("<f2")
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16
    return np.where(np.isnan(values), (bits >> 16) | np.uint32(0x40), rounded).astype("<u2")


def widen(values: Array, stored: str) -> Array:
    """Stored values as float32."""
    if stored == "bfloat16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)


def encodings_in(names: Iterable[str], where: str) -> dict[str, Encoding]:
    """{feature: its encoding}, from a record's feature names; empty for a plain record.

    Raises DataError for an encoding that this version does not know, and for two of one feature.
    """
    names, encodings = list(names), dict[str, Encoding]()
    for name in names:
        if not name.startswith(MARK) or name.startswith(MARK + "run/"):
            continue
        match = _KEY.fullmatch(name)
        if not match or match[1] not in STORED:
            raise DataError(
                f"{where} has the encoding {shown(name)}, which is not known here", hint="a newer tf-spawner"
            )
        if match[4] in encodings or match[4] in names:
            raise DataError(f"{where} has the feature {named(match[4])} twice", hint="tf-spawner data check")
        encodings[match[4]] = Encoding(name=match[4], rows=int(match[2]), width=int(match[3]), stored=match[1])
    return encodings


def encodings_of(record: bytes, uri: str) -> dict[str, Encoding]:
    """As encodings_in, for a file's first record; what is not an Example has none."""
    try:
        return encodings_in(read_example(record), uri) if MARK.encode() in record else {}
    except ValueError:
        return {}


def decode(record: Mapping[str, Array], where: str) -> dict[str, Array]:
    """The record with its encoded features restored, each at the place of its bytes. Raises DataError."""
    runs = runs_in(record, where)
    if not runs:
        return dict(record)
    names = {encoding.run_key for encoding, _, _ in runs.values()}
    return {
        (runs[name][0].name if name in runs else name): _restored(values[0], *runs[name]) if name in runs else values
        for name, values in record.items()
        if name not in names
    }


def runs_in(record: Mapping[str, Array], where: str) -> dict[str, tuple[Encoding, int, int]]:
    """{key of its values: (encoding, the run's row, its length)} of each encoded feature of a record.

    Raises DataError where one of them cannot be restored, or all of them would take too much memory.
    """
    encodings = encodings_in(record, where).values()
    _bounded(record, encodings, where)
    return {encoding.values_key: (encoding, *_run_of(record, encoding, where)) for encoding in encodings}


def _bounded(record: Mapping[str, Array], encodings: Iterable[Encoding], where: str) -> None:
    """Raises DataError if the restored features would take too much memory: the sizes are what the record claims."""
    encodings = list(encodings)
    if sum(encoding.size_bytes for encoding in encodings) <= MOST_RESTORED_BYTES:
        return
    stored = sum(sum(map(len, values)) if values.dtype == object else values.nbytes for values in record.values())
    most = max(MOST_RESTORED_BYTES, MOST_TIMES * stored)
    total = sum(encoding.size_bytes for encoding in encodings)
    if total > most:
        large = max(encodings, key=lambda encoding: encoding.size_bytes)
        raise DataError(
            f"{where}: {named(large.name)} is said to be {large.rows}x{large.width}: {stored:,} bytes would become"
            f" {total:,}, and may become {most:,}",
            hint="data of that kind are to be stored without --encode",
        )


def _run_of(record: Mapping[str, Array], encoding: Encoding, where: str) -> tuple[int, int]:
    """The run's row and length, checked against the bytes that are there."""
    values, run = record[encoding.values_key], record.get(encoding.run_key, np.empty(0, np.int64))
    index, count = run.tolist() if run.dtype == np.int64 and len(run) == 2 else (-1, 0)
    kept = encoding.rows - count + 1
    size = kept * encoding.width * STORED[encoding.stored]
    sizes = [len(value) for value in values] if values.dtype == object else []
    if not 0 <= index < kept <= encoding.rows or sizes != [size]:
        raise DataError(
            f"{where}: {named(encoding.name)} is not as its encoding says: {encoding.rows}x{encoding.width} of"
            f" {sum(sizes)} bytes, with a run of {count} from row {index} on"
        )
    return index, count


def _restored(data: bytes, encoding: Encoding, index: int, count: int) -> Array:
    kind = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}[encoding.stored]
    rows = widen(np.frombuffer(data, kind).reshape(-1, encoding.width), encoding.stored)
    before, after = rows[:index], rows[index + 1 :]
    return np.concatenate((before, np.broadcast_to(rows[index], (count, encoding.width)), after)).ravel()


def stored_features(features: Mapping[str, Any], encodings: Mapping[str, Encoding]) -> dict[str, Any]:
    """What tf.io.parse_example has to parse, so that expand can restore `features`."""
    import tensorflow as tf

    specs = dict(features)
    for name, encoding in encodings.items():
        spec = specs.pop(name, None)
        if spec is None:
            continue
        size = encoding.rows * encoding.width
        shape = tf.TensorShape(spec.shape) if isinstance(spec, tf.io.FixedLenFeature) else None
        if shape is None or spec.dtype != tf.float32 or shape.num_elements() != size:
            raise ConfigurationError(
                f"the feature {name} is encoded as {encoding.rows}x{encoding.width}, and {spec} is asked for",
                hint=f"tf.io.FixedLenFeature([{encoding.rows}, {encoding.width}], tf.float32)",
            )
        specs[encoding.values_key] = tf.io.FixedLenFeature([], tf.string)
        specs[encoding.run_key] = tf.io.FixedLenFeature([2], tf.int64)
    return specs


def expand(parsed: Mapping[str, Any], features: Mapping[str, Any], encodings: Mapping[str, Encoding]) -> dict[str, Any]:
    """A parsed batch with its encoded features restored, by TensorFlow's operations."""
    tensors = {name: tensor for name, tensor in parsed.items() if not name.startswith(MARK)}
    for name, encoding in encodings.items():
        if name in features:
            tensors[name] = _expanded(
                parsed[encoding.values_key], parsed[encoding.run_key], encoding, list(features[name].shape)
            )
    return tensors


def _expanded(values: tf.Tensor, run: tf.Tensor, encoding: Encoding, shape: list[int]) -> tf.Tensor:
    """float32 of (batch, *shape) from strings of (batch,) and runs of (batch, 2).

    Row r is kept row max(min(r, index), r - count + 1): all before the run, the run's row, all after it.
    """
    import tensorflow as tf

    kind = {"float32": tf.float32, "float16": tf.float16, "bfloat16": tf.uint16}[encoding.stored]
    first, count = run[:, 0], run[:, 1]
    sizes = (encoding.rows - count + 1) * (encoding.width * STORED[encoding.stored])
    fits = (count >= 1) & (count <= encoding.rows) & (first >= 0) & (first <= encoding.rows - count)
    fits &= tf.cast(tf.strings.length(values), tf.int64) == sizes
    sound = tf.debugging.assert_equal(fits, True, f"{named(encoding.name)} is not as its encoding says")
    with tf.control_dependencies([sound] if sound is not None else []):  # no record reaches into another
        run = tf.cast(run, tf.int32)
    index, less = run[:, :1], run[:, 1:] - 1
    flat = tf.io.decode_raw(tf.strings.reduce_join(values), kind)
    if encoding.stored == "bfloat16":
        flat = tf.bitcast(flat, tf.bfloat16)
    rows = tf.reshape(tf.cast(flat, tf.float32), [-1, encoding.width])
    first = tf.cumsum(encoding.rows - less, exclusive=True)
    row = tf.range(encoding.rows)[tf.newaxis]
    place = tf.maximum(tf.minimum(row, index), row - less) + first
    return tf.reshape(tf.gather(rows, place), [-1, *shape])
