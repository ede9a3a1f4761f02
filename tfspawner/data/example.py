"""tf.train.Example without TensorFlow: its protobuf wire format, read for what it holds.

Example {Features features = 1}, Features {map<string, Feature> feature = 1}, Feature {bytes_list = 1,
float_list = 2, int64_list = 3}, each with {repeated value = 1}; see tensorflow/core/example/.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from tfspawner.base.names import shown

KINDS = {1: "bytes", 2: "float32", 3: "int64"}
LONGEST_NAME, MOST_NAMES = 100, 20  # in a message
Array = Any  # numpy.ndarray of one dimension


def schema_of(data: bytes) -> dict[str, str]:
    """{feature's name: its kind and number of values}, such as "float32[14]", in the order of the names."""
    return {name: f"{kind_of(values)}[{len(values)}]" for name, values in sorted(read_example(data).items())}


def kind_of(values: Array) -> str:
    return "bytes" if values.dtype == object else str(values.dtype)


def named(name: str) -> str:
    """A feature's or column's name, fit for a message."""
    return name if name.isprintable() and len(name) <= LONGEST_NAME else shown(name)


def names_of(names: Iterable[str]) -> str:
    """The first of many names, fit for a message."""
    names = list(names)
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(map(named, names[:MOST_NAMES])) + more or "none"


def _signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number


def _message(value: bytes | int) -> bytes:
    if isinstance(value, int):
        raise ValueError("this is no tf.train.Example")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """(field's number, its bytes or varint) of a protobuf message."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError("this is no tf.train.Example")
        if at + size > len(data):
            raise ValueError("this is no tf.train.Example")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("this is no tf.train.Example")
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number & (1 << 64) - 1, at
        shift += 7


def read_example(data: bytes) -> dict[str, Array]:
    """{feature's name: its values}, in the record's order: int64 or float32 arrays, arrays of bytes objects.

    A feature that says no kind is an empty array of objects. Raises ValueError for other bytes.
    """
    found: dict[str, Array] = {}
    for number, features in _fields(data):
        if number != 1:
            raise ValueError("this is no tf.train.Example")
        for _, entry in _fields(_message(features)):
            parts = dict(_fields(_message(entry)))
            found[_message(parts.get(1, b"")).decode()] = _array(_message(parts.get(2, b"")))
    return found


def write_example(features: Mapping[str, Array]) -> bytes:
    """The serialized Example of int64 and float32 arrays and arrays of bytes objects, in that order."""
    entries = []
    for name, values in features.items():
        if values.dtype == np.float32:
            kind, content = 2, _tagged(1, bytes(values.astype("<f4", copy=False)))
        elif values.dtype == np.int64:
            kind, content = 3, _tagged(1, _packed(values))
        else:
            kind, content = 1, b"".join(_tagged(1, value) for value in values)
        entries.append(_tagged(1, _tagged(1, name.encode()) + _tagged(2, _tagged(kind, content))))
    return _tagged(1, b"".join(entries))


def _array(data: bytes) -> Array:
    for number, content in _fields(data):
        kind = KINDS.get(number)
        if kind is None:
            raise ValueError(f"a feature has a list of the unknown kind {number}")
        values = [value for _, value in _fields(_message(content))]
        if kind == "bytes":
            found = np.empty(len(values), object)
            found[:] = [_message(value) for value in values]
            return found
        if kind == "float32":  # packed, or one by one
            joined = values[0] if len(values) == 1 else b"".join(map(_message, values))
            if len(_message(joined)) % 4:
                raise ValueError("this is no tf.train.Example")
            return np.frombuffer(_message(joined), "<f4")
        single = [_signed(value) for value in values if isinstance(value, int)]
        if len(single) == len(values):
            return np.array(single, np.int64)
        return np.concatenate([_varints(v) if isinstance(v, bytes) else np.array([_signed(v)]) for v in values])
    return np.empty(0, object)


def _varints(data: bytes) -> Array:
    """A packed list of int64."""
    view = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(view < 0x80)
    if len(ends) == len(view):
        return view.astype(np.int64)
    if not len(ends) or ends[-1] != len(view) - 1:
        raise ValueError("this is no tf.train.Example")
    starts = np.concatenate(([0], ends[:-1] + 1))
    place = np.arange(len(view)) - np.repeat(starts, ends - starts + 1)
    if place.max() > 9:
        raise ValueError("this is no tf.train.Example")
    bits = (view & 0x7F).astype(np.uint64) << (7 * place).astype(np.uint64)
    return np.bitwise_or.reduceat(bits, starts).view(np.int64)


def _packed(values: Array) -> bytes:
    if not len(values) or (values.min() >= 0 and values.max() < 0x80):
        return bytes(values.astype(np.uint8))
    return b"".join(_as_varint(value & (1 << 64) - 1) for value in values.tolist())


def _as_varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _tagged(field: int, data: bytes) -> bytes:
    return b"".join((bytes([field << 3 | 2]), _as_varint(len(data)), data))
