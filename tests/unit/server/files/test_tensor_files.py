"""Safetensors headers that lie, and numbers that are none."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.errors import IntegrityError
from server.files.tensor_files import Tensor, is_finite, read_header, read_tensors
from tests.adapters import floats, safetensors, with_header

ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
LIMIT = 10_000


def read(folder: Path, data: bytes) -> list[Tensor]:
    path = folder / "w.safetensors"
    path.write_bytes(data)
    with path.open("rb") as file:
        return read_tensors(file, "w.safetensors", LIMIT)


def headed(entries: object, data: bytes = b"\0\0\0\0") -> bytes:
    return with_header(json.dumps(entries).encode(), data)


def test_a_sound_file_is_read_in_the_order_of_its_bytes(tmp_path: Path) -> None:
    made = {"b": floats([2, 3], 1.0), "a": floats([4], 2.0), "empty": floats([0], 0.0), "scalar": floats([], 3.0)}
    tensors = read(tmp_path, safetensors(made))
    assert [(one.name, one.shape, one.end - one.start) for one in tensors] == [
        ("b", (2, 3), 24),
        ("a", (4,), 16),
        ("empty", (0,), 0),
        ("scalar", (), 4),
    ]


def test_the_library_reads_what_is_read_here(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    made = {"x": torch.ones(2, 3), "y": torch.ones(5, dtype=torch.bfloat16), "z": torch.ones(1, dtype=torch.float16)}
    save_file(made, tmp_path / "w.safetensors", metadata={"format": "pt"})
    tensors = read(tmp_path, (tmp_path / "w.safetensors").read_bytes())
    assert {one.name: (one.dtype, one.shape) for one in tensors} == {
        "x": ("F32", (2, 3)),
        "y": ("BF16", (5,)),
        "z": ("F16", (1,)),
    }


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no safetensors file, or cut"),
        (b"\x10\0\0", "no safetensors file, or cut"),
        (struct.pack("<Q", 2**63) + b"{}", "announces a header of 9223372036854775808 bytes"),
        (struct.pack("<Q", LIMIT + 1) + b" " * (LIMIT + 1), f"announces a header of {LIMIT + 1} bytes"),
        (struct.pack("<Q", 3) + b"{}", "announces a header of 3 bytes, and the file has 10"),
        (with_header(b"[]"), "no JSON object"),
        (with_header(b"{"), "no valid JSON"),
        (with_header(b"\xff\xfe"), "no valid JSON"),
        (with_header(b'{"a":' + b"[" * 4_000 + b"]" * 4_000 + b"}"), "no valid JSON"),
        (with_header(b'{"a":NaN}'), "NaN is no number"),
        (with_header(json.dumps({"a": ENTRY}).encode()[:-1] + b',"a":{}}', b"\0" * 4), "a name comes twice"),
        (headed({"a": []}), "entry for 'a' is malformed"),
        (headed({"a": {**ENTRY, "more": 1}}), "malformed"),
        (headed({"a": {**ENTRY, "shape": [-1]}}), "malformed"),
        (headed({"a": {**ENTRY, "shape": [True]}}), "malformed"),
        (headed({"a": {**ENTRY, "shape": [1.0]}}), "malformed"),
        (headed({"a": {**ENTRY, "shape": "1"}}), "malformed"),
        (headed({"a": {**ENTRY, "data_offsets": [4, 0]}}), "malformed"),
        (headed({"a": {**ENTRY, "data_offsets": [-4, 0]}}), "malformed"),
        (headed({"a": {**ENTRY, "data_offsets": [0]}}), "malformed"),
        (headed({"a": {**ENTRY, "shape": [2**30, 2**30, 2**30]}}), "does not fit its shape"),
        (headed({"a": {**ENTRY, "shape": [2]}}), "has 4 bytes, which does not fit its shape"),
        (headed({"a": {**ENTRY, "dtype": "F64"}}), "'a' is of type F64"),
        (headed({"a": {**ENTRY, "dtype": "I64"}}), "'a' is of type I64"),
        (headed({"a": ENTRY, "b": ENTRY}), "'b' overlap another tensor's, or leave a gap"),
        (headed({"a": {**ENTRY, "data_offsets": [4, 8]}}, b"\0" * 8), "or leave a gap"),
        (headed({"a": {**ENTRY, "data_offsets": [2**62, 2**62 + 4]}}), "or leave a gap"),
        (headed({"a": ENTRY}, b"\0" * 3), "it was cut, or lies"),
        (headed({"a": ENTRY}, b"\0" * 5), "it was cut, or lies"),
        (pickle.dumps({"a": [1.0] * 100}), "is a pickle"),
        (pickle.dumps({"a": [1.0] * 100}, protocol=2), "is a pickle"),
    ],
)
def test_lies_are_refused_in_words(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(IntegrityError) as refused:
        read(tmp_path, data)
    assert words in str(refused.value)


def test_a_pickle_in_a_zip_is_called_one_and_never_opened(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "it-ran",))

    with zipfile.ZipFile(tmp_path / "w.safetensors", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Bomb()))
    with pytest.raises(IntegrityError, match="is a pickle"):
        read(tmp_path, (tmp_path / "w.safetensors").read_bytes())
    assert not (tmp_path / "it-ran").exists()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200), keep=st.integers(0, 200), flip=st.integers(0, 199), mask=st.integers(1, 255))
def test_no_bytes_do_more_than_be_refused(tmp_path: Path, data: bytes, keep: int, flip: int, mask: int) -> None:
    sound = safetensors({"a": floats([2], 1.0), "b": floats([1, 3], 2.0)})
    altered = bytearray(sound)
    altered[flip % len(sound)] ^= mask
    for candidate in (data, sound[: keep % len(sound)], bytes(altered), sound + data):
        try:
            tensors = read(tmp_path, candidate)
        except IntegrityError:
            continue
        assert sum(one.end - one.start for one in tensors) <= len(candidate)


@pytest.mark.parametrize(
    ("kind", "bits", "finite"),
    [
        ("F32", struct.pack("<f", 3.4e38), True),
        ("F32", struct.pack("<f", float("nan")), False),
        ("F32", struct.pack("<f", float("-inf")), False),
        ("F32", struct.pack("<I", 0xFFC0_0001), False),
        ("F32", struct.pack("<I", 1), True),
        ("F16", struct.pack("<e", 65504.0), True),
        ("F16", struct.pack("<e", float("inf")), False),
        ("F16", struct.pack("<e", float("nan")), False),
        ("BF16", struct.pack("<H", 0x7F7F), True),
        ("BF16", struct.pack("<H", 0xFF80), False),
        ("BF16", struct.pack("<H", 0x7FC0), False),
    ],
)
@pytest.mark.parametrize("at", [0, 700_000, 1_299_999])
def test_what_is_no_number_is_found_wherever_it_lies(
    tmp_path: Path, kind: str, bits: bytes, finite: bool, at: int
) -> None:
    zeros = bytearray(1_300_000 * len(bits))  # more than one piece
    zeros[at * len(bits) : (at + 1) * len(bits)] = bits
    data = safetensors({"a": floats([1], 0.0), "b": (kind, [1_300_000], bytes(zeros))})
    tensors = read(tmp_path, data)
    with (tmp_path / "w.safetensors").open("rb") as file:
        assert [is_finite(file, tensor) for tensor in tensors] == [True, finite]


def test_a_header_alone_is_read_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "base.safetensors"
    path.write_bytes(headed({"__metadata__": {}, "a.qweight": {"dtype": "F8_E5M2", "shape": [7], "x": 1}}))
    with path.open("rb") as file:
        header, begin = read_header(file, "base")
    assert header == {"a.qweight": {"dtype": "F8_E5M2", "shape": [7], "x": 1}}
    assert path.stat().st_size == begin + 4
