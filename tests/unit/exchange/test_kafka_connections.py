"""What is mended of kafka-python's connections: which failure is told, and how long a producer rests."""

from __future__ import annotations

import time
from contextlib import closing

import pytest
from kafka import errors

from exchange.log.kafka.connections import Failures, connection


def test_a_refusal_is_remembered_until_one_is_let_in() -> None:
    failures = Failures()
    failures.note(errors.KafkaConnectionError("socket disconnected"), proving=False)
    assert isinstance(failures.last, errors.KafkaConnectionError)
    failures.note(errors.KafkaConnectionError("socket disconnected"), proving=True)
    failures.note(errors.RequestTimedOutError(), proving=False)
    assert isinstance(failures.last, errors.SaslAuthenticationFailedError)
    failures.note(None, proving=False)
    assert failures.last is None


def test_a_producer_rests_while_its_broker_is_not_ready() -> None:
    with closing(connection(bootstrap_servers="kafka:9092")) as made:
        assert made.connection_delay(1) == 100, "kafka-python says 0 here, and its producer would look without a pause"
        made._manager._backoff[1] = (1, time.monotonic() + 30, 1000)
        assert made.connection_delay(1) == pytest.approx(30_000, abs=5_000), "milliseconds"
