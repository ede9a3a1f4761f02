"""tf.train.Example without TensorFlow: its protobuf wire format, read for what it holds.

Example {Features features = 1}, Features {map<string, Feature> feature = 1}, Feature {bytes_list = 1,
float_list = 2, int64_list = 3}, each with {repeated value = 1}; see tensorflow/core/example/.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

KINDS = {1: "bytes", 2: "float32", 3: "int64"}
Values = list[Any]


def parse_example(data: bytes) -> dict[str, tuple[str, Values]]:
    """{feature's name: (kind, values)} of a serialized Example. Raises ValueError for other bytes."""
    found: dict[str, tuple[str, Values]] = {}
    for number, features in _fields(data):
        if number != 1 or not isinstance(features, bytes):
            raise ValueError("this is no tf.train.Example")
        for _, entry in _fields(features):
            parts = dict(_fields(_message(entry)))
            name = _message(parts.get(1, b"")).decode()
            found[name] = _feature(_message(parts.get(2, b"")))
    return found


def schema_of(data: bytes) -> dict[str, str]:
    """{feature's name: its kind and number of values}, such as "float32[14]", in the order of the names."""
    return {name: f"{kind}[{len(values)}]" for name, (kind, values) in sorted(parse_example(data).items())}


def _feature(data: bytes) -> tuple[str, Values]:
    for number, content in _fields(data):
        kind = KINDS.get(number)
        if kind is None:
            raise ValueError(f"a feature has a list of the unknown kind {number}")
        return kind, list(_values(kind, _message(content)))
    return "empty", []


def _values(kind: str, data: bytes) -> Iterator[Any]:
    for _, value in _fields(data):
        if kind == "bytes" or isinstance(value, int):
            yield _signed(value) if isinstance(value, int) else value
        elif kind == "float32":
            if len(value) % 4:
                raise ValueError("this is no tf.train.Example")
            yield from struct.unpack(f"<{len(value) // 4}f", value)  # packed, or one by itself
        else:
            at = 0
            while at < len(value):
                number, at = _varint(value, at)
                yield _signed(number)


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
            return number, at
        shift += 7
