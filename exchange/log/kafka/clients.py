"""How kafka-python's clients are made, closed and asked, and what its errors mean.

Nothing connects before the first question. A try to connect is bounded, runs in its caller's thread, and leaves
nothing behind where it fails: kafka-python itself would leave a thread and its sockets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from kafka import KafkaAdminClient
from kafka import errors as kafka_errors
from kafka.net.compat import KafkaNetClient

from exchange.log.kafka.lazy import Lazy
from exchange.log.kafka.settings import KafkaSettings
from exchange.log.port import LogMisconfigured
from exchange.log.security import python_options
from schemas.errors import InvalidInput, Unavailable

_RECONNECT_MS = 1_000
PERMANENT = (
    kafka_errors.MessageSizeTooLargeError,
    kafka_errors.RecordListTooLargeError,
    kafka_errors.InvalidRecordError,
    kafka_errors.InvalidTimestampError,
)
"""What a broker says of a record that it will never take. (A corrupt batch is not one: the way there did that.)"""

_REFUSED = (
    kafka_errors.SaslAuthenticationFailedError,
    kafka_errors.UnsupportedSaslMechanismError,
    kafka_errors.TopicAuthorizationFailedError,
    kafka_errors.GroupAuthorizationFailedError,
    kafka_errors.ClusterAuthorizationFailedError,
)
"""What brokers say to credentials that they do not take, and to what a principal may not do."""

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
        """A client of that kind (KafkaProducer, KafkaConsumer), connected. Raises Unavailable."""
        self.require_open()
        settings = self.settings
        security = python_options(settings)
        inner: list[Any] = []

        def connection(**its_options: Any) -> Any:
            inner.append(KafkaNetClient(**its_options))
            return inner[-1]

        with self.translated():
            try:
                return kind(
                    bootstrap_servers=self.servers,
                    bootstrap_timeout_ms=round(settings.connect_seconds * 1000),
                    request_timeout_ms=round(settings.request_seconds * 1000),
                    reconnect_backoff_max_ms=_RECONNECT_MS,
                    kafka_client=connection,
                    **security,
                    **options,
                )
            except BaseException:
                for one in inner:
                    one.close()
                raise

    def ask(self, question: Callable[[Any], T]) -> T:
        """The answer of the cluster, whose admin client is handed to `question`. Raises Unavailable."""
        self.require_open()
        with self.translated():
            return question(self._admin.get())

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
        except _REFUSED as error:
            raise _misconfigured(self.where, self.settings, error) from error
        except (kafka_errors.KafkaError, OSError) as error:
            raise Unavailable(f"{self.where} cannot be used: {error}") from error


def _misconfigured(where: str, settings: KafkaSettings, error: Exception) -> LogMisconfigured:
    """What a refusal means, by the setting that is at fault; never the secret."""
    if isinstance(error, kafka_errors.SaslAuthenticationFailedError):
        return LogMisconfigured(
            f"{where} refuses the credentials of {settings.username!r} ({settings.sasl_mechanism})",
            field="kafka.password",
            remedy="Check kafka.username and kafka.password (or password_file), and that the brokers know them.",
        )
    if isinstance(error, kafka_errors.UnsupportedSaslMechanismError):
        return LogMisconfigured(
            f"{where} does not take {settings.sasl_mechanism}",
            field="kafka.sasl_mechanism",
            remedy="Set kafka.sasl_mechanism to one that the brokers' listener offers.",
        )
    return LogMisconfigured(
        f"{where} does not let {settings.username or 'this process'} do that: {type(error).__name__}: {error}",
        field="kafka.username",
        remedy="docs/kafka.md has the permissions that server and trainer need.",
    )
