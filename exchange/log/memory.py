"""The event log in memory: for tests and for trying things out. It ends with its process.

A compacted topic keeps all its records here: compaction is a saving of space, never a promise to readers.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping, Sequence

from exchange.closeable import Closeable
from exchange.log.checks import check_records, topic_named
from exchange.log.port import LogReplaced, Position, StoredRecord, TopicPartition, partition_for
from schemas.base import now_ms
from schemas.errors import InvalidInput, Unavailable
from schemas.topics import TOPICS
from schemas.wire import LogRecord


class MemoryLog(Closeable):
    """An `EventLog` in this process. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._closed = False
        self._identity = uuid.uuid4().hex
        self._strands: dict[TopicPartition, list[StoredRecord]] = {
            TopicPartition(topic.name, number): [] for topic in TOPICS.values() for number in range(topic.partitions)
        }

    def append(self, records: Sequence[LogRecord]) -> list[Position]:
        check_records(records)
        now = now_ms()
        positions: list[Position] = []
        with self._changed:
            self._require_open()
            for record in records:
                partition = partition_for(record.key, TOPICS[record.topic].partitions)
                strand = self._strands[TopicPartition(record.topic, partition)]
                position = Position(record.topic, partition, len(strand))
                strand.append(StoredRecord(position, now, record.key, record.value, record.headers))
                positions.append(position)
            self._changed.notify_all()
        return positions

    def partitions(self, topic: str) -> tuple[int, ...]:
        return tuple(range(topic_named(topic).partitions))

    def identity(self, topic: str) -> str:
        return f"{self._identity}/{topic_named(topic).name}"

    def start_offset(self, partition: TopicPartition) -> int:
        with self._changed:
            self._require_open()
            self._strand(partition)
            return 0

    def end_offset(self, partition: TopicPartition) -> int:
        with self._changed:
            self._require_open()
            return len(self._strand(partition))

    def reader(self, offsets: Mapping[TopicPartition, int]) -> MemoryReader:
        for partition in offsets:
            self._strand(partition)
        return MemoryReader(self, offsets)

    def note_offsets(self, reader: str, offsets: Mapping[TopicPartition, int]) -> None:
        pass

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def read(self, offsets: Mapping[TopicPartition, int], limit: int, timeout_s: float) -> list[StoredRecord]:
        """Up to `limit` records from these offsets on, waiting up to `timeout_s` for the first."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                self._require_open()
                found: list[StoredRecord] = []
                for partition, offset in offsets.items():
                    if offset > (end := len(self._strands[partition])):
                        raise LogReplaced(partition, wanted=offset, why=f"it ends at {end}")
                    found += self._strands[partition][offset : offset + limit - len(found)]
                left = deadline - time.monotonic()
                if found or left <= 0:
                    return found
                self._changed.wait(left)

    def _strand(self, partition: TopicPartition) -> list[StoredRecord]:
        strand = self._strands.get(partition)
        if strand is None:
            raise InvalidInput(f"there is no partition {partition}", field="partition")
        return strand

    def _require_open(self) -> None:
        if self._closed:
            raise Unavailable("the event log is closed")


class MemoryReader:
    """A `LogReader` of a `MemoryLog`."""

    def __init__(self, log: MemoryLog, offsets: Mapping[TopicPartition, int]) -> None:
        self._log = log
        self._offsets = dict(offsets)
        self._closed = False

    def poll(self, *, max_records: int = 1000, timeout_s: float = 0.0) -> list[StoredRecord]:
        if self._closed:
            raise Unavailable("this reader of the event log is closed")
        found = self._log.read(self._offsets, max_records, timeout_s)
        advance(self._offsets, found)
        return found

    def positions(self) -> Mapping[TopicPartition, int]:
        return dict(self._offsets)

    def close(self) -> None:
        self._closed = True


def advance(offsets: dict[TopicPartition, int], records: Sequence[StoredRecord]) -> None:
    """Move `offsets` past `records`, and the partitions just read behind the others, so that none starves."""
    for record in records:
        place = TopicPartition(record.position.topic, record.position.partition)
        offsets.pop(place)
        offsets[place] = record.position.offset + 1
