"""What a reader of Kafka is told when its offset means nothing any more."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka import TopicPartition as KafkaPartition

from deploy.brokers.broker import Broker
from deploy.needs import require
from exchange.log.kafka import reader as reading
from exchange.log.kafka.log import KafkaLog
from exchange.log.port import LogReader, LogReplaced, RecordsLost, StoredRecord, TopicPartition
from schemas.errors import Unavailable
from schemas.topics import DEAD_LETTER
from schemas.wire import LogRecord

pytestmark = pytest.mark.kafka
PLACE = TopicPartition(DEAD_LETTER.name, 0)


@pytest.fixture
def log(kafka_broker: Broker) -> Iterator[KafkaLog]:
    with KafkaLog([kafka_broker.bootstrap]) as opened:
        yield opened


@pytest.fixture
def admin(kafka_broker: Broker) -> Iterator[Any]:
    client = KafkaAdminClient(bootstrap_servers=kafka_broker.bootstrap)
    yield client
    client.close()


def append(log: KafkaLog, *values: bytes) -> int:
    """The offset of the first of them."""
    return log.append([LogRecord(PLACE.topic, b"k", value) for value in values])[0].offset


def next_records(reader: LogReader, count: int) -> list[StoredRecord]:
    found: list[StoredRecord] = []
    while len(found) < count:
        found += reader.poll(timeout_s=5.0)
    return found


def until(condition: Callable[[], bool]) -> None:
    for _ in range(300):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail("it never came about")


def read_in_vain(reader: LogReader) -> None:
    """Until the reader raises."""
    while True:
        assert reader.poll(timeout_s=1.0) == []


def raises_lost(reader: LogReader) -> RecordsLost:
    with pytest.raises(RecordsLost) as raised:
        read_in_vain(reader)
    return raised.value


def raises_replaced(reader: LogReader) -> LogReplaced:
    with pytest.raises(LogReplaced) as raised:
        read_in_vain(reader)
    return raised.value


def test_what_retention_deleted_before_it_was_read_is_said(log: KafkaLog, admin: Any) -> None:
    first = append(log, b"0", b"1", b"2", b"3", b"4")
    behind, current = log.reader({PLACE: first + 1}), log.reader({PLACE: first + 3})
    admin.delete_records({KafkaPartition(PLACE.topic, 0): first + 3})
    assert log.start_offset(PLACE) == first + 3
    for _ in range(2):
        lost = raises_lost(behind)
        assert (lost.partition, lost.wanted, lost.oldest) == (PLACE, first + 1, first + 3)
    assert behind.positions() == {PLACE: first + 1}
    for reader in (current, log.reader({PLACE: lost.oldest}), log.reader({PLACE: 0})):
        assert [stored.value for stored in next_records(reader, 2)] == [b"3", b"4"]
        reader.close()
    behind.close()


def test_a_topic_made_anew_is_noticed(log: KafkaLog, admin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_VERIFY_S", 0.0)
    append(log, b"old", b"old")
    end = log.end_offset(PLACE)
    name = log.identity(PLACE.topic)
    near, far = log.reader({PLACE: 1}), log.reader({PLACE: end})
    far.poll(timeout_s=0.5)
    admin.delete_topics([PLACE.topic])
    until(lambda: PLACE.topic not in admin.list_topics())
    with KafkaLog(log._clients.servers) as other:  # finds it missing, and makes it
        assert other.identity(PLACE.topic) != name
        append(other, b"new", b"new", b"new")
        # One stands where the new topic has records too, one beyond its end.
        assert raises_replaced(near).wanted >= 1
        assert "made anew" in raises_replaced(far).message
        opened_late = other.reader({PLACE: end + 7})
        assert f"ends at {other.end_offset(PLACE)}" in raises_replaced(opened_late).message
        afresh = other.reader({PLACE: 0})
        assert [stored.value for stored in next_records(afresh, 3)] == [b"new"] * 3
        for reader in (near, far, opened_late, afresh):
            reader.close()


def test_a_record_that_cannot_be_taken_apart_stops_no_reader(kafka_broker: Broker, log: KafkaLog) -> None:
    require("kcat")
    end = append(log, b"before") + 1
    where = ["-b", kafka_broker.bootstrap, "-t", PLACE.topic, "-p", "0"]
    for name in (b"no-content", b"\xff\xfe=x", b"\xff\xfe=x"):
        subprocess.run(["kcat", "-P", *where, "-k", "k", "-H", name], input=b"poison\n", check=True, timeout=60)
    append(log, b"after")
    reader = log.reader({PLACE: end - 1})
    found = next_records(reader, 5)
    assert [(stored.position.offset - end, stored.value, stored.headers) for stored in found] == [
        (-1, b"before", ()),
        (0, b"poison", (("no-content", b""),)),
        (1, b"", ()),
        (2, b"", ()),
        (3, b"after", ()),
    ]
    reader.close()


def test_lag_tools_see_what_a_reader_noted(log: KafkaLog, admin: Any) -> None:
    def noted() -> bool:
        try:
            log.note_offsets("attune-trainer-support", {PLACE: 3})
        except Unavailable:  # a broker that has never had a group makes the topic for them first
            return False
        return True

    until(noted)
    (offsets,) = admin.list_group_offsets({"attune-trainer-support": None}).values()
    assert offsets[KafkaPartition(PLACE.topic, 0)].offset == 3
