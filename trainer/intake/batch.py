"""What passes from reading to the ledger: a batch of events, what could not be read or is gone, and who was buried."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from exchange.log.port import Position, TopicPartition
from schemas.event import Event


@dataclass(frozen=True)
class DeadLetter:
    """A record that could not be read, and why."""

    position: Position
    reason: str


@dataclass(frozen=True)
class Gap:
    """Records that the log deleted before they were read: offsets `first` to `next - 1` of a partition."""

    partition: TopicPartition
    first: int
    next: int

    @property
    def records(self) -> int:
        """How many offsets that are; at most so many records."""
        return self.next - self.first


@dataclass(frozen=True)
class Batch:
    """What some records came to, and where reading goes on after them."""

    events: Sequence[Event]
    dead_letters: Sequence[DeadLetter]
    offsets: Mapping[TopicPartition, int]
    """The next offset to read, by partition."""
    gaps: Sequence[Gap] = ()


@dataclass(frozen=True)
class Buried:
    """The rows of one person that a batch made tombstones of."""

    rows: int
    key_ids: frozenset[str]
    """Keys that had sealed their content."""


BeforeCommit = Callable[[Sequence[Event], Mapping[str, Buried]], None]
"""Told of a batch's events and of whom it buried, by subject, inside the transaction."""
