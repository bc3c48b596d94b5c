"""A `Producer` of kafka-python: idempotent, acks=all, one request under way for each partition."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from kafka import KafkaProducer
from kafka import errors as kafka_errors

from exchange.log.checks import MAX_RECORD_BYTES
from exchange.log.kafka.clients import Clients
from exchange.log.kafka.producing import Outcome
from exchange.log.port import Position
from schemas.errors import InvalidInput, Unavailable
from schemas.wire import LogRecord

BATCH_BYTES = 256 * 2**10
_CLOSE_S = 5.0
_FAILED_S = 2.0


class PythonProducer:
    """Connects when it is made, which raises Unavailable."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        settings = clients.settings
        self._producer: Any = clients.make(
            KafkaProducer,
            acks="all",
            enable_idempotence=True,
            compression_type=None if settings.compression == "none" else settings.compression,
            batch_size=min(BATCH_BYTES, settings.max_message_bytes // 2),
            delivery_timeout_ms=round(settings.delivery_seconds * 1000),
            max_block_ms=round(settings.connect_seconds * 1000),
            max_request_size=MAX_RECORD_BYTES + 2**20,  # its check is of the size before compression: ours came first
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )

    def send(self, records: Sequence[LogRecord], until: float) -> list[Outcome]:
        sent: list[Any] = []
        failure: Outcome | None = None
        try:
            with self._clients.translated():
                for record in records:
                    sent.append(
                        self._producer.send(
                            record.topic, key=record.key, value=record.value, headers=list(record.headers)
                        )
                    )
        except (InvalidInput, Unavailable) as error:
            failure = error
        except ValueError as error:  # no partition: the topic was deleted
            failure = Unavailable(f"{self._clients.where} has no place for the record: {error}")
        outcomes = [self._outcome(future, until) for future in sent]
        if failure is not None:  # which would only come again, after another wait, for those that follow
            outcomes += [failure] * (len(records) - len(sent))
        return outcomes

    def _outcome(self, future: Any, until: float) -> Outcome:
        if not future.succeeded():
            try:
                with self._clients.translated():
                    future.get(timeout=max(0.0, until - time.monotonic()))
            except (InvalidInput, Unavailable) as error:
                return error
        stored = future.value
        return Position(stored.topic, stored.partition, stored.offset)

    def close(self, *, failed: bool) -> None:
        # A failed producer can hold records that it would send for ever, and `close` alone gives up on it then.
        if failed:
            self._producer._sender.force_close()
            self._producer._sender.join(_FAILED_S)
        try:
            self._producer.close(timeout=_FAILED_S if failed else _CLOSE_S)
        except (kafka_errors.KafkaError, RuntimeError):
            self._producer._sender.force_close()
            self._producer._closed = True
