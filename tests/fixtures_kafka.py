"""Real Kafka brokers, one of each kind per test session (and worker). Import what a conftest's tests use.

Never skipped: where Java or Maven is missing the test fails and says so.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator

import pytest

from deploy.brokers.broker import Broker, start_broker
from deploy.brokers.cluster import Cluster, start_cluster
from deploy.brokers.secure import SecureBroker, start_secure_broker


def _import_kafka() -> None:
    with warnings.catch_warnings():
        # kafka-python reads its message schemas by deprecated calls of importlib when it is imported.
        warnings.filterwarnings("ignore", "(read|open)_text is deprecated", DeprecationWarning)
        importlib.import_module("exchange.log.kafka.log")


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker with an empty log."""
    _import_kafka()
    with start_broker(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture(scope="session")
def kafka_cluster_shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three brokers; tests take `kafka_cluster`, which hands them over whole."""
    _import_kafka()
    with start_cluster(tmp_path_factory.mktemp("kafka-cluster")) as cluster:
        yield cluster


@pytest.fixture
def kafka_cluster(kafka_cluster_shared: Cluster) -> Iterator[Cluster]:
    """Three brokers, all up; a test may kill, pause and restart any of them, and the next gets them all up again."""
    yield kafka_cluster_shared
    for broker in kafka_cluster_shared.brokers:
        broker.resume()
        if not broker.running:
            broker.restart()


@pytest.fixture(scope="session")
def kafka_secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    """A broker that demands TLS and credentials; its users `attune-server` and `attune-trainer` may do nothing yet."""
    _import_kafka()
    with start_secure_broker(tmp_path_factory.mktemp("kafka-secure"), ("attune-server", "attune-trainer")) as broker:
        yield broker
