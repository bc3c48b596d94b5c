"""The base model that a trainer works on: where it lies and what it is. Knows its files; loads none of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from exchange.fingerprint import base_fingerprint, chat_template_hash, local_model_folder
from trainer.settings import TrainerSettings


@dataclass(frozen=True)
class Home:
    """The base model, as the manifest names it."""

    model: Path
    base_fingerprint: str
    chat_template_hash: str
    device: str

    @classmethod
    def of(cls, settings: TrainerSettings) -> Self:
        """The settings' model. Raises ConfigError where there is none."""
        folder = local_model_folder(settings.model)
        device = settings.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(folder, base_fingerprint(folder), chat_template_hash(folder), device)
