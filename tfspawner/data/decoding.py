"""Decodes records fast and without TensorFlow: by tfrecord-lite if it reads their form correctly, else by example.py.

tfrecord-lite 0.0.8 loses or mixes up what protobuf allows and files do hold: a list without values, a feature that
comes twice, numbers one by one, a name behind its values or with a zero byte, whatever follows a zero byte between
fields. And its time and memory have no bound: a list of n texts is copied n times, numbers are held three times. So a
record's outline is looked through first, which costs less than decoding it.
"""

from __future__ import annotations

import numpy as np
import tfrecord_lite

from tfspawner.errors import DataError

from .encoding import MARK, decode
from .example import Array, read_example

MOST_BYTES = 1 << 20  # of a record that tfrecord-lite is given
MOST_TEXTS = 8  # of a feature
FIRST, SECOND, THIRD = 0x0A, 0x12, 0x1A  # the tags of fields 1, 2 and 3 that hold texts or messages


def read_record(data: bytes, where: str) -> dict[str, Array]:
    """A record's features, restored. Raises DataError for what is no Example."""
    try:
        record = decode_example(data)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
    return decode(record, where) if MARK.encode() in data else record


def decode_example(data: bytes) -> dict[str, Array]:
    """As read_example, with the same values and errors."""
    count = _features_in(data) if len(data) <= MOST_BYTES else 0
    if count:
        try:
            record = tfrecord_lite.decode_example(data)
        except (RuntimeError, ValueError):
            return read_example(data)  # which has the error message
        if len(record) == count:  # else a name occurs twice
            return {name: _texts(values) if type(values) is list else values for name, values in record.items()}
    return read_example(data)


def _texts(values: list[bytes]) -> Array:
    texts = np.empty(len(values), object)
    texts[:] = values
    return texts


def _features_in(data: bytes) -> int:
    """How many features the record has, if it has the form that writers use; 0 if not.

    That form: each feature is a name and one list, and of numbers it is packed. Nothing stands between the fields.
    """
    try:
        at, end = _field(data, 0, FIRST)
        if end != len(data):
            return 0
        count = 0
        while at < end:
            at, entry_end = _field(data, at, FIRST)
            name, at = _field(data, at, FIRST)
            if data.find(0, name, at) >= 0:
                return 0
            at, value_end = _field(data, at, SECOND)
            kind = data[at]
            at, list_end = _field(data, at, kind)
            if not entry_end == value_end == list_end <= end or not _is_list(data, at, list_end, kind):
                return 0
            at = list_end
            count += 1
    except (IndexError, ValueError):
        return 0
    return count


def _is_list(data: bytes, at: int, end: int, kind: int) -> bool:
    """Whether this is a list of texts or of packed numbers that ends exactly at the end."""
    if kind not in (FIRST, SECOND, THIRD):
        return False
    at = _field(data, at, FIRST)[1]
    if kind == FIRST:
        for _ in range(MOST_TEXTS - 1):
            if at >= end:
                break
            at = _field(data, at, FIRST)[1]
    return at == end


def _field(data: bytes, at: int, tag: int) -> tuple[int, int]:
    """Where the content of the field that begins there starts and ends. Raises ValueError if it has another tag."""
    if data[at] != tag:
        raise ValueError
    size = data[at + 1]
    at += 2
    for shift in (7, 14):
        if size < 1 << shift:
            return at, at + size
        size += (data[at] - 1) << shift  # less the bit that says that a byte follows
        at += 1
    if size >= 1 << 21:
        raise ValueError
    return at, at + size
