"""The event log on Apache Kafka.

**Connecting.** Making a `KafkaLog` connects to nothing: the first call that needs a broker does, in its own thread,
and raises Unavailable after `connect_seconds` where none answers.

**Writing.** acks=all with an idempotent producer: what `append` returned is on every in-sync replica, in order within
its partition. The promise is at least once: where a record is refused, or an answer is lost, records that seemed to
fail are sent again and may be stored twice, and then also behind records that came later. Readers count an event id
once. A record that the broker will never take is InvalidInput, and its neighbours are stored all the same.

**Reading.** Partitions and offsets are explicit; there is no consumer group, because offsets are stored with the
results they produced. A reader whose broker is away gives empty lists until it is back.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from kafka import TopicPartition as KafkaPartition
from kafka import errors as kafka_errors
from kafka.admin import OffsetSpec
from kafka.structs import OffsetAndMetadata

from exchange.closeable import Closeable
from exchange.log.checks import check_records, topic_named
from exchange.log.kafka.clients import Clients
from exchange.log.kafka.lazy import Lazy
from exchange.log.kafka.producing import Producer, Producers
from exchange.log.kafka.reader import KafkaReader
from exchange.log.kafka.settings import KafkaSettings
from exchange.log.kafka.sizes import fits
from exchange.log.kafka.topics import partitions_of
from exchange.log.port import Position, RecordsRefused, TopicPartition
from schemas.errors import InvalidInput, Unavailable
from schemas.wire import LogRecord


class KafkaLog(Closeable):
    """An `EventLog` on a Kafka cluster. Thread-safe; open it anew in each process, never across a fork."""

    def __init__(self, servers: Sequence[str], settings: KafkaSettings | None = None) -> None:
        """A log on the cluster that any of `servers` (HOST:PORT) knows. Topics that are missing are made when it is
        first used.

        Raises:
            ConfigError: the client library that the settings name is not installed.
        """
        self._settings = settings or KafkaSettings()
        self._clients = Clients(servers, self._settings)
        self._layout: Lazy[dict[str, tuple[int, ...]]] = Lazy(
            lambda: self._clients.ask(lambda admin: partitions_of(admin, self._settings))
        )
        self._producers = Producers(_maker(self._clients))

    def append(self, records: Sequence[LogRecord]) -> list[Position]:
        check_records(records)
        for record in records:
            if not self.fits(record):
                raise InvalidInput(
                    f"a record for {record.topic} is too large for Kafka: more than {self._settings.max_message_bytes} "
                    f"bytes, compressed ({self._settings.compression})",
                    field="value",
                )
        self._clients.require_open()
        until = time.monotonic() + self._settings.delivery_seconds
        self._layout.get()
        stored: list[Position | InvalidInput] = []
        for outcome in self._producers.deliver(records, until):
            if isinstance(outcome, Unavailable):
                raise outcome.again()
            stored.append(outcome)
        positions = [outcome for outcome in stored if isinstance(outcome, Position)]
        if len(positions) < len(records):
            raise RecordsRefused(stored)
        return positions

    def fits(self, record: LogRecord) -> bool:
        """Whether the topics take a record of this size, as far as the settings know. Asks nobody."""
        return fits(record, self._settings)

    def partitions(self, topic: str) -> tuple[int, ...]:
        return self._layout.get()[topic_named(topic).name]

    def identity(self, topic: str) -> str:
        name = topic_named(topic).name
        self._layout.get()
        (found,) = self._clients.ask(lambda admin: admin.describe_topics([name]))
        if (code := found["error_code"]) != 0:
            raise Unavailable(f"{self._clients.where} does not know {name}: {kafka_errors.for_code(code).__name__}")
        return str(found["topic_id"])

    def start_offset(self, partition: TopicPartition) -> int:
        return self._offsets([partition], OffsetSpec.EARLIEST)[partition]

    def start_offsets(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """`start_offset` of several at once."""
        return self._offsets(partitions, OffsetSpec.EARLIEST)

    def end_offset(self, partition: TopicPartition) -> int:
        return self._offsets([partition], OffsetSpec.LATEST)[partition]

    def reader(self, offsets: Mapping[TopicPartition, int]) -> KafkaReader:
        for partition in offsets:
            self._check(partition)
        return KafkaReader(self._clients, self, offsets)

    def note_offsets(self, reader: str, offsets: Mapping[TopicPartition, int]) -> None:
        asked = {
            KafkaPartition(place.topic, place.partition): OffsetAndMetadata(offset, "", None)
            for place, offset in offsets.items()
        }
        answers = self._clients.ask(lambda admin: admin.alter_group_offsets(reader, asked))
        for place, error in answers.items():
            if error is not kafka_errors.NoError:
                raise Unavailable(f"{self._clients.where} does not note that {reader} is at {place}: {error.__name__}")

    def close(self) -> None:
        self._producers.close()
        self._clients.close()

    def _offsets(self, partitions: Collection[TopicPartition], which: Any) -> dict[TopicPartition, int]:
        if not partitions:
            return {}
        for partition in partitions:
            self._check(partition)
        asked = {KafkaPartition(place.topic, place.partition): which for place in partitions}
        wait_ms = round(self._settings.request_seconds * 1000)
        found = self._clients.ask(lambda admin: admin.list_partition_offsets(asked, timeout_ms=wait_ms))
        return {TopicPartition(*place): int(answer.offset) for place, answer in found.items()}

    def _check(self, partition: TopicPartition) -> None:
        if partition.partition not in self.partitions(partition.topic):
            raise InvalidInput(f"there is no partition {partition}", field="partition")


def _maker(clients: Clients) -> Any:
    """What makes producers of the library that is set. Raises ConfigError where it is not installed."""
    if clients.settings.producer == "confluent":
        from exchange.log.kafka.confluent_producer import maker

        return maker(clients)
    from exchange.log.kafka.python_producer import PythonProducer

    def make() -> Producer:
        return PythonProducer(clients)

    return make
