"""Checkpoints of a training run: one folder per step, written whole, the latest kept.

Knows tensors by name and a JSON state. Nothing is pickled.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from schemas.errors import NotFound
from trainer.models.files import read_json, read_tensors, whole_folder, write_json, write_tensors

_PREFIX = "step-"
_TENSORS, _STATE = "tensors.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on as if it had not stopped."""

    tensors: dict[str, Tensor]
    """By name, `PART/NAME`."""
    state: dict[str, Any]
    """JSON values."""

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors of one part, their names without it."""
        prefix = f"{name}/"
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}


def write_checkpoint(folder: Path, step: int, parts: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any]) -> Path:
    """Write the checkpoint of `step` into `folder` and remove the ones before it. Returns its own folder."""
    out = folder / f"{_PREFIX}{step:08d}"
    with whole_folder(out) as work:
        tensors = {f"{part}/{name}": value for part, named in parts.items() for name, value in named.items()}
        write_tensors(work / _TENSORS, tensors)
        write_json(work / _STATE, state)
    for old in _steps(folder):
        if old.name < out.name:
            shutil.rmtree(old)
    return out


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read the latest checkpoint in `folder`.

    Raises:
        NotFound: there is none.
    """
    found = _steps(folder)
    if not found:
        raise NotFound(f"There is no checkpoint in {folder.name}")
    return Checkpoint(read_tensors(found[-1] / _TENSORS), read_json(found[-1] / _STATE))


def _steps(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if (path / _STATE).is_file())
