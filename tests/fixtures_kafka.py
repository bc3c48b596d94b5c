"""A real Kafka broker, one per test session (and worker). Import `kafka_broker` in a conftest to use it."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator

import pytest

from deploy.kafka import Broker, start_broker


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker with an empty log. Never skipped: where Java or Maven is missing the test fails and says so."""
    with warnings.catch_warnings():
        # kafka-python reads its message schemas by deprecated calls of importlib when it is imported.
        warnings.filterwarnings("ignore", "(read|open)_text is deprecated", DeprecationWarning)
        importlib.import_module("exchange.log.kafka")
    with start_broker(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker
