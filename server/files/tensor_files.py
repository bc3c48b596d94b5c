"""Safetensors files from outside: their headers read without trust, their numbers looked at in small pieces.

Knows the format and its lies; knows nothing of what the tensors are for. Nothing is unpickled, and no tensor is ever
held whole.

Form: 8 bytes (length of the header, little-endian), the header (a JSON object: name -> dtype, shape, data_offsets),
the tensors' bytes without gaps.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

import numpy as np

from schemas.errors import IntegrityError

MAX_HEADER_BYTES = 100_000_000
"""What the safetensors library itself takes."""
_LENGTH_BYTES = 8
_CHUNK = 2**20
_METADATA = "__metadata__"
_PICKLE = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""How PyTorch's own files begin: a zip archive, or a bare pickle of some protocol."""
_EXPONENTS = {"F32": ("<u4", 0x7F80_0000), "F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80)}
"""Types that can be checked: as which unsigned number a value is read, and which bits are all set in NaN and Inf."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file. `start` and `end` are bytes from the beginning of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def parse_strict(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object in which no name comes twice and every number is finite.

    Raises:
        IntegrityError: it is none.
    """
    try:
        value = json.loads(data, object_pairs_hook=_no_name_twice, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:  # also UnicodeError, which is a ValueError
        raise IntegrityError(f"{what} is no valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise IntegrityError(f"{what} is no JSON object")
    return value


def read_header(file: BinaryIO, what: str, limit: int = MAX_HEADER_BYTES) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file as it stands, without `__metadata__`, and where the tensors' bytes begin.

    Raises:
        IntegrityError: it is longer than `limit` or than the file, no JSON, or no safetensors at all.
    """
    size = os.fstat(file.fileno()).st_size
    first = file.read(_LENGTH_BYTES)
    length = int.from_bytes(first, "little")
    if len(first) < _LENGTH_BYTES or length > min(limit, size - _LENGTH_BYTES):
        if first.startswith(_PICKLE):
            raise IntegrityError(
                f"{what} is a pickle (PyTorch's own format), which could run code when it is loaded",
                remedy="Save the weights with safetensors.",
            )
        raise IntegrityError(
            f"{what} is no safetensors file, or cut: it announces a header of {length} bytes, and the file has {size}"
        )
    header = parse_strict(file.read(length), f"the header of {what}")
    header.pop(_METADATA, None)
    return header, _LENGTH_BYTES + length


def read_tensors(file: BinaryIO, what: str, limit: int) -> list[Tensor]:
    """The tensors of a safetensors file in the order of their bytes, of types that `is_finite` can check.

    Raises:
        IntegrityError: as `read_header`; or an entry is malformed, of another type, or the entries do not cover the
            rest of the file exactly once.
    """
    header, begin = read_header(file, what, limit)
    tensors = [_tensor(name, entry, begin, what) for name, entry in header.items()]
    tensors.sort(key=lambda one: (one.start, one.end))
    end = begin
    for tensor in tensors:
        if tensor.start != end:
            raise IntegrityError(f"{what}: the bytes of {tensor.name[:200]!r} overlap another tensor's, or leave a gap")
        end = tensor.end
    if end != (size := os.fstat(file.fileno()).st_size):
        raise IntegrityError(f"{what} has {size} bytes, and its header speaks of {end}: it was cut, or lies")
    return tensors


def is_finite(file: BinaryIO, tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity. Reads at most a megabyte at a time."""
    kind, exponent = _EXPONENTS[tensor.dtype]
    file.seek(tensor.start)
    left = tensor.end - tensor.start
    while left > 0:
        piece = file.read(min(left, _CHUNK))
        if not piece:
            return False
        left -= len(piece)
        if bool(np.any((np.frombuffer(piece, kind) & exponent) == exponent)):
            return False
    return True


def _tensor(name: str, entry: Any, begin: int, what: str) -> Tensor:
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(start), int(end)], **rest} if (
            not rest and all(type(size) is int and 0 <= size < 2**31 for size in shape) and 0 <= start <= end
        ):
            pass
        case _:
            raise IntegrityError(f"{what}: the header's entry for {name[:200]!r} is malformed")
    if dtype not in _EXPONENTS:
        raise IntegrityError(
            f"{what}: {name[:200]!r} is of type {dtype[:20]}", remedy=f"Types are: {', '.join(_EXPONENTS)}."
        )
    if end - start != math.prod(shape) * np.dtype(_EXPONENTS[dtype][0]).itemsize:
        raise IntegrityError(f"{what}: {name[:200]!r} has {end - start} bytes, which does not fit its shape {shape}")
    return Tensor(name, dtype, tuple(shape), begin + start, begin + end)


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice in one object")
    return found


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")
