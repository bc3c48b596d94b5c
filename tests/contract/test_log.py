"""What every event log promises."""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict

import pytest

from exchange.log.checks import MAX_RECORD_BYTES
from exchange.log.port import EventLog, LogReader, StoredRecord, TopicPartition
from schemas.base import now_ms
from schemas.errors import InvalidInput, Unavailable
from schemas.topics import COMPLETIONS, FEEDBACK, POLICY
from schemas.wire import LogRecord, decode_event, encode_event
from tests.contract.conftest import EVERY_LOG
from tests.golden.samples import COMPLETION

pytestmark = pytest.mark.parametrize("log", EVERY_LOG, indirect=True)


def record(key: str, value: str, topic: str = COMPLETIONS.name) -> LogRecord:
    return LogRecord(topic=topic, key=key.encode(), value=value.encode(), headers=(("n", b"\x00\xff"), ("n", b"2")))


def ends(log: EventLog, topic: str) -> dict[TopicPartition, int]:
    places = [TopicPartition(topic, number) for number in log.partitions(topic)]
    return {place: log.end_offset(place) for place in places}


def read(reader: LogReader, count: int, *, max_records: int = 1000) -> list[StoredRecord]:
    """Exactly the next `count` records; fails where there are fewer or more."""
    found: list[StoredRecord] = []
    deadline = time.monotonic() + 30
    while len(found) < count and time.monotonic() < deadline:
        batch = reader.poll(max_records=max_records, timeout_s=1.0)
        assert len(batch) <= max_records
        found += batch
    found += reader.poll(timeout_s=0.05)
    assert len(found) == count
    return found


def test_what_is_appended_is_read_back_whole(log: EventLog) -> None:
    start = ends(log, COMPLETIONS.name)
    before = now_ms()
    sent = [record(f"key-{n % 7}", f"value-{n}") for n in range(40)]
    positions = log.append(sent)
    reader = log.reader(start)
    found = {stored.position: stored for stored in read(reader, 40)}
    for original, position in zip(sent, positions, strict=True):
        stored = found[position]
        assert (stored.key, stored.value, stored.headers) == (original.key, original.value, original.headers)
        assert before - 1000 <= stored.timestamp_ms <= now_ms() + 1000
    assert reader.positions() == ends(log, COMPLETIONS.name)
    reader.close()


def test_an_event_comes_back_equal(log: EventLog) -> None:
    start = ends(log, COMPLETIONS.name)
    log.append([encode_event(COMPLETION)])
    reader = log.reader(start)
    (stored,) = read(reader, 1)
    assert decode_event(stored.value, stored.headers) == COMPLETION
    reader.close()


def test_equal_keys_share_a_partition_and_keep_their_order(log: EventLog) -> None:
    start = ends(log, FEEDBACK.name)
    for batch in range(5):
        log.append([record(f"k{n}", f"{batch}-{m}", FEEDBACK.name) for m in range(3) for n in range(10)])
    reader = log.reader(start)
    partitions: dict[bytes, set[int]] = defaultdict(set)
    values: dict[bytes, list[bytes]] = defaultdict(list)
    offsets: dict[int, list[int]] = defaultdict(list)
    for stored in read(reader, 150):
        partitions[stored.key].add(stored.position.partition)
        values[stored.key].append(stored.value)
        offsets[stored.position.partition].append(stored.position.offset)
    assert all(len(found) == 1 for found in partitions.values())
    assert len(set.union(*partitions.values())) > 1, "ten keys on six partitions use more than one"
    expected = [f"{batch}-{m}".encode() for batch in range(5) for m in range(3)]
    assert all(found == expected for found in values.values())
    assert all(found == sorted(set(found)) for found in offsets.values())
    reader.close()


def test_positions_count_up_from_the_end_offset(log: EventLog) -> None:
    (place, end) = next(iter(ends(log, POLICY.name).items()))
    positions = log.append([record("p", str(n), POLICY.name) for n in range(3)])
    assert [position.offset for position in positions] == [end, end + 1, end + 2]
    assert log.end_offset(place) == end + 3


def test_a_topic_has_a_name_of_its_own_and_a_start(log: EventLog) -> None:
    names = {topic: log.identity(topic) for topic in (COMPLETIONS.name, POLICY.name)}
    assert len(set(names.values())) == 2
    assert log.identity(POLICY.name) == names[POLICY.name] != ""
    (place, end) = next(iter(ends(log, POLICY.name).items()))
    log.append([record("p", "one", POLICY.name)])
    assert 0 <= log.start_offset(place) <= end
    with pytest.raises(InvalidInput):
        log.identity("attune.typo")
    with pytest.raises(InvalidInput):
        log.start_offset(TopicPartition(POLICY.name, 7))


