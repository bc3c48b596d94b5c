"""A log in memory that goes away, hangs and refuses as a test says."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from exchange.log.memory import MemoryLog, MemoryReader
from exchange.log.port import Position, StoredRecord, TopicPartition
from schemas.errors import InvalidInput, Unavailable
from schemas.topics import DEAD_LETTER
from schemas.wire import LogRecord


class FlakyLog(MemoryLog):
    """Nothing of it works while `away`; appends hang while `gate` is closed; a value that begins with `poison` and a
    topic in `refused_topics` are never taken. `tried` are the values of every append.
    """

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.gate = threading.Event()
        self.gate.set()
        self.refused_topics: set[str] = set()
        self.tried: list[list[str]] = []

    def append(self, records: Sequence[LogRecord]) -> list[Position]:
        self.tried.append([one.value.decode().rstrip(".") for one in records])
        self.gate.wait(30)
        self._require_there()
        for one in records:
            refused = one.topic in self.refused_topics
            if refused or (one.value.startswith(b"poison") and one.topic != DEAD_LETTER.name):
                raise InvalidInput("the broker will never take it", field="value")
        return super().append(records)

    def partitions(self, topic: str) -> tuple[int, ...]:
        self._require_there()
        return super().partitions(topic)

    def end_offset(self, partition: TopicPartition) -> int:
        self._require_there()
        return super().end_offset(partition)

    def reader(self, offsets: Mapping[TopicPartition, int]) -> MemoryReader:
        self._require_there()
        return super().reader(offsets)

    def read(self, offsets: Mapping[TopicPartition, int], max_records: int, timeout_s: float) -> list[StoredRecord]:
        self._require_there()
        return super().read(offsets, max_records, timeout_s)

    def _require_there(self) -> None:
        if self.away:
            raise Unavailable("the broker is away")
