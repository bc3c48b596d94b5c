"""Folders on disk: written whole or not at all, with equal bytes for equal weights.

Knows safetensors, JSON and PEFT's adapter layout. Knows nothing of registries or stores.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

from exchange.durable import sync_folder
from schemas.errors import Conflict, InvalidInput, NotFound

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Give a temporary sibling of `out` to write into; it becomes `out` by one rename, files synced, or is removed.

    Raises:
        Conflict: `out` exists.
    """
    if out.exists():
        raise Conflict(f"{out.name} exists already", field="out")
    work = out.with_name(f".{out.name}.writing")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        yield work
        for path in sorted(work.rglob("*")):
            if path.is_file():
                with path.open("rb") as handle:
                    os.fsync(handle.fileno())
        work.rename(out)
        sync_folder(out.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def folder_digest(folder: Path) -> str:
    """sha-256 over the names and bytes of all files of a folder, in order of name."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            total.update(path.relative_to(folder).as_posix().encode() + b"\0")
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors; equal tensors give equal bytes."""
    ordered = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    save_file(ordered, path, metadata={"format": "pt"})


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file onto the CPU.

    Raises:
        NotFound: there is no such file.
    """
    if not path.is_file():
        raise NotFound(f"{path.name} is missing from {path.parent.name}")
    return dict(load_file(path))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON with sorted keys, so that equal values give equal bytes."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        NotFound: there is no such file.
        InvalidInput: it isn't a JSON object.
    """
    if not path.is_file():
        raise NotFound(f"{path.name} is missing from {path.parent.name}")
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise InvalidInput(f"{path.name} is not a JSON object")
    return value


def write_adapter(folder: Path, weights: Mapping[str, Tensor], config: LoraConfig, public_name: str) -> None:
    """Write a LoRA in PEFT's layout (readable by vLLM and PEFT), naming its base only by `public_name`."""
    write_tensors(folder / ADAPTER_WEIGHTS, weights)
    described = config.to_dict()
    described["base_model_name_or_path"] = public_name
    described["inference_mode"] = True
    # A set of full names, in no fixed order; as all layers are targets, the last parts of the names say it all.
    described["target_modules"] = sorted({name.rpartition(".")[2] for name in config.target_modules or ()})
    write_json(folder / ADAPTER_CONFIG, described)


def read_adapter(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The LoRA weights (names as `SharedBase.parameters`) and configuration of an adapter folder.

    Raises:
        NotFound: a file is missing.
    """
    return read_tensors(folder / ADAPTER_WEIGHTS), read_json(folder / ADAPTER_CONFIG)
