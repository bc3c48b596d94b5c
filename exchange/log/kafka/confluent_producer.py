"""A `Producer` of confluent-kafka (librdkafka): idempotent, acks=all, keys on the same partitions as Java's clients.

Only writing; everything else stays with kafka-python. librdkafka connects by itself in the background and reports
errors late and one after another, so making a producer waits for the cluster once, and the first refusal (a wrong
password, say) is kept as the reason until something is delivered: the brokers that hang up after it say less.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from exchange.log.checks import MAX_RECORD_BYTES
from exchange.log.kafka.clients import Clients
from exchange.log.kafka.producing import Outcome, Producer
from exchange.log.port import Position
from exchange.log.security import librdkafka_options
from schemas.errors import ConfigError, InvalidInput, Unavailable
from schemas.wire import LogRecord

log = logging.getLogger(__name__)

_CLOSE_S = 5.0
_POLL_S = 0.05


def maker(clients: Clients) -> Callable[[], Producer]:
    """What makes producers. Raises ConfigError where the library is not installed."""
    try:
        import confluent_kafka
    except ImportError as error:
        raise ConfigError(
            "confluent-kafka is not installed",
            field="kafka.producer",
            remedy="Install attune[confluent], or leave `producer` at kafka-python.",
        ) from error
    return lambda: ConfluentProducer(clients, confluent_kafka)


class ConfluentProducer:
    """Waits for the cluster when it is made, and raises Unavailable where none answers."""

    def __init__(self, clients: Clients, library: Any) -> None:
        self._clients = clients
        self._library = library
        errors, settings = library.KafkaError, clients.settings
        self._permanent = {errors.MSG_SIZE_TOO_LARGE, errors.RECORD_LIST_TOO_LARGE, errors.INVALID_RECORD}
        self._refusals = {
            errors._AUTHENTICATION,
            errors._SSL,
            errors.SASL_AUTHENTICATION_FAILED,
            errors.TOPIC_AUTHORIZATION_FAILED,
            errors.CLUSTER_AUTHORIZATION_FAILED,
        }
        self._refusal: str | None = None
        options: dict[str, Any] = {
            **librdkafka_options(settings),
            "bootstrap.servers": ",".join(clients.servers),
            "enable.idempotence": True,
            "partitioner": "murmur2_random",
            "allow.auto.create.topics": False,
            "compression.type": settings.compression,
            "message.max.bytes": MAX_RECORD_BYTES + 2**20,  # of one message, before compression
            "message.timeout.ms": round(settings.delivery_seconds * 1000),
            "socket.connection.setup.timeout.ms": max(1000, round(settings.connect_seconds * 1000)),
            "reconnect.backoff.max.ms": 1000,
            "error_cb": self._note,
            "log_level": 2,  # whatever happens to connections comes by error_cb too, once and not for each try
        }
        self._producer: Any = library.Producer(options, logger=log)
        try:
            self._producer.list_topics(timeout=settings.connect_seconds)
        except library.KafkaException as error:
            self._producer.poll(0)
            self.close(failed=True)
            raise self._unavailable(error.args[0]) from error

    def send(self, records: Sequence[LogRecord], until: float) -> list[Outcome]:
        found: dict[int, Outcome] = {}
        for index, record in enumerate(records):
            self._produce(index, record, until, found)
        while len(found) < len(records) and time.monotonic() < until:
            self._producer.poll(_POLL_S)
        late = Unavailable(f"{self._clients.where} did not confirm the record in time{self._because()}")
        return [found.get(index, late) for index in range(len(records))]

    def close(self, *, failed: bool) -> None:
        if failed:
            self._producer.purge()
        self._producer.flush(0.1 if failed else _CLOSE_S)

    def _produce(self, index: int, record: LogRecord, until: float, found: dict[int, Outcome]) -> None:
        while True:
            try:
                self._producer.produce(
                    record.topic,
                    record.value,
                    record.key,
                    headers=list(record.headers),
                    on_delivery=partial(self._delivered, found, index),
                )
                self._producer.poll(0)
                return
            except BufferError:  # its queue is full
                if time.monotonic() >= until:
                    found[index] = Unavailable(f"{self._clients.where} takes no more{self._because()}")
                    return
                self._producer.poll(_POLL_S)
            except self._library.KafkaException as error:
                found[index] = self._failure(error.args[0])
                return

    def _delivered(self, found: dict[int, Outcome], index: int, error: Any, message: Any) -> None:
        if error is None:
            self._refusal = None
            found[index] = Position(message.topic(), message.partition(), message.offset())
        else:
            found[index] = self._failure(error)

    def _failure(self, error: Any) -> Outcome:
        if error.code() in self._permanent:
            return InvalidInput(f"Kafka refused a record: {error.str()}", field="value")
        return self._unavailable(error)

    def _note(self, error: Any) -> None:
        if error.code() in self._refusals:
            self._refusal = self._refusal or str(error.str())

    def _unavailable(self, error: Any) -> Unavailable:
        return Unavailable(f"{self._clients.where} cannot be used: {error.str()}{self._because()}")

    def _because(self) -> str:
        return f" ({self._refusal})" if self._refusal else ""
