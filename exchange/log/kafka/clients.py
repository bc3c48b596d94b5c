"""How kafka-python's clients are made, closed and asked, and what its errors mean.

Nothing connects before the first question. A try to connect is bounded, runs in its caller's thread, and leaves
nothing behind where it fails: kafka-python itself would leave a thread and its sockets.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from kafka import KafkaAdminClient
from kafka import errors as kafka_errors

from exchange.log.kafka.connections import connection, refusal
from exchange.log.kafka.lazy import Lazy
from exchange.log.kafka.refusals import REFUSALS, is_tls_fault, misconfigured
from exchange.log.kafka.settings import KafkaSettings
from exchange.log.security import python_options
from schemas.errors import InvalidInput, Unavailable

_RECONNECT_MS = 1_000
_ASK_AGAIN_S = 0.02
PERMANENT = (
    kafka_errors.MessageSizeTooLargeError,
    kafka_errors.RecordListTooLargeError,
    kafka_errors.InvalidRecordError,
    kafka_errors.InvalidTimestampError,
)
"""What a broker says of a record that it will never take. (A corrupt batch is not one: the way there did that.)"""

T = TypeVar("T")


class Clients:
    """Makes clients of one cluster, and holds the one that asks questions. Thread-safe."""

    def __init__(self, servers: Sequence[str], settings: KafkaSettings) -> None:
        self.settings = settings
        self.where = f"Kafka at {','.join(servers)}"
        self.servers = list(servers)
        self._admin: Lazy[Any] = Lazy(lambda: self.make(KafkaAdminClient))
        self._closed = False

    def make(self, kind: Callable[..., T], **options: Any) -> T:
        """A client of that kind (KafkaProducer, KafkaConsumer), connected.

        Raises:
            Unavailable: no broker answers; LogMisconfigured where they refuse this process.
            ConfigError: a file that the settings name cannot be used.
        """
        self.require_open()
        settings = self.settings
        security = python_options(settings)
        if settings.authenticated:
            _hush()
        inner: list[Any] = []

        def connecting(**its_options: Any) -> Any:
            inner.append(connection(**its_options))
            return inner[-1]

        with self.translated():
            try:
                return kind(
                    bootstrap_servers=self.servers,
                    bootstrap_timeout_ms=round(settings.connect_seconds * 1000),
                    request_timeout_ms=round(settings.request_seconds * 1000),
                    reconnect_backoff_max_ms=_RECONNECT_MS,
                    kafka_client=connecting,
                    **security,
                    **options,
                )
            except BaseException as error:
                refused = [why for one in inner if (why := refusal(one)) is not None]
                for one in inner:
                    one.close()
                if refused and isinstance(error, kafka_errors.KafkaError):
                    raise misconfigured(self.where, settings, refused[0]) from refused[0]
                raise

    def ask(self, question: Callable[[Any], T]) -> T:
        """The answer of the cluster, whose admin client is handed to `question`. Raises Unavailable.

        kafka-python finds no broker ready while its one connection has as many questions under way as it allows (five),
        so that is asked again for `connect_seconds`.
        """
        self.require_open()
        until = time.monotonic() + self.settings.connect_seconds
        with self.translated():
            while True:
                try:
                    return question(self._admin.get())
                except kafka_errors.NodeNotReadyError:
                    if time.monotonic() > until:
                        raise
                    time.sleep(_ASK_AGAIN_S)

    def require_open(self) -> None:
        """Raises Unavailable after `close`."""
        if self._closed:
            raise Unavailable("the event log is closed")

    def close(self) -> None:
        """Close the client that asks, and make no more. Harmless twice."""
        self._closed = True
        if (admin := self._admin.forget()) is not None:
            admin.close()

    @contextmanager
    def translated(self) -> Iterator[None]:
        """kafka-python's errors as Attune's: what a broker will never take, and all the rest."""
        try:
            yield
        except PERMANENT as error:
            raise InvalidInput(f"Kafka refused a record: {error}", field="value") from error
        except REFUSALS as error:
            raise misconfigured(self.where, self.settings, error) from error
        except (kafka_errors.KafkaError, OSError) as error:
            if is_tls_fault(error):
                raise misconfigured(self.where, self.settings, error) from error
            raise Unavailable(f"{self.where} cannot be used: {error}") from error
        except RuntimeError as error:  # what a client says that was closed by another thread meanwhile
            self.require_open()
            raise Unavailable(f"{self.where} cannot be used: {error}") from error


def _hush() -> None:
    """kafka-python writes its settings and all that it sends into its debug log, passwords included: turn that off."""
    logger = logging.getLogger("kafka")
    logger.setLevel(max(logger.level, logging.INFO))
