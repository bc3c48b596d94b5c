"""Records as frames of a file: each tells its length and checksum, so that what was torn or altered is found and
everything around it is still read. Knows bytes and records; knows nothing of what keeps them.

A frame is `MAGIC | length of the payload, u32 | ms since the epoch, u64 | CRC-32 of all but itself, u32 | payload`, all
big-endian. The payload is the record's topic, key, value and headers, each with its length. Other layouts will have
another magic.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from schemas.wire import LogRecord

MAGIC = b"\xa7SP1"
_HEAD = struct.Struct(">4sIQI")
_LENGTH = struct.Struct(">I")
HEAD_BYTES = _HEAD.size


@dataclass(frozen=True)
class Frame:
    """A whole frame: the record, when it was written (ms since the epoch), and where it ends."""

    record: LogRecord
    at: int
    end: int


@dataclass(frozen=True)
class Damage:
    """Bytes from `start` to `end` that are no whole frame."""

    start: int
    end: int


def encode_frame(record: LogRecord, at: int) -> bytes:
    """The frame of a record that is written at `at` (ms since the epoch)."""
    parts = [record.topic.encode(), record.key, record.value]
    for name, value in record.headers:
        parts += [name.encode(), value]
    payload = b"".join(piece for part in parts for piece in (_LENGTH.pack(len(part)), part))
    checksum = _checksum(len(payload), at, payload)
    return _HEAD.pack(MAGIC, len(payload), at, checksum) + payload


def scan(data: bytes, start: int = 0) -> Iterator[Frame | Damage]:
    """Every frame of `data` from `start` on, in order, and the stretches between that are none."""
    while start < len(data):
        frame = read_frame(data, start)
        if frame is not None:
            yield frame
            start = frame.end
            continue
        end = _next_whole(data, start + 1)
        yield Damage(start, end)
        start = end


def read_frame(data: bytes, start: int) -> Frame | None:
    """The frame that begins at `start`; None where none does, or where it is not whole."""
    if len(data) - start < HEAD_BYTES:
        return None
    magic, length, at, checksum = _HEAD.unpack_from(data, start)
    end = start + HEAD_BYTES + length
    if magic != MAGIC or end > len(data):
        return None
    payload = data[start + HEAD_BYTES : end]
    if _checksum(length, at, payload) != checksum:
        return None
    return Frame(_record(payload), at, end)


def written_at(path: Path, offset: int) -> int | None:
    """When the frame at `offset` of a file was written, by its head alone; None where none is. Raises OSError."""
    with path.open("rb") as file:
        file.seek(offset)
        head = file.read(HEAD_BYTES)
    if len(head) < HEAD_BYTES:
        return None
    magic, _, at, _ = _HEAD.unpack(head)
    return int(at) if magic == MAGIC else None


def _next_whole(data: bytes, start: int) -> int:
    """Where the next whole frame begins, or the end of `data`.

    What users write cannot look like one: it comes as JSON, which has no such bytes, or sealed.
    """
    while (found := data.find(MAGIC, start)) >= 0:
        if read_frame(data, found) is not None:
            return found
        start = found + 1
    return len(data)


def _checksum(length: int, at: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(_HEAD.pack(MAGIC, length, at, 0)))


def _record(payload: bytes) -> LogRecord:
    parts: list[bytes] = []
    place = 0
    while place < len(payload):
        (length,) = _LENGTH.unpack_from(payload, place)
        place += _LENGTH.size
        parts.append(payload[place : place + length])
        place += length
    topic, key, value, *rest = parts
    headers = tuple((name.decode(), text) for name, text in zip(rest[::2], rest[1::2], strict=True))
    return LogRecord(topic.decode(), key, value, headers)
