"""Every implementation of every port, for the suites beside this file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from exchange.log.port import EventLog
from exchange.open import open_log
from tests.fixtures_kafka import kafka_broker, kafka_cluster, kafka_cluster_shared

__all__ = ["kafka_broker", "kafka_cluster", "kafka_cluster_shared"]

LOGS = ["memory", "sqlite", pytest.param("kafka", marks=pytest.mark.kafka)]


@pytest.fixture(params=LOGS)
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EventLog]:
    """An event log. A Kafka broker is shared by the session: tests start from `end_offset` and use their own keys."""
    if request.param == "kafka":
        url = f"kafka://{request.getfixturevalue('kafka_broker').bootstrap}"
    elif request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'log.db'}"
    else:
        url = "memory:"
    with open_log(url) as opened:
        yield opened
