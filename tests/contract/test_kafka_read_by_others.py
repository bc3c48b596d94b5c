"""What Attune writes is read by tools that know nothing of it: kcat and a plain consumer."""

from __future__ import annotations

import json
import subprocess

import jsonschema
import pytest

from deploy.brokers.broker import Broker
from deploy.event_schemas import event_schemas
from deploy.needs import require
from exchange.open import open_log
from schemas.wire import LogRecord, encode_event
from tests.golden.samples import SAMPLES

pytestmark = pytest.mark.kafka


@pytest.fixture
def written(kafka_broker: Broker) -> tuple[LogRecord, int, int]:
    """An event on the broker, with partition and offset."""
    record = encode_event(SAMPLES["feedback_thumbs"], source="attune/test")
    with open_log(f"kafka://{kafka_broker.bootstrap}") as log:
        (place,) = log.append([record])
    return record, place.partition, place.offset


def test_kcat_reads_headers_and_body(kafka_broker: Broker, written: tuple[LogRecord, int, int]) -> None:
    require("kcat")
    record, partition, offset = written
    where = ["-b", kafka_broker.bootstrap, "-t", record.topic, "-p", str(partition), "-o", str(offset)]
    done = subprocess.run(
        ["kcat", "-C", "-q", "-c", "1", *where, "-f", "%h\n%k\n%s"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    headers, key, body = done.stdout.split("\n", 2)
    assert dict(pair.split("=", 1) for pair in headers.split(",")) == {
        name: value.decode() for name, value in record.headers
    }
    assert key.encode() == record.key
    check(body)


def test_a_plain_consumer_reads_headers_and_body(kafka_broker: Broker, written: tuple[LogRecord, int, int]) -> None:
    from kafka import KafkaConsumer, TopicPartition

    record, partition, offset = written
    consumer = KafkaConsumer(bootstrap_servers=kafka_broker.bootstrap, consumer_timeout_ms=20_000)
    try:
        consumer.assign([TopicPartition(record.topic, partition)])
        consumer.seek(TopicPartition(record.topic, partition), offset)
        found = next(consumer)
    finally:
        consumer.close()
    assert dict(found.headers) == dict(record.headers)
    assert found.key == record.key
    check(found.value.decode())


def check(body: str) -> None:
    """The body is the event, and keeps to its JSON Schema."""
    sample = SAMPLES["feedback_thumbs"]
    parsed = json.loads(body)
    assert parsed == sample.model_dump(mode="json")
    jsonschema.validate(parsed, event_schemas()[sample.wire_type()])
