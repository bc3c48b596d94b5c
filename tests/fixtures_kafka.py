"""A real Kafka broker, one per test session (and worker). Import `kafka_broker` in a conftest to use it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from deploy.kafka import Broker, start_broker


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker with an empty log. Never skipped: where Java or Maven is missing the test fails and says so."""
    with start_broker(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker
