"""One real server, on a tiny random model and a real Kafka broker, for all end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.brokers.broker import Broker
from tests.e2e.running import RunningServer, run_server
from tests.fixtures_kafka import kafka_broker

__all__ = ["kafka_broker"]


@pytest.fixture(scope="session")
def attune_server(
    tiny_model: Path, kafka_broker: Broker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    log = f"kafka://{kafka_broker.bootstrap}"
    with run_server(tmp_path_factory.mktemp("home"), tiny_model, log=log) as server:
        yield server
