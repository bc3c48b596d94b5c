"""The key-store port: one encryption key per person, so that erasing a person is destroying a key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class SubjectKey:
    """A subject's key (32 bytes). The secret never shows in logs or tracebacks."""

    key_id: str
    secret: bytes

    def __repr__(self) -> str:
        return f"SubjectKey(key_id={self.key_id!r}, secret=<hidden>)"


class KeyStore(Protocol):
    """Keys by subject. Methods block, and several processes may use one store at once."""

    def key_for(self, subject: str) -> SubjectKey:
        """The subject's current key, made and durably stored if there is none."""
        ...

    def keys_for(self, subjects: Sequence[str]) -> list[SubjectKey]:
        """The current keys of the subjects, in their order. What is missing is made and stored together, which costs
        little more than one; either all are there afterwards or none was made.
        """
        ...

    def lookup(self, key_id: str) -> SubjectKey | None:
        """The key of that id; None where it was destroyed (or never was)."""
        ...

    def destroy(self, subject: str, *, until_ms: int | None = None) -> tuple[str, ...]:
        """Destroy all keys of a subject for good; returns their ids. A later `key_for` makes a new one.

        Args:
            until_ms: spare a key made later than this (ms since the epoch), as of a person who came back.
        """
        ...

    def close(self) -> None: ...
