"""Made-up adapters as files, sound or broken in one place, byte by byte: for the base that the in-memory engine claims.

Writes safetensors by hand, because a library would refuse to write what must be refused when it is read.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from server.engine.memory import LAYERS

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
RANK = 2
TARGETS = ("down_proj", "q_proj")
SHAPES = {f"model.{layer}": next(iter(shapes)) for layer, shapes in LAYERS.items()}
"""The base's layers by the names that a trainer sees, with (out, in) features."""

Tensors = dict[str, tuple[str, list[int], bytes]]
"""Name -> type, shape, bytes."""


def config_of(**changes: Any) -> dict[str, Any]:
    """PEFT's configuration of a plain LoRA, with what PEFT writes beside it."""
    made = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "support",
        "r": RANK,
        "lora_alpha": 4,
        "lora_dropout": 0.0,
        "target_modules": sorted(TARGETS),
        "bias": "none",
        "inference_mode": True,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "megatron_core": "megatron.core",
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_dora": False,
        "use_rslora": False,
    }
    return made | changes


def tensors_of(value: float = 0.5, rank: int = RANK) -> Tensors:
    """Both matrices of every layer, all of one value."""
    made: Tensors = {}
    for layer, (rows, columns) in SHAPES.items():
        for side, shape in (("A", [rank, columns]), ("B", [rows, rank])):
            made[weight_name(layer, side)] = floats(shape, value)
    return made


def weight_name(layer: str, side: str) -> str:
    """PEFT's name of a matrix."""
    return f"base_model.model.{layer}.lora_{side}.weight"


def floats(shape: list[int], value: float) -> tuple[str, list[int], bytes]:
    """A float32 tensor of one value."""
    count = 1
    for size in shape:
        count *= size
    return "F32", shape, struct.pack("<f", value) * count


def safetensors(tensors: Tensors, **entries: Any) -> bytes:
    """A safetensors file; `entries` come into the header as they are, in place of a tensor's own entry."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, (kind, shape, content) in tensors.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    return with_header(json.dumps(header | entries).encode(), data)


def with_header(header: bytes, data: bytes = b"") -> bytes:
    """A header and what follows it."""
    return struct.pack("<Q", len(header)) + header + data


def adapter_files(
    version: int = 1, *, config: Mapping[str, Any] | None = None, weights: bytes | None = None
) -> dict[str, bytes]:
    """The files of an adapter; versions differ in their weights."""
    return {
        CONFIG: json.dumps(config_of() if config is None else config).encode(),
        WEIGHTS: safetensors(tensors_of(version / 8)) if weights is None else weights,
    }


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write files into a folder, which is made; returns it."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder
