"""What Kafka refuses and what it is too small for: on a real broker, with each client library that writes."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from deploy.brokers.broker import Broker
from exchange.log.checks import record_bytes
from exchange.log.claims import ClaimingLog
from exchange.log.kafka.log import KafkaLog
from exchange.log.kafka.settings import KafkaSettings
from exchange.log.port import EventLog, Position, RecordsRefused, StoredRecord, TopicPartition
from exchange.open import open_log
from schemas.completion import CompletionRecorded
from schemas.errors import InvalidInput
from schemas.sealed import seal
from schemas.topics import COMPLETIONS, FEEDBACK
from schemas.wire import LogRecord, decode_event, encode_event
from tests.golden.samples import COMPLETION

pytestmark = pytest.mark.kafka
TOKENS = 128 * 1024
KAFKAS_OWN_LIMIT = 1_048_588


@pytest.fixture(params=["kafka-python", "confluent"])
def settings(request: pytest.FixtureRequest) -> KafkaSettings:
    return KafkaSettings(producer=request.param)


@contextmanager
def limited(broker: Broker, topic: str, limit: int) -> Iterator[None]:
    """The topic takes less than its clients believe."""
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)

    def change(value: int) -> None:
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": str(value)})])

    change(limit)
    try:
        yield
    finally:
        change(KafkaSettings().max_message_bytes)
        admin.close()


def ends(log: EventLog, topic: str) -> dict[TopicPartition, int]:
    return {place: log.end_offset(place) for place in (TopicPartition(topic, n) for n in log.partitions(topic))}


def read_to_end(log: EventLog, start: dict[TopicPartition, int], topic: str) -> list[StoredRecord]:
    reader, found = log.reader(start), []
    wanted = ends(log, topic)
    while any(reader.positions()[place] < end for place, end in wanted.items()):
        found += reader.poll(timeout_s=1.0)
    reader.close()
    return found


def test_one_refused_record_harms_no_other(kafka_broker: Broker, settings: KafkaSettings) -> None:
    rand = random.Random(1)
    with KafkaLog([kafka_broker.bootstrap], settings) as log:
        start = ends(log, FEEDBACK.name)
        records = [LogRecord(FEEDBACK.name, b"key-%d" % (n % 9), b"%d" % n) for n in range(60)]
        guilty = {7, 30, 31}
        for n in guilty:
            records[n] = LogRecord(FEEDBACK.name, records[n].key, rand.randbytes(300_000))
        with limited(kafka_broker, FEEDBACK.name, 100_000):
            with pytest.raises(RecordsRefused, match="Kafka refused") as raised:
                log.append(records)
            log.append([LogRecord(FEEDBACK.name, b"after", b"after")])
        outcomes = raised.value.outcomes
        assert {n for n, outcome in enumerate(outcomes) if isinstance(outcome, InvalidInput)} == guilty
        found = read_to_end(log, start, FEEDBACK.name)
    by_place = {stored.position: stored for stored in found}
    for outcome, record in zip(outcomes, records, strict=True):
        if isinstance(outcome, Position):
            assert by_place[outcome].value == record.value, "it lies where the log says"
    first_seen = list(dict.fromkeys(stored.value for stored in found))
    assert sorted(first_seen) == sorted(
        [b"after", *(record.value for n, record in enumerate(records) if n not in guilty)]
    )


def test_a_record_too_large_when_compressed_is_refused_before_it_is_sent(
    kafka_broker: Broker, settings: KafkaSettings
) -> None:
    small = settings.model_copy(update={"max_message_bytes": 20_000})
    with KafkaLog([kafka_broker.bootstrap], small) as log:
        start = ends(log, COMPLETIONS.name)
        noise = LogRecord(COMPLETIONS.name, b"k", random.Random(2).randbytes(20_001))
        with pytest.raises(InvalidInput, match="too large for Kafka"):
            log.append([LogRecord(COMPLETIONS.name, b"k", b"small"), noise])
        assert ends(log, COMPLETIONS.name) == start
        text = LogRecord(COMPLETIONS.name, b"k", b"the same again " * 10_000)
        log.append([text])
        (stored,) = read_to_end(log, start, COMPLETIONS.name)
        assert stored.value == text.value


def test_an_answer_of_128k_tokens(kafka_broker: Broker, settings: KafkaSettings, tmp_path: Path) -> None:
    """It fits the topics that Attune makes, and goes by claim where a cluster takes no more than Kafka's default."""
    record = encode_event(long_answer())
    assert 2_000_000 < record_bytes(record) < 3_000_000
    strict = settings.model_copy(update={"max_message_bytes": KAFKAS_OWN_LIMIT})
    url, registry = f"kafka://{kafka_broker.bootstrap}", f"file://{tmp_path}/registry"
    with (
        KafkaLog([kafka_broker.bootstrap], settings) as whole,
        open_log(url, kafka=strict, registry=registry) as claiming,
        KafkaLog([kafka_broker.bootstrap], strict) as bare,
    ):
        assert isinstance(claiming, ClaimingLog)
        start = ends(whole, COMPLETIONS.name)
        whole.append([record])
        with pytest.raises(InvalidInput, match="too large"):
            bare.append([record])
        with limited(kafka_broker, COMPLETIONS.name, KAFKAS_OWN_LIMIT):
            claiming.append([record])
        on_log = read_to_end(bare, start, COMPLETIONS.name)
        assert [len(stored.value) > 2_000_000 for stored in on_log] == [True, False]
        found = read_to_end(claiming, start, COMPLETIONS.name)
    assert [decode_event(stored.value, stored.headers) for stored in found] == [long_answer()] * 2


@functools.cache
def long_answer() -> CompletionRecorded:
    rand = random.Random(3)
    logprobs = tuple(-rand.expovariate(1.0) for _ in range(TOKENS))
    content = seal(rand.randbytes(TOKENS * 10), key=bytes(32), key_id="key_1", subject="user_9c1b", event_id="evt")
    choice = COMPLETION.choices[0].model_copy(update={"token_count": TOKENS, "logprobs": logprobs})
    changed = COMPLETION.model_copy(update={"choices": (choice,), "content": content})
    return CompletionRecorded.model_validate(changed.model_dump())  # rounds to float32


def test_both_libraries_put_a_key_on_the_same_partition(kafka_broker: Broker) -> None:
    records = [
        LogRecord(COMPLETIONS.name, key, b"v") for key in (b"", b"k", b"\x00\xff", b"conversation-17", b"a" * 99)
    ]
    placed: list[list[int]] = []
    for producer in ("kafka-python", "confluent"):
        with KafkaLog([kafka_broker.bootstrap], KafkaSettings.model_validate({"producer": producer})) as log:
            placed.append([position.partition for position in log.append(records)])
    assert placed[0] == placed[1]
    assert len(set(placed[0])) > 1
