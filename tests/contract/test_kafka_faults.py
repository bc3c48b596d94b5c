"""The Kafka log while its broker comes, goes and comes back: a broker of this file's own, to be stopped at will."""

from __future__ import annotations

import gc
import logging
import threading
import time
from pathlib import Path

import pytest

from deploy.brokers.broker import Broker, start_broker
from exchange.log.kafka.log import KafkaLog
from exchange.log.kafka.settings import KafkaSettings
from exchange.log.port import TopicPartition
from schemas.errors import Unavailable
from schemas.topics import COMPLETIONS, POLICY, TOPICS
from schemas.wire import LogRecord

pytestmark = pytest.mark.kafka
JOURNAL = TopicPartition(POLICY.name, 0)
PATIENT = KafkaSettings(connect_seconds=1.0, request_seconds=2.0, delivery_seconds=4.0)


def record(value: str) -> LogRecord:
    return LogRecord(POLICY.name, b"k", value.encode())


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_processes_that_open_an_empty_broker_at_once_and_one_that_is_away(
    kafka_broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # kafka-python leaves the sockets of refused connections to the garbage collector, and its log records, which
    # pytest would keep beyond this test, hold on to them.
    caplog.set_level(logging.CRITICAL + 1, logger="kafka")
    before = set(threading.enumerate())
    _come_and_go(tmp_path)
    for thread in set(threading.enumerate()) - before:
        thread.join(30)
        assert not thread.is_alive(), f"{thread.name} outlives the log that began it"
    gc.collect()


def _come_and_go(tmp_path: Path) -> None:
    with start_broker(tmp_path / "broker") as broker:
        port = int(broker.bootstrap.split(":")[1])
        logs = [KafkaLog([broker.bootstrap], PATIENT) for _ in range(3)]
        threads = [
            threading.Thread(target=lambda log=log: log.partitions(POLICY.name))  # type: ignore[misc]
            for log in logs
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for log in logs:
            assert {name: len(log.partitions(name)) for name in TOPICS} == {
                name: topic.partitions for name, topic in TOPICS.items()
            }
        log = logs[0]
        log.append([record("before")])
        reader = log.reader({JOURNAL: 0})
        assert [stored.value for stored in reader.poll(timeout_s=10.0)] == [b"before"]

    with pytest.raises(Unavailable, match="Kafka at"):
        log.append([record("lost")])
    for ask in (log.end_offset, log.start_offset, lambda place: log.identity(place.topic)):
        with pytest.raises(Unavailable):
            ask(JOURNAL)
    assert reader.poll(timeout_s=0.1) == []
    late = KafkaLog([f"127.0.0.1:{port}"], PATIENT)
    logs.append(late)
    before = threading.active_count()
    for call in (late.partitions, late.identity):
        with pytest.raises(Unavailable, match="Kafka at"):
            call(POLICY.name)
    with pytest.raises(Unavailable):
        late.append([record("lost")])
    assert threading.active_count() == before, "a try in vain leaves nothing behind"

    with start_broker(tmp_path / "broker", port):
        log.append([record("after"), LogRecord(COMPLETIONS.name, b"k", b"v")])
        found: list[bytes] = []
        deadline = time.monotonic() + 30
        while not found and time.monotonic() < deadline:
            found = [stored.value for stored in reader.poll(timeout_s=1.0)]
        assert found == [b"after"]
        assert late.end_offset(JOURNAL) == log.end_offset(JOURNAL) == reader.positions()[JOURNAL] == 2
        reader.close()
        for opened in logs:
            opened.close()


def test_a_taken_port_is_refused(kafka_broker: Broker, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="is taken"):
        start_broker(tmp_path / "second", int(kafka_broker.bootstrap.split(":")[1]))
