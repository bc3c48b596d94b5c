"""The event-log port: an append-only, partitioned, durable log of records.

Knows bytes, keys, partitions and offsets; knows nothing of what the records mean.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from exchange.closeable import Closeable
from schemas.errors import AttuneError, InvalidInput, Unavailable
from schemas.topics import POLICY
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

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}@{self.offset}"


@dataclass(frozen=True)
class StoredRecord:
    """A record as read back, with its place and the log's own arrival time (ms since the epoch)."""

    position: Position
    timestamp_ms: int
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


class LogMisconfigured(Unavailable):
    """The log answers, and will not work until someone changes its settings or its topics: a wrong password, a topic
    that is missing. To a running process that is the same as being away; one that starts stops instead.
    """


def require_configured(log: EventLog) -> None:
    """Check at the start of a process that a log can be used; one that is away is no fault.

    Raises:
        LogMisconfigured: it cannot, until someone changes what the message says.
    """
    try:
        log.partitions(POLICY.name)
    except LogMisconfigured:
        raise
    except Unavailable:
        return


class RecordsLost(AttuneError):
    """Records that a reader had not read yet are gone: retention deleted them.

    `oldest` is the first offset of `partition` that is left (its end where all are gone), and `wanted` the one that
    the reader stood at. The reader stays there and raises again; to go on, open a reader at `oldest`.
    """

    def __init__(self, partition: TopicPartition, *, wanted: int, oldest: int) -> None:
        super().__init__(
            f"the records {wanted} to {oldest - 1} of {partition} were deleted before they were read",
            remedy=f"Read on from {oldest}, and keep records longer than readers are ever away.",
        )
        self.partition = partition
        self.wanted = wanted
        self.oldest = oldest


class LogReplaced(AttuneError):
    """A topic is not the one that a reader began with: it was deleted and made anew, or restored from an old copy.

    Offsets of the old one mean nothing in it. `wanted` is where the reader stood in `partition`. It stays there and
    raises again; to go on, decide what the records read so far are worth, and open a reader at 0.
    """

    def __init__(self, partition: TopicPartition, *, wanted: int, why: str) -> None:
        super().__init__(
            f"the topic {partition.topic} is another one than before: {why}",
            remedy="Find out who made it anew; then read it from its start.",
        )
        self.partition = partition
        self.wanted = wanted


class RecordsRefused(InvalidInput):
    """The log will never take some records of an append, and stored all the others.

    `outcomes` says so in the order of the records: where each one lies, or why it was refused.
    """

    def __init__(self, outcomes: Sequence[Position | InvalidInput]) -> None:
        refused = [outcome for outcome in outcomes if isinstance(outcome, InvalidInput)]
        super().__init__(refused[0].message, field=refused[0].field, remedy=refused[0].remedy)
        self.outcomes = tuple(outcomes)


class LogReader(Protocol):
    """Reads assigned partitions forward. Not safe for use by two threads at once."""

    def poll(self, *, max_records: int = 1000, timeout_s: float = 0.0) -> list[StoredRecord]:
        """Up to `max_records` further records, in offset order within each partition.

        Waits up to `timeout_s` for the first; an empty list means none came.

        Raises:
            Unavailable: the log cannot be reached.
            RecordsLost: retention deleted records before they were read.
            LogReplaced: a topic was deleted and made anew since the reader was opened, or ends before its offset.
        """
        ...

    def positions(self) -> Mapping[TopicPartition, int]:
        """The next offset that will be read, by partition."""
        ...

    def close(self) -> None: ...


class EventLog(Closeable, Protocol):
    """The log. Every method blocks: call from a thread, never from an event loop (see `exchange.log.appender`)."""

    def append(self, records: Sequence[LogRecord]) -> list[Position]:
        """Append all records; when it returns they are durable, in this order within each partition.

        Records with equal keys go to the same partition of a topic.

        Raises:
            Unavailable: the log cannot be reached or is full. Some of the records may have been appended.
            InvalidInput: the log will never take a record (unknown topic, too large), and none was appended; or, as
                its subclass RecordsRefused, those that it takes were.
        """
        ...

    def partitions(self, topic: str) -> tuple[int, ...]:
        """The partition numbers of a topic. Raises InvalidInput where the topic does not exist, and Unavailable."""
        ...

    def identity(self, topic: str) -> str:
        """A name that a topic keeps for life, and that another one made in its place does not have.

        To be stored with offsets: where it differs later, they mean nothing any more. Raises as `partitions`.
        """
        ...

    def start_offset(self, partition: TopicPartition) -> int:
        """The offset of the oldest record that retention left; the end offset where there is none. Raises as
        `end_offset`.
        """
        ...

    def end_offset(self, partition: TopicPartition) -> int:
        """The offset that the next record will get or exceed; 0 for a partition that never held one.

        Raises:
            InvalidInput: there is no such partition.
            Unavailable: the log cannot be reached.
        """
        ...

    def reader(self, offsets: Mapping[TopicPartition, int]) -> LogReader:
        """A reader of exactly these partitions, each from its given offset.

        0 stands for the oldest record that is left, whatever retention deleted before it; every other offset that is
        gone is RecordsLost when it is polled.

        Raises:
            InvalidInput: there is no such partition.
            Unavailable: the log cannot be reached.
        """
        ...

    def note_offsets(self, reader: str, offsets: Mapping[TopicPartition, int]) -> None:
        """Tell tools that show lag how far a reader has come: for them alone, nobody reads it back. `reader` is a
        name of its own, a consumer group to Kafka. Logs that have no such tools do nothing.

        Raises:
            Unavailable: it could not be noted, and that does no harm.
        """
        ...


def partition_for(key: bytes, partitions: int) -> int:
    """The partition of a key in the logs that choose it themselves (Kafka's client has its own choice)."""
    return zlib.crc32(key) % partitions
