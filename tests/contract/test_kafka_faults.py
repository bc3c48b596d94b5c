"""The Kafka log while its broker comes, goes and comes back: a broker of this file's own, to be stopped at will."""

from __future__ import annotations

import gc
import logging
import threading
import time
from pathlib import Path

import pytest

from deploy.brokers.broker import Broker, start_broker
from exchange.log.port import TopicPartition
from schemas.errors import Unavailable
from schemas.topics import COMPLETIONS, POLICY, TOPICS
from schemas.wire import LogRecord

pytestmark = pytest.mark.kafka
JOURNAL = TopicPartition(POLICY.name, 0)


def record(value: str) -> LogRecord:
    return LogRecord(POLICY.name, b"k", value.encode())


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_processes_that_open_an_empty_broker_at_once_and_one_that_is_away(
    kafka_broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # kafka-python leaves the sockets of refused connections to the garbage collector, and its log records, which
    # pytest would keep beyond this test, hold on to them.
    caplog.set_level(logging.CRITICAL + 1, logger="kafka")
    _come_and_go(tmp_path)
    gc.collect()


def _come_and_go(tmp_path: Path) -> None:
    from exchange.log.kafka import KafkaLog  # after the fixture, which imports it under its own filter of warnings

    logs: list[KafkaLog] = []
    with start_broker(tmp_path / "broker") as broker:
        port = int(broker.bootstrap.split(":")[1])
        threads = [
            threading.Thread(target=lambda: logs.append(KafkaLog([broker.bootstrap], delivery_timeout_s=4.0)))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(logs) == 3
        for log in logs:
            assert {name: len(log.partitions(name)) for name in TOPICS} == {
                name: topic.partitions for name, topic in TOPICS.items()
            }
        log = logs[0]
        log.append([record("before")])
        reader = log.reader({JOURNAL: 0})
        assert [stored.value for stored in reader.poll(timeout_s=10.0)] == [b"before"]

    began = time.monotonic()
    with pytest.raises(Unavailable, match="Kafka at"):
        log.append([record("lost")])
    with pytest.raises(Unavailable):
        log.end_offset(JOURNAL)
    with pytest.raises(Unavailable):
        KafkaLog([f"127.0.0.1:{port}"], delivery_timeout_s=2.0)
    assert reader.poll(timeout_s=0.1) == []
    assert time.monotonic() - began < 20

    with start_broker(tmp_path / "broker", port):
        log.append([record("after"), LogRecord(COMPLETIONS.name, b"k", b"v")])
        found: list[bytes] = []
        deadline = time.monotonic() + 30
        while not found and time.monotonic() < deadline:
            found = [stored.value for stored in reader.poll(timeout_s=1.0)]
        assert found == [b"after"]
        assert log.end_offset(JOURNAL) == reader.positions()[JOURNAL] == 2
        reader.close()
        for opened in logs:
            opened.close()


def test_a_taken_port_is_refused(kafka_broker: Broker, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="is taken"):
        start_broker(tmp_path / "second", int(kafka_broker.bootstrap.split(":")[1]))
