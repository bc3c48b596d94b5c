"""The event log on Apache Kafka, as thin as kafka-python allows. The only module that knows it.

acks=all with the idempotent producer: what `append` returned is on every in-sync replica, once, in order within its
partition. Readers take partitions and offsets explicitly; there is no consumer group, because offsets are stored with
the results they produced. Differences from the other logs: a `poll` without a timeout gives what was prefetched, and a
reader whose broker is away gives empty lists until it is back (`end_offset` raises); RecordsLost and LogReplaced are
not raised yet: an offset that is gone reads on from the oldest that is left.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka import TopicPartition as KafkaPartition
from kafka import errors as kafka_errors
from kafka.admin import OffsetSpec

from exchange.log.checks import MAX_RECORD_BYTES, check_records, topic_named
from exchange.log.port import Position, StoredRecord, TopicPartition
from schemas.errors import InvalidInput, Unavailable
from schemas.topics import TOPICS, Topic
from schemas.wire import LogRecord

_RECONNECT_MS = 1_000
_MESSAGE_BYTES = MAX_RECORD_BYTES + 64 * 2**10  # Kafka counts its own framing
_FOR_EVER = "-1"


class KafkaLog:
    """An `EventLog` on a Kafka cluster. Thread-safe; open it anew in each process, never across a fork."""

    def __init__(self, bootstrap: Sequence[str], *, delivery_timeout_s: float = 20.0) -> None:
        """Connect to any of `bootstrap` (HOST:PORT), and make the topics that are not there yet.

        An append gives up after `delivery_timeout_s`, and every other request after half of it.

        Raises:
            Unavailable: no broker answers, or it refuses to make a topic.
        """
        self._delivery_ms = round(delivery_timeout_s * 1000)
        self._request_ms = self._delivery_ms // 2
        self._connection: dict[str, Any] = {
            "bootstrap_servers": list(bootstrap),
            "request_timeout_ms": self._request_ms,
            "bootstrap_timeout_ms": self._request_ms,
            "reconnect_backoff_max_ms": _RECONNECT_MS,
        }
        self._closed = False
        self._asking = threading.Lock()  # the admin client is not safe for use by several threads
        with _translated(self._connection["bootstrap_servers"]):
            self._admin = KafkaAdminClient(**self._connection)
            try:
                self._partitions = self._make_topics()
                self._producer = KafkaProducer(
                    **self._connection,
                    acks="all",
                    enable_idempotence=True,
                    delivery_timeout_ms=self._delivery_ms,
                    max_block_ms=self._request_ms,
                    max_request_size=_MESSAGE_BYTES,
                    allow_auto_create_topics=False,
                )
            except kafka_errors.KafkaError:
                self._admin.close()
                raise

    def append(self, records: Sequence[LogRecord]) -> list[Position]:
        check_records(records)
        self._require_open()
        with _translated(self._connection["bootstrap_servers"]):
            sent = [
                self._producer.send(record.topic, key=record.key, value=record.value, headers=list(record.headers))
                for record in records
            ]
            # The producer gives up by itself at its own deadline, so the one here is only a safety net.
            deadline = time.monotonic() + (self._delivery_ms + self._request_ms) / 1000
            stored = [future.get(timeout=max(0.0, deadline - time.monotonic())) for future in sent]
        return [Position(one.topic, one.partition, one.offset) for one in stored]

    def partitions(self, topic: str) -> tuple[int, ...]:
        return self._partitions[topic_named(topic).name]

    def identity(self, topic: str) -> str:
        name = topic_named(topic).name
        self._require_open()
        with self._asking, _translated(self._connection["bootstrap_servers"]):
            (found,) = self._admin.describe_topics([name])
        return str(found["topic_id"])

    def start_offset(self, partition: TopicPartition) -> int:
        return self._offset(partition, OffsetSpec.EARLIEST)

    def end_offset(self, partition: TopicPartition) -> int:
        return self._offset(partition, OffsetSpec.LATEST)

    def _offset(self, partition: TopicPartition, which: OffsetSpec) -> int:
        self._check(partition)
        self._require_open()
        place = KafkaPartition(partition.topic, partition.partition)
        with self._asking, _translated(self._connection["bootstrap_servers"]):
            found = self._admin.list_partition_offsets({place: which}, timeout_ms=self._request_ms)
        return int(found[place].offset)

    def reader(self, offsets: Mapping[TopicPartition, int]) -> KafkaReader:
        for partition in offsets:
            self._check(partition)
        self._require_open()
        return KafkaReader(self._connection, offsets)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._producer.close(timeout=self._delivery_ms / 1000)
            with self._asking:
                self._admin.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _make_topics(self) -> dict[str, tuple[int, ...]]:
        """Make what is missing; the partitions of every topic as the cluster has them."""
        present = set(self._admin.list_topics())
        for topic in TOPICS.values():
            if topic.name in present:
                continue
            layout = {"num_partitions": topic.partitions, "configs": _topic_settings(topic)}
            try:
                self._admin.create_topics({topic.name: layout}, timeout_ms=self._request_ms)
            except kafka_errors.TopicAlreadyExistsError:
                continue  # another process was first
        self._admin.wait_for_topics(list(TOPICS), timeout_ms=self._request_ms)
        described = self._admin.describe_topics(list(TOPICS))
        return {
            topic["name"]: tuple(sorted(partition["partition_index"] for partition in topic["partitions"]))
            for topic in described
        }

    def _check(self, partition: TopicPartition) -> None:
        if partition.partition not in self.partitions(partition.topic):
            raise InvalidInput(f"there is no partition {partition}", field="partition")

    def _require_open(self) -> None:
        if self._closed:
            raise Unavailable("the event log is closed")


class KafkaReader:
    """A `LogReader` of a Kafka log, on connections of its own."""

    def __init__(self, connection: Mapping[str, Any], offsets: Mapping[TopicPartition, int]) -> None:
        self._servers = connection["bootstrap_servers"]
        self._places = {KafkaPartition(place.topic, place.partition): place for place in offsets}
        self._closed = False
        with _translated(self._servers):
            self._consumer = KafkaConsumer(
                **connection,
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                allow_auto_create_topics=False,
                fetch_max_wait_ms=100,
            )
            self._consumer.assign(list(self._places))
            for kafka_place, place in self._places.items():
                self._consumer.seek(kafka_place, offsets[place])

    def poll(self, *, max_records: int = 1000, timeout_s: float = 0.0) -> list[StoredRecord]:
        if self._closed:
            raise Unavailable("this reader of the event log is closed")
        if not self._places:
            return []
        with _translated(self._servers):
            batches = self._consumer.poll(timeout_ms=int(timeout_s * 1000), max_records=max_records)
        return [
            StoredRecord(
                Position(record.topic, record.partition, record.offset),
                record.timestamp,
                record.key or b"",
                record.value or b"",
                tuple(record.headers),
            )
            for batch in batches.values()
            for record in batch
        ]

    def positions(self) -> Mapping[TopicPartition, int]:
        with _translated(self._servers):
            return {place: self._consumer.position(kafka_place) for kafka_place, place in self._places.items()}

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._consumer.close()


def _topic_settings(topic: Topic) -> dict[str, str]:
    retention = _FOR_EVER if topic.retention_days is None else str(topic.retention_days * 24 * 3600 * 1000)
    return {
        "cleanup.policy": "compact" if topic.compacted else "delete",
        "retention.ms": retention,
        "retention.bytes": _FOR_EVER,
        "max.message.bytes": str(_MESSAGE_BYTES),
        "message.timestamp.type": "LogAppendTime",
    }


@contextmanager
def _translated(servers: Sequence[str]) -> Iterator[None]:
    """kafka-python's errors as Attune's: what a broker will never take, and all the rest."""
    try:
        yield
    except (kafka_errors.MessageSizeTooLargeError, kafka_errors.InvalidRecordError) as error:
        raise InvalidInput(f"Kafka refused a record: {error}", field="value") from error
    except kafka_errors.KafkaError as error:
        raise Unavailable(f"Kafka at {','.join(servers)} cannot be used: {error}") from error
