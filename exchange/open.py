"""From a URL in the settings to the implementation of a port. The only place that knows them all."""

from __future__ import annotations

import re
from pathlib import Path

from exchange.keys.port import KeyStore
from exchange.log.kafka.settings import KafkaSettings
from exchange.log.port import EventLog
from exchange.registry.port import Registry
from exchange.settings import without_password
from schemas.errors import ConfigError

_SQLITE = "sqlite:///"
_KAFKA = "kafka://"
_MEMORY = "memory:"
_SERVER = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9a-fA-F:.]+\]):[0-9]{1,5}")


def open_log(url: str, *, kafka: KafkaSettings | None = None, registry: str | None = None) -> EventLog:
    """The event log at `memory:`, `sqlite:///relative.db`, `sqlite:////absolute.db` or `kafka://HOST:PORT,HOST:PORT`.

    Each call for `memory:` makes an empty log of its own.

    A Kafka log connects when it is first used, not here. What is too large for it lies beside the `registry` of that
    URL; without one it is refused, and claims on such records are not resolved.

    Raises:
        ConfigError: no such kind of log.
        Unavailable: it cannot be opened.
    """
    if url == _MEMORY:
        from exchange.log.memory import MemoryLog

        return MemoryLog()
    if url.startswith(_SQLITE):
        from exchange.log.sqlite import SqliteLog

        return SqliteLog(_path(url, "log"))
    if url.startswith(_KAFKA):
        servers = kafka_servers(url)
        from exchange.log.kafka.log import KafkaLog

        log = KafkaLog(servers, kafka)
        if registry is None or registry == _MEMORY:
            return log
        from exchange.log.claims import Blobs, ClaimingLog
        from exchange.registry.stores import store_at

        return ClaimingLog(log, Blobs(*store_at(registry)), log.fits)
    raise ConfigError(
        f"{without_password(url)!r} is no event log",
        field="log",
        remedy="Write memory:, sqlite:///PATH or kafka://HOST:PORT.",
    )


def open_registry(url: str) -> Registry:
    """The registry at `memory:`, `file:///absolute`, `file:relative`, or any URL fsspec knows (`s3://bucket/prefix`).

    Raises:
        ConfigError: no such kind of store, or its driver is not installed.
    """
    if url == _MEMORY:
        from exchange.registry.memory import MemoryRegistry

        return MemoryRegistry()
    from exchange.registry.files import FilesystemRegistry

    return FilesystemRegistry.at(url)


def open_keys(url: str) -> KeyStore:
    """The key store at `memory:`, `sqlite:///relative.db` or `sqlite:////absolute.db`.

    Raises:
        ConfigError: no such kind of store.
        Unavailable: it cannot be opened.
    """
    if url == _MEMORY:
        from exchange.keys.memory import MemoryKeys

        return MemoryKeys()
    if url.startswith(_SQLITE):
        from exchange.keys.sqlite import SqliteKeys

        return SqliteKeys(_path(url, "keys"))
    raise ConfigError(
        f"{without_password(url)!r} is no key store", field="keys", remedy="Write memory: or sqlite:///PATH."
    )


def is_kafka(url: str) -> bool:
    """Whether a log's URL names a Kafka cluster."""
    return url.startswith(_KAFKA)


def kafka_servers(url: str) -> list[str]:
    """HOST:PORT of every broker that a log's URL names. Raises ConfigError where it names none, or a password."""
    if "@" in url:
        raise ConfigError(
            "a log's URL has no place for credentials, since URLs are shown and logged",
            field="log",
            remedy="Write kafka://HOST:PORT, and set username and password in [kafka].",
        )
    servers = url.removeprefix(_KAFKA).split(",")
    if not is_kafka(url) or not all(_SERVER.fullmatch(server) for server in servers):
        raise ConfigError(f"{url!r} names no brokers", field="log", remedy="Write kafka://HOST:PORT,HOST:PORT.")
    return servers


def _path(url: str, field: str) -> Path:
    path = url.removeprefix(_SQLITE)
    if not path:
        raise ConfigError(f"{url!r} names no file", field=field, remedy="Write sqlite:///PATH.")
    return Path(path)
