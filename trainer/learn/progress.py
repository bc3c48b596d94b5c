"""How a learning stage tells its caller how far it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Progress(Protocol):
    """Called from the training thread, often; it must be quick."""

    def __call__(self, stage: str, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """`done` of `total` steps of `stage` are over; `metrics` are those of the last step."""


def silent(stage: str, done: int, total: int, metrics: Mapping[str, float]) -> None:
    """A `Progress` that tells nobody."""
