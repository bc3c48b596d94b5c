"""The event-log port: an append-only, partitioned, durable log of records.

Knows bytes, keys, partitions and offsets; knows nothing of what the records mean.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from schemas.wire import LogRecord


@dataclass(frozen=True, order=True)
class TopicPartition:
    """One ordered strand of a topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"


@dataclass(frozen=True)
class Position:
    """Where a record lies. Offsets count up within a partition; gaps are possible."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True)
class StoredRecord:
    """A record as read back, with its place and the log's own arrival time (ms since the epoch)."""

    position: Position
    timestamp_ms: int
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


class LogReader(Protocol):
    """Reads assigned partitions forward. Not safe for use by two threads at once."""

    def poll(self, *, max_records: int = 1000, timeout_s: float = 0.0) -> list[StoredRecord]:
        """Up to `max_records` further records, in offset order within each partition.

        Waits up to `timeout_s` for the first; an empty list means none came.

        Raises:
            Unavailable: the log cannot be reached.
        """
        ...

    def positions(self) -> Mapping[TopicPartition, int]:
        """The next offset that will be read, by partition."""
        ...

    def close(self) -> None: ...


class EventLog(Protocol):
    """The log. Every method blocks: call from a thread, never from an event loop (see `exchange.log.appender`)."""

    def append(self, records: Sequence[LogRecord]) -> list[Position]:
        """Append all records; when it returns they are durable, in this order within each partition.

        Records with equal keys go to the same partition of a topic.

        Raises:
            Unavailable: the log cannot be reached or is full. Some of the records may have been appended.
            InvalidInput: the log will never take a record (unknown topic, too large).
        """
        ...

    def partitions(self, topic: str) -> tuple[int, ...]:
        """The partition numbers of a topic. Raises InvalidInput where the topic does not exist."""
        ...

    def end_offset(self, partition: TopicPartition) -> int:
        """The offset that the next record will get or exceed; 0 for an empty partition."""
        ...

    def reader(self, offsets: Mapping[TopicPartition, int]) -> LogReader:
        """A reader of exactly these partitions, each from its given offset (0 is the start)."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def partition_for(key: bytes, partitions: int) -> int:
    """The partition of a key in the logs that choose it themselves (Kafka's client has its own choice)."""
    return zlib.crc32(key) % partitions