def test_reading_starts_at_the_given_offset_and_covers_only_what_was_assigned(log: EventLog) -> None:
    positions = log.append([record("same", str(n)) for n in range(10)])
    log.append([record("other", "x", FEEDBACK.name)])
    place = TopicPartition(COMPLETIONS.name, positions[0].partition)
    reader = log.reader({place: positions[6].offset})
    assert [stored.value for stored in read(reader, 4)] == [b"6", b"7", b"8", b"9"]
    reader.close()


def test_two_readers_do_not_disturb_each_other(log: EventLog) -> None:
    start = ends(log, COMPLETIONS.name)
    log.append([record("a", str(n)) for n in range(5)])
    one, two = log.reader(start), log.reader(start)
    assert [s.value for s in read(one, 5)] == [s.value for s in read(two, 5)]
    log.append([record("a", "more")])
    assert [s.value for s in read(one, 1)] == [b"more"]
    one.close()
    two.close()


def test_small_polls_miss_nothing_and_starve_no_partition(log: EventLog) -> None:
    start = ends(log, COMPLETIONS.name)
    log.append([record(f"k{n}", str(n)) for n in range(60)])
    reader = log.reader(start)
    found = read(reader, 60, max_records=7)
    assert sorted(int(stored.value) for stored in found) == list(range(60))
    reader.close()


def test_an_empty_poll_returns_in_its_time(log: EventLog) -> None:
    reader = log.reader(ends(log, COMPLETIONS.name))
    began = time.monotonic()
    assert reader.poll() == []
    assert time.monotonic() - began < 1.0
    began = time.monotonic()
    assert reader.poll(timeout_s=0.3) == []
    assert 0.25 < time.monotonic() - began < 2.0
    reader.close()


def test_a_waiting_reader_wakes_for_a_record(log: EventLog) -> None:
    reader = log.reader(ends(log, COMPLETIONS.name))
    reader.poll(timeout_s=0.1)
    timer = threading.Timer(0.2, lambda: log.append([record("late", "here")]))
    timer.start()
    began = time.monotonic()
    assert [stored.value for stored in reader.poll(timeout_s=20.0)] == [b"here"]
    assert time.monotonic() - began < 10.0
    timer.join()
    reader.close()


def test_many_threads_append_at_once(log: EventLog) -> None:
    start = ends(log, COMPLETIONS.name)

    def write(name: int) -> None:
        for n in range(10):
            log.append([record(f"t{name}", f"{name}:{n}:{m}") for m in range(3)])

    threads = [threading.Thread(target=write, args=(name,)) for name in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reader = log.reader(start)
    found = read(reader, 150)
    assert len({stored.value for stored in found}) == 150
    assert len({stored.position for stored in found}) == 150
    reader.close()


def test_nothing_appended_is_nothing(log: EventLog) -> None:
    assert log.append([]) == []


def test_a_large_record_survives(log: EventLog) -> None:
    start = ends(log, COMPLETIONS.name)
    value = random.Random(0).randbytes(8 * 2**20)
    log.append([LogRecord(COMPLETIONS.name, b"large", value)])
    reader = log.reader(start)
    (stored,) = read(reader, 1)
    assert stored.value == value
    reader.close()


def test_what_will_never_fit_is_refused_whole(log: EventLog) -> None:
    before = ends(log, COMPLETIONS.name)
    with pytest.raises(InvalidInput, match="too large"):
        log.append([record("a", "fine"), record("a", "x" * (MAX_RECORD_BYTES + 1))])
    with pytest.raises(InvalidInput, match=r"no topic 'attune\.typo'"):
        log.append([record("a", "fine"), record("a", "b", "attune.typo")])
    assert ends(log, COMPLETIONS.name) == before


def test_unknown_topics_and_partitions_are_refused(log: EventLog) -> None:
    assert log.partitions(POLICY.name) == (0,)
    assert log.partitions(COMPLETIONS.name) == tuple(range(COMPLETIONS.partitions))
    with pytest.raises(InvalidInput):
        log.partitions("attune.typo")
    with pytest.raises(InvalidInput):
        log.end_offset(TopicPartition(POLICY.name, 7))
    with pytest.raises(InvalidInput):
        log.reader({TopicPartition("attune.typo", 0): 0})


def test_a_closed_log_says_so(log: EventLog) -> None:
    log.close()
    with pytest.raises(Unavailable):
        log.append([record("a", "b")])
    with pytest.raises(Unavailable):
        log.end_offset(TopicPartition(POLICY.name, 0))
    log.close()


def test_a_closed_reader_says_so(log: EventLog) -> None:
    reader = log.reader(ends(log, POLICY.name))
    reader.close()
    with pytest.raises(Unavailable):
        reader.poll()
