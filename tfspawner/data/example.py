"""Reads and writes tf.train.Example without TensorFlow, in protobuf's wire format.

Example {Features features = 1}, Features {map<string, Feature> feature = 1}, Feature {bytes_list = 1,
float_list = 2, int64_list = 3}, each with {repeated value = 1}; see tensorflow/core/example/.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from tfspawner.base.names import shown

KINDS = {1: "bytes", 2: "float32", 3: "int64"}
NAMES = {np.dtype(object): "bytes", np.dtype(np.float32): "float32", np.dtype(np.int64): "int64"}
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # protobuf's wire types
FIXED = {FIXED64: 8, FIXED32: 4}  # bytes
FEW_VALUES, PACKED_AT_ONCE = 8, 1 << 16  # numbers that are packed one by one, and at once
NO_EXAMPLE = "this is no tf.train.Example"
LONGEST_NAME, MOST_NAMES = 100, 20  # in a message
Array = Any  # numpy.ndarray of one dimension


def schema_of(data: bytes) -> dict[str, str]:
    """{feature's name: its kind and number of values}, such as "float32[14]", sorted by name."""
    return {name: f"{kind_of(values)}[{len(values)}]" for name, values in sorted(read_example(data).items())}


def kind_of(values: Array) -> str:
    """A feature's kind as `data head` names it."""
    return NAMES.get(values.dtype) or str(values.dtype)


def named(name: str) -> str:
    """A feature's or column's name for a message."""
    return name if name.isprintable() and len(name) <= LONGEST_NAME else shown(name)


def names_of(names: Iterable[str]) -> str:
    """The first few names, and how many more there are, for a message."""
    names = list(names)
    rest = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(map(named, names[:MOST_NAMES])) + rest or "none"


def read_example(data: bytes) -> dict[str, Array]:
    """{feature's name: its values}, in the record's order: int64 or float32 arrays, arrays of bytes objects.

    Reads every form that protobuf allows, as protobuf does: packed or not, in pieces, in any order, with fields that
    are not known. A feature that says no kind is an empty array of objects. Raises ValueError for other bytes, also
    where protobuf would pass over what cannot be an Example: another field beside the features, another kind of list.
    """
    features: dict[str, Array] = {}
    for field, wire, content in _fields(memoryview(data)):
        if (field, wire) != (1, LENGTH):
            raise ValueError(NO_EXAMPLE)
        for entry in _repeated(content, 1):
            name = b"".join(_repeated(entry, 1)[-1:]).decode()
            features[name] = _values(b"".join(_repeated(entry, 2)))
    return features


def _fields(data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """(field's number, its wire type, its bytes) of a protobuf message."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire, start = key & 7, at
        if wire == VARINT:
            at = _varint(data, at)[1]
        elif wire == LENGTH:
            size, start = _varint(data, at)
            at = start + size
        elif wire in FIXED:
            at += FIXED[wire]
        else:
            raise ValueError(NO_EXAMPLE)
        if at > len(data) or not key >> 3:
            raise ValueError(NO_EXAMPLE)
        yield key >> 3, wire, data[start:at]


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """(the number that begins there, the byte after it)"""
    number = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError(NO_EXAMPLE)
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number & (1 << 64) - 1, at
        shift += 7


def _repeated(data: memoryview, field: int) -> list[memoryview]:
    """The texts or messages of one field; others are skipped, as protobuf does."""
    return [content for number, wire, content in _fields(data) if (number, wire) == (field, LENGTH)]


def _values(feature: bytes) -> Array:
    """The values of the list that comes last; lists of one kind that follow each other are one, as protobuf has it."""
    kind, pieces = "", list[memoryview]()
    for field, wire, content in _fields(memoryview(feature)):
        if field not in KINDS:
            raise ValueError(f"a feature has a list of the unknown kind {field}")
        if wire == LENGTH:
            pieces = [*pieces, content] if KINDS[field] == kind else [content]
            kind = KINDS[field]
    joined = memoryview(b"".join(pieces) if len(pieces) > 1 else pieces[0] if pieces else b"")
    if kind == "float32":
        return _floats(_numbers(joined, single=FIXED32))
    if kind == "int64":
        return _varints(_numbers(joined, single=VARINT))
    texts = _repeated(joined, 1)
    values = np.empty(len(texts), object)
    values[:] = [bytes(text) for text in texts]
    return values


def _numbers(data: memoryview, single: int) -> list[memoryview]:
    """A list's numbers, packed or one by one, as they are encoded."""
    return [content for field, wire, content in _fields(data) if field == 1 and wire in (LENGTH, single)]


def _floats(pieces: list[memoryview]) -> Array:
    if any(len(piece) % 4 for piece in pieces):
        raise ValueError(NO_EXAMPLE)
    return np.frombuffer(pieces[0] if len(pieces) == 1 else b"".join(pieces), "<f4")


def _varints(pieces: list[memoryview]) -> Array:
    if any(len(piece) and piece[-1] >= 0x80 for piece in pieces):
        raise ValueError(NO_EXAMPLE)
    view = np.frombuffer(pieces[0] if len(pieces) == 1 else b"".join(pieces), np.uint8)
    ends = np.flatnonzero(view < 0x80)
    if len(ends) == len(view):
        return view.astype(np.int64)
    starts = np.concatenate(([0], ends[:-1] + 1))
    place = np.arange(len(view)) - np.repeat(starts, ends - starts + 1)
    if place.max() > 9:
        raise ValueError(NO_EXAMPLE)
    bits = (view & 0x7F).astype(np.uint64) << (7 * place).astype(np.uint64)
    return np.bitwise_or.reduceat(bits, starts).view(np.int64)


def write_example(features: Mapping[str, Array]) -> bytes:
    """The serialized Example of int64 and float32 arrays and arrays of bytes objects, in that order."""
    parts: list[bytes] = []
    for name, values in features.items():
        if values.dtype == np.float32:
            content = bytes(values.astype("<f4", copy=False))
            kind, content = 2, _tag(1, len(content)) + content
        elif values.dtype == np.int64:
            content = _packed(values)
            kind, content = 3, _tag(1, len(content)) + content
        else:
            kind, content = 1, b"".join([_tag(1, len(value)) + value for value in values])
        key = name.encode()
        head = _tag(kind, len(content))
        head = b"".join((_tag(1, len(key)), key, _tag(2, len(head) + len(content)), head))
        parts += _tag(1, len(head) + len(content)), head, content
    return b"".join((_tag(1, sum(len(part) for part in parts)), *parts))


def _tag(field: int, size: int) -> bytes:
    """The tag and length before a field's bytes."""
    key = field << 3 | LENGTH
    return bytes((key, size)) if size < 0x80 else bytes((key,)) + _as_varint(size)


def _packed(values: Array) -> bytes:
    """A list of int64 as protobuf packs them, in portions that take little memory."""
    if not len(values) or (values.min() >= 0 and values.max() < 0x80):
        return bytes(values.astype(np.uint8))
    if len(values) <= FEW_VALUES:
        return b"".join(_as_varint(value & (1 << 64) - 1) for value in values.tolist())
    starts = range(0, len(values), PACKED_AT_ONCE)
    return b"".join(_many_packed(values[start : start + PACKED_AT_ONCE].astype(np.uint64)) for start in starts)


def _many_packed(values: Array) -> bytes:
    width = (int(values.max()).bit_length() + 6) // 7
    rest = values[:, None] >> (7 * np.arange(width, dtype=np.uint64))
    used = rest != 0
    used[:, 0] = True
    digits = (rest & np.uint64(0x7F)).astype(np.uint8)
    digits[:, :-1] |= used[:, 1:].astype(np.uint8) << 7
    return bytes(digits[used])


def _as_varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
