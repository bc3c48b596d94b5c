"""What the doctor may say: findings by weight, each with its remedy. Pure data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Weight(StrEnum):
    """How much a finding matters."""

    BLOCKS = "blocks"
    """Nothing is learnt, or nothing new served, until it is mended or has passed."""
    WAITS = "waits"
    """Nothing is wrong: the loop waits for people."""
    SLOWS = "slows"
    """Much is lost, and the loop goes on."""
    NOTE = "note"
    """Good to know."""


@dataclass(frozen=True)
class Finding:
    """One thing that the doctor found."""

    weight: Weight
    code: str
    """Short and stable, for scripts."""
    message: str
    remedy: str = ""


def blocks(code: str, message: str, remedy: str = "") -> Finding:
    """A finding that keeps the loop from learning."""
    return Finding(Weight.BLOCKS, code, message, remedy)


def waits(code: str, message: str, remedy: str = "") -> Finding:
    """A finding that passes by itself while people go on."""
    return Finding(Weight.WAITS, code, message, remedy)


def slows(code: str, message: str, remedy: str = "") -> Finding:
    """A finding that costs much."""
    return Finding(Weight.SLOWS, code, message, remedy)


def note(code: str, message: str, remedy: str = "") -> Finding:
    """A finding that is good to know."""
    return Finding(Weight.NOTE, code, message, remedy)
