"""TFRecord files: records cut out of bytes, with every checksum looked at.

A record is its length (8 bytes, little-endian), the masked CRC-32C of the length (4), the data, and the masked
CRC-32C of the data (4); see tensorflow/core/lib/io/record_writer.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from typing import Any

import google_crc32c
import numpy as np

from tfspawner.errors import DataError

HEADER = struct.Struct("<QI")
FOOTER = struct.Struct("<I")
OVERHEAD = HEADER.size + FOOTER.size
GZIP_MAGIC = b"\x1f\x8b"


def masked_crc(data: bytes) -> int:
    """TFRecord's checksum of the data: CRC-32C, rotated and shifted."""
    crc: int = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def is_header(data: bytes) -> bool:
    """Whether these 12 bytes begin a record."""
    return len(data) == HEADER.size and masked_crc(data[:8]) == HEADER.unpack(data)[1]


def frame(data: bytes) -> bytes:
    """A record with its length and checksums, as a file holds it."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, FOOTER.pack(masked_crc(length)), data, FOOTER.pack(masked_crc(data))))


class Cutter:
    """Cuts a stream of bytes into records; `offset` is where the next one begins, `size` the whole file's size."""

    def __init__(self, uri: str, offset: int = 0, size: int | None = None) -> None:
        self.uri, self.offset, self.count, self.size = uri, offset, 0, size
        self._rest = b""

    def feed(self, data: bytes, until: int | None = None) -> Iterator[bytes]:
        """The records that end in data; only those that begin before `until`. Raises DataError for a damaged one."""
        here = 0
        if self._rest:  # the record under way is completed by itself: to put it before all of data would copy that
            while here < len(data) and (need := self.lacking):
                self._rest += data[here : here + need]
                here += need
            begun, self._rest = self._rest, b""
            yield from self._cut(begun, 0, until)
            if self._rest:
                return
        yield from self._cut(data, here, until)

    def _cut(self, buffer: bytes, here: int, until: int | None) -> Iterator[bytes]:
        while until is None or self.offset < until:
            if len(buffer) - here < HEADER.size:
                break
            end = here + self._length(buffer, here)
            if end > len(buffer):
                break
            record = buffer[here + HEADER.size : end - FOOTER.size]
            if masked_crc(record) != FOOTER.unpack_from(buffer, end - FOOTER.size)[0]:
                raise self.damaged("data")
            self.offset += end - here
            self.count += 1
            here = end
            yield record
        self._rest = buffer[here:]

    def _length(self, buffer: bytes, here: int) -> int:
        """The whole size of the record that begins there. Raises DataError if it is damaged or exceeds the file."""
        length, crc = HEADER.unpack_from(buffer, here)
        if masked_crc(buffer[here : here + 8]) != crc:
            raise self.damaged("length")
        self._bound(length)
        return OVERHEAD + int(length)

    def _bound(self, length: int) -> None:
        end = self.offset + OVERHEAD + length
        if self.size is not None and end > self.size:
            raise DataError(
                f"{self.uri} is cut off: record {self.count} at byte {self.offset} should reach to byte {end}, and the"
                f" file has {self.size}",
                hint="copy the file again",
            )

    @property
    def held(self) -> int:
        """How many bytes of the current record are here."""
        return len(self._rest)

    @property
    def lacking(self) -> int:
        """How many more bytes the current record needs, as far as is known; 0 at a record's end."""
        if not self._rest:
            return 0
        if len(self._rest) < HEADER.size:
            return HEADER.size - len(self._rest)
        return self._length(self._rest, 0) - len(self._rest)

    def finish(self) -> None:
        """Raises DataError if the file ends within a record."""
        if self._rest:
            raise DataError(
                f"{self.uri} is cut off: record {self.count} at byte {self.offset} ends after {len(self._rest)} bytes",
                hint="copy the file again",
            )

    def damaged(self, what: str) -> DataError:
        """The error for the record at which the cutter stands; `what` is the part of it that is wrong."""
        first = self.offset == 0 and self.count == 0
        return DataError(
            f"{self.uri} is damaged: record {self.count} at byte {self.offset}: its {what} does not match its checksum"
            + ("; is it a TFRecord file?" if first else ""),
            hint="tf-spawner data check finds all such files",
        )


@cache
def _crc_table() -> Any:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1)
    return table.astype(np.uint32)


def boundaries(data: bytes) -> Iterator[int]:
    """Where in data a record may begin: its length, below 4 GiB, matches its checksum (by chance: 1 in 2^32)."""
    view = np.frombuffer(data, np.uint8)
    if len(view) < HEADER.size:
        return
    last = len(view) - HEADER.size + 1
    zero = view == 0
    places = np.flatnonzero(zero[4 : 4 + last] & zero[5 : 5 + last] & zero[6 : 6 + last] & zero[7 : 7 + last])
    table = _crc_table()
    crc = np.full(len(places), 0xFFFFFFFF, np.uint32)
    for byte in range(8):
        crc = table[(crc ^ view[places + byte]) & 0xFF] ^ (crc >> np.uint32(8))
    crc = ~crc
    masked = (crc >> np.uint32(15) | crc << np.uint32(17)) + np.uint32(0xA282EAD8)
    stored = sum(view[places + 8 + byte].astype(np.uint32) << np.uint32(8 * byte) for byte in range(4))
    yield from places[masked == stored].tolist()
