"""The Kafka reader's own decisions, with a consumer that does what it is told."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition as KafkaPartition
from kafka import errors as kafka_errors

from exchange.log.kafka import reader as reading
from exchange.log.kafka.reader import KafkaReader
from exchange.log.port import LogReplaced, RecordsLost, TopicPartition
from schemas.errors import Unavailable
from schemas.topics import FEEDBACK

PLACES = [TopicPartition(FEEDBACK.name, 0), TopicPartition(FEEDBACK.name, 1)]
AT = [KafkaPartition(FEEDBACK.name, 0), KafkaPartition(FEEDBACK.name, 1)]


@dataclass
class Cluster:
    """Log and consumer in one."""

    name: str | None = "first"
    starts: dict[TopicPartition, int] = field(default_factory=lambda: dict.fromkeys(PLACES, 0))
    end: int = 100
    script: list[Any] = field(default_factory=list)
    stands: dict[Any, int] = field(default_factory=dict)

    # What the reader asks its log.
    def identity(self, topic: str) -> str:
        if self.name is None:
            raise Unavailable("away")
        return self.name

    def start_offset(self, partition: TopicPartition) -> int:
        return self.starts[partition]

    def start_offsets(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        return {place: self.starts[place] for place in partitions}

    def end_offset(self, partition: TopicPartition) -> int:
        return self.end

    # What makes the consumer, which is this too.
    def make(self, kind: object, **options: object) -> Cluster:
        assert options["auto_offset_reset"] == "none", "nothing is passed over in silence"
        return self

    def translated(self) -> nullcontext[None]:
        return nullcontext()

    def assign(self, places: list[Any]) -> None:
        assert places == AT

    def seek(self, place: Any, offset: int) -> None:
        self.stands[place] = offset

    def position(self, place: Any, timeout_ms: int) -> int:
        return self.stands[place]

    def poll(self, timeout_ms: int, max_records: int) -> dict[Any, list[Any]]:
        step = self.script.pop(0) if self.script else {}
        if isinstance(step, Exception):
            raise step
        for place, records in step.items():
            self.stands[place] = records[-1].offset + 1
        return dict(step)

    def close(self) -> None: ...


def records(at: Any, *offsets: int) -> dict[Any, list[Any]]:
    return {
        at: [
            SimpleNamespace(
                topic=at.topic, partition=at.partition, offset=n, timestamp=1, key=b"k", value=b"%d" % n, headers=[]
            )
            for n in offsets
        ]
    }


def reader_of(cluster: Cluster, first: int = 0, second: int = 0) -> KafkaReader:
    return KafkaReader(cluster, cluster, {PLACES[0]: first, PLACES[1]: second})  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def always_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_VERIFY_S", 0.0)


def test_0_is_the_oldest_that_is_left_and_other_offsets_are_meant() -> None:
    cluster = Cluster(starts={PLACES[0]: 7, PLACES[1]: 9})
    assert reader_of(cluster, 0, 3).positions() == {PLACES[0]: 7, PLACES[1]: 3}


def test_records_wait_until_it_is_known_whose_they_are() -> None:
    cluster = Cluster(script=[records(AT[0], 5, 6) | records(AT[1], 8)])
    reader = reader_of(cluster, 5, 8)
    cluster.name = None
    for _ in range(2):
        assert reader.poll() == []
        assert reader.positions() == {PLACES[0]: 5, PLACES[1]: 8}, "what waits has not been read"
    cluster.name = "first"
    assert [stored.position.offset for stored in reader.poll(max_records=2)] == [5, 6]
    assert reader.positions() == {PLACES[0]: 7, PLACES[1]: 8}
    assert [stored.position.offset for stored in reader.poll()] == [8]


def test_records_of_a_topic_made_anew_are_never_given_on() -> None:
    cluster = Cluster(script=[records(AT[1], 8)])
    reader = reader_of(cluster, 5, 8)
    cluster.name = "second"
    for _ in range(2):
        with pytest.raises(LogReplaced, match="made anew"):
            reader.poll()
    assert reader.positions()[PLACES[1]] == 8


def test_an_offset_out_of_range_is_explained() -> None:
    cluster = Cluster(starts=dict.fromkeys(PLACES, 10), script=[kafka_errors.OffsetOutOfRangeError({AT[1]: 4})])
    with pytest.raises(RecordsLost) as lost:
        reader_of(cluster, 12, 4).poll()
    assert (lost.value.partition, lost.value.wanted, lost.value.oldest) == (PLACES[1], 4, 10)
    cluster = Cluster(end=100, script=[kafka_errors.OffsetOutOfRangeError({AT[0]: 300})])
    with pytest.raises(LogReplaced, match="ends at 100"):
        reader_of(cluster, 300).poll()


def test_records_that_the_brokers_lost_again_are_told_of() -> None:
    cluster = Cluster(script=[kafka_errors.LogTruncationError({AT[0]: None})])
    with pytest.raises(LogReplaced, match="a copy that lacks") as raised:
        reader_of(cluster, 50).poll()
    assert (raised.value.partition, raised.value.wanted) == (PLACES[0], 50)


def test_a_header_without_content_is_an_empty_one() -> None:
    (record,) = records(AT[0], 5)[AT[0]]
    record.headers = [("ce_type", None), ("ce_id", b"1")]
    (found,) = reader_of(Cluster(script=[{AT[0]: [record]}]), 5).poll()
    assert found.headers == (("ce_type", b""), ("ce_id", b"1"))
