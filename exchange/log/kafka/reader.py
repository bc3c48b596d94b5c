"""Reading partitions of Kafka forward from explicit offsets, and seeing when they mean nothing any more.

A topic that was deleted and made anew shows itself in two ways: it ends before the reader's offset, which the broker
says, or it has another id, which is asked for before records are given on, at most every few seconds.

A record that kafka-python cannot take apart (a header whose name is no UTF-8, which other clients can write) is given
on as an empty one, so that whoever reads buries it and goes on.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection, Mapping
from typing import Any, Protocol

from kafka import KafkaConsumer
from kafka import TopicPartition as KafkaPartition
from kafka import errors as kafka_errors

from exchange.log.kafka.clients import Clients
from exchange.log.port import LogReplaced, Position, RecordsLost, StoredRecord, TopicPartition
from schemas.base import now_ms
from schemas.errors import Unavailable

log = logging.getLogger(__name__)

_VERIFY_S = 5.0


class Asked(Protocol):
    """What a reader asks its log."""

    def identity(self, topic: str) -> str: ...

    def start_offset(self, partition: TopicPartition) -> int: ...

    def start_offsets(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]: ...

    def end_offset(self, partition: TopicPartition) -> int: ...


class KafkaReader:
    """A `LogReader` of a Kafka log, on connections of its own."""

    def __init__(self, clients: Clients, log: Asked, offsets: Mapping[TopicPartition, int]) -> None:
        self._clients = clients
        self._log = log
        self._places = {KafkaPartition(place.topic, place.partition): place for place in offsets}
        self._closed = False
        self._held: list[StoredRecord] = []
        self._identities = {topic: log.identity(topic) for topic in {place.topic for place in offsets}}
        self._verified = time.monotonic()
        starts = log.start_offsets([place for place, offset in offsets.items() if offset == 0])
        self._consumer: Any = clients.make(
            KafkaConsumer,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            allow_auto_create_topics=False,
            fetch_max_wait_ms=100,
            metrics_enabled=False,
        )
        self._consumer.assign(list(self._places))
        self._stands = {at: offsets[place] or starts[place] for at, place in self._places.items()}
        for at, offset in self._stands.items():
            self._consumer.seek(at, offset)

    def poll(self, *, max_records: int = 1000, timeout_s: float = 0.0) -> list[StoredRecord]:
        if self._closed:
            raise Unavailable("this reader of the event log is closed")
        if not self._places:
            return []
        if not self._held:
            self._held = self._fetch(max_records, timeout_s)
        if self._held:
            try:
                self._verify()
            except Unavailable:
                return []  # they wait: whether they belong to this log is known when a broker answers again
        found, self._held = self._held[:max_records], self._held[max_records:]
        return found

    def positions(self) -> Mapping[TopicPartition, int]:
        read = {place: self._position(at) for at, place in self._places.items()}
        for record in reversed(self._held):
            position = record.position
            read[TopicPartition(position.topic, position.partition)] = position.offset
        return read

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._consumer.close()

    def _position(self, at: Any) -> int:
        """Where the consumer stands, which is behind gaps that the last record does not show."""
        try:
            offset = self._consumer.position(at, timeout_ms=0)
        except kafka_errors.KafkaError:
            offset = None  # `poll` says what it is
        if offset is not None:
            self._stands[at] = int(offset)
        return self._stands[at]

    def _fetch(self, max_records: int, timeout_s: float) -> list[StoredRecord]:
        with self._clients.translated():
            try:
                batches = self._consumer.poll(timeout_ms=int(timeout_s * 1000), max_records=max_records)
            except kafka_errors.OffsetOutOfRangeError as error:
                for at, wanted in error.args[0].items():
                    self._explain(self._places[at], wanted)
                raise
            except kafka_errors.LogTruncationError as error:
                for at in error.divergent_offsets:
                    self._explain(self._places[at], self._position(at), truncated=True)
                raise
            except kafka_errors.CorruptRecordError as error:
                return [self._unreadable(error)]
        return [
            StoredRecord(
                Position(record.topic, record.partition, record.offset),
                record.timestamp,
                record.key or b"",
                record.value or b"",
                tuple((name, content or b"") for name, content in record.headers),  # Kafka has headers without content
            )
            for batch in batches.values()
            for record in batch
        ]

    def _unreadable(self, error: Exception) -> StoredRecord:
        """An empty record in the place of the one that `error` came of; behind it reading goes on.

        Raises the error again where bytes were altered on their way: another try may get them whole.
        """
        stuck = self._consumer._fetcher._next_partition_records
        if stuck is None:
            raise error
        at, offset = stuck.topic_partition, int(stuck.next_fetch_offset)
        stuck.drain()  # else kafka-python's next poll would go round it for ever
        if not isinstance(error.__context__, ValueError | IndexError):
            raise error
        log.error("the record at offset %d of %s cannot be taken apart and counts as empty: %s", offset, at, error)
        self._consumer.seek(at, offset + 1)
        return StoredRecord(Position(at.topic, at.partition, offset), now_ms(), b"", b"", ())

    def _explain(self, place: TopicPartition, wanted: int, *, truncated: bool = False) -> None:
        """Raises what it means that `wanted` is out of range, or that the brokers have lost what was read before it."""
        self._verified = -math.inf
        self._verify()
        oldest, end = self._log.start_offset(place), self._log.end_offset(place)
        if wanted < oldest:
            raise RecordsLost(place, wanted=wanted, oldest=oldest)
        if wanted > end:
            raise LogReplaced(place, wanted=wanted, why=f"it ends at {end}")
        if truncated:
            raise LogReplaced(place, wanted=wanted, why="its brokers went back to a copy that lacks what was read")

    def _verify(self) -> None:
        """Raises LogReplaced where a topic is another one by now."""
        if time.monotonic() - self._verified < _VERIFY_S:
            return
        for topic, identity in self._identities.items():
            if self._log.identity(topic) != identity:
                place, wanted = next((place, at) for place, at in self.positions().items() if place.topic == topic)
                raise LogReplaced(place, wanted=wanted, why="it was deleted and made anew")
        self._verified = time.monotonic()
