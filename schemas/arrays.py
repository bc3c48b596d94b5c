"""Number arrays on the wire: base64 of little-endian int32 or float32.

Exact, and half the bytes of JSON lists. In Python they are plain tuples; a float is rounded to float32 on
validation, so that what a model holds equals what it writes.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema


def _unpack(value: str, code: str) -> tuple[Any, ...]:
    try:
        data = base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from error
    if len(data) % 4:
        raise ValueError(f"{len(data)} bytes are no whole number of 4-byte values")
    return struct.unpack(f"<{len(data) // 4}{code}", data)


def _pack(values: Iterable[Any], code: str) -> str:
    items = tuple(values)
    return base64.b64encode(struct.pack(f"<{len(items)}{code}", *items)).decode("ascii")


def _sequence(value: object) -> tuple[Any, ...]:
    if not isinstance(value, Iterable):
        raise ValueError("neither base64 nor a list of numbers")
    return tuple(value)


def _int32(value: object) -> object:
    if isinstance(value, str):
        return _unpack(value, "i")
    items = _sequence(value)
    if any(type(item) is not int or not -(2**31) <= item < 2**31 for item in items):
        raise ValueError("not all values are 32-bit integers")
    return items


def _float32(value: object) -> object:
    if isinstance(value, str):
        items = _unpack(value, "f")
    else:
        raw = _sequence(value)
        try:
            items = struct.unpack(f"<{len(raw)}f", struct.pack(f"<{len(raw)}f", *raw))
        except (struct.error, OverflowError) as error:
            raise ValueError(f"not all values are float32: {error}") from error
    if any(math.isnan(item) for item in items):
        raise ValueError("not a number (NaN) among the values")
    return items


Int32Array = Annotated[
    tuple[int, ...],
    BeforeValidator(_int32),
    PlainSerializer(lambda items: _pack(items, "i"), return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "contentEncoding": "base64", "description": "little-endian int32"}),
]
Float32Array = Annotated[
    tuple[float, ...],
    BeforeValidator(_float32),
    PlainSerializer(lambda items: _pack(items, "f"), return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "contentEncoding": "base64", "description": "little-endian float32"}),
]
