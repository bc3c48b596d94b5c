"""Every implementation of every port, for the suites beside this file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem

from exchange.log.checks import record_bytes
from exchange.log.claims import Blobs, ClaimingLog
from exchange.log.kafka.settings import KafkaSettings
from exchange.log.port import EventLog
from exchange.open import open_log
from tests.fixtures_kafka import kafka_broker, kafka_cluster, kafka_cluster_shared, kafka_secure

__all__ = ["kafka_broker", "kafka_cluster", "kafka_cluster_shared", "kafka_secure"]

LOGS = ["memory", "sqlite", pytest.param("kafka", marks=pytest.mark.kafka)]
EVERY_LOG = [*LOGS, "claims", pytest.param("kafka-confluent", marks=pytest.mark.kafka)]
"""Those too that differ from another only in how they write, for the suite of the log itself."""


@pytest.fixture(params=LOGS)
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EventLog]:
    """An event log. A Kafka broker is shared by the session: tests start from `end_offset` and use their own keys.

    `claims` puts nearly every value beside a log in memory.
    """
    if request.param.startswith("kafka"):
        url = f"kafka://{request.getfixturevalue('kafka_broker').bootstrap}"
    elif request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'log.db'}"
    else:
        url = "memory:"
    producer = "confluent" if request.param == "kafka-confluent" else "kafka-python"
    opened = open_log(url, kafka=KafkaSettings(producer=producer))
    if request.param == "claims":
        blobs = Blobs(LocalFileSystem(), str(tmp_path / "registry"))
        (tmp_path / "registry").mkdir()
        opened = ClaimingLog(opened, blobs, lambda record: record_bytes(record) < 10)
    with opened:
        yield opened
