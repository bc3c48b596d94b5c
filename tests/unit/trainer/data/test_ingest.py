"""Ingest: offsets with their rows, redelivery, crashes, other policies, dead letters."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exchange.log.memory import MemoryLog
from exchange.log.port import EventLog, TopicPartition
from exchange.log.sqlite import SqliteLog
from schemas.completion import ConsentLevel
from schemas.errors import IntegrityError, Unavailable
from schemas.event import Event
from schemas.events import ReplicaReported
from schemas.topics import COMPLETIONS, CONSENTS, DEAD_LETTER, ERASURES, FEEDBACK, RATERS
from schemas.wire import LogRecord, encode_event
from tests.factories import Maker
from tests.unit.trainer.data.support import ledger_of, log_of, pump_all
from trainer.intake.batch import Buried
from trainer.intake.facts import Known
from trainer.intake.ingest import Ingest
from trainer.intake.ledger import Ledger


def story(make: Maker) -> list[Event]:
    """A little of everything."""
    answers = [make.completion(n * 100, user=f"u{n % 3}") for n in range(6)]
    return [
        *answers,
        *(make.thumb(answer, up=n % 2 == 0, user=f"u{n % 3}") for n, answer in enumerate(answers)),
        make.comparison(answers[:2], user="u0"),
        make.correction(answers[3], "better", user="u0"),
        make.displayed(answers[:3]),
        make.consent("u1", ConsentLevel.STORE),
        make.erasure("u2", at=1_500),
    ]


def contents(known: Known) -> tuple[object, ...]:
    """Everything known but offsets, in a fixed order."""
    return (
        sorted(item.model_dump_json() for item in known.completions),
        sorted(item.model_dump_json() for item in known.feedback),
        sorted(item.model_dump_json() for item in known.displayed),
        sorted(item.model_dump_json() for item in known.consents),
        known.erased_completions,
        known.erased_feedback,
        known.watermark,
    )


def records(log: EventLog, topic: str) -> list[tuple[bytes, dict[str, bytes]]]:
    reader = log.reader({TopicPartition(topic, number): 0 for number in log.partitions(topic)})
    found = [(record.value, dict(record.headers)) for record in reader.poll(max_records=10_000)]
    reader.close()
    return found


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


@settings(max_examples=25, deadline=None)
@given(
    rng=st.randoms(use_true_random=False),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    twice=st.sets(st.integers(0, 20)),
)
def test_order_repetition_and_batches_make_no_difference(rng: random.Random, sizes: list[int], twice: set[int]) -> None:
    make = Maker()
    events = story(make)
    with ledger_of(log_of(events)) as ledger:
        expected = contents(ledger.known())
    shuffled = [*events, *(events[index] for index in twice if index < len(events))]
    rng.shuffle(shuffled)
    for size in sizes:
        with ledger_of(log_of(shuffled), size=size) as ledger:
            assert contents(ledger.known()) == expected


@pytest.mark.parametrize("many", [3, 1000])
def test_only_what_is_opened_in_bulk_is_kept_from_the_collector(monkeypatch: pytest.MonkeyPatch, many: int) -> None:
    monkeypatch.setattr("trainer.intake.ledger._MANY", many)
    gc.unfreeze()
    try:
        with ledger_of(log_of(story(Maker()))) as ledger:
            ledger.known()
            assert gc.isenabled()
            assert (gc.get_freeze_count() > 0) == (many == 3)
    finally:
        gc.unfreeze()


def test_reading_goes_on_where_it_stopped(tmp_path: Path, log: MemoryLog) -> None:
    make = Maker()
    events = story(make)
    log.append([encode_event(event) for event in events[:6]])
    with Ledger(tmp_path / "ledger.db", "support") as ledger:
        ingest = Ingest(log, ledger, "support")
        assert ingest.lag() == 6
        assert pump_all(ingest, 4) == 6
        assert ingest.lag() == 0
    log.append([encode_event(event) for event in events[6:]])
    with Ledger(tmp_path / "ledger.db", "support") as ledger:
        assert pump_all(Ingest(log, ledger, "support")) == len(events) - 6
        assert len(ledger.known().feedback) == 6


class _Crash(Exception):
    pass


def test_a_crash_inside_the_transaction_leaves_neither_rows_nor_offsets(
    tmp_path: Path, log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Maker()
    events = story(make)
    log.append([encode_event(event) for event in events])
    with ledger_of(log) as ledger:
        expected = ledger.known()

    bury = Ledger._bury
    calls = 0

    def crash_every_other_time(self: Ledger, events: Iterable[Event]) -> Mapping[str, Buried]:
        nonlocal calls
        calls += 1
        if calls % 2:
            raise _Crash
        return bury(self, events)

    monkeypatch.setattr(Ledger, "_bury", crash_every_other_time)
    with Ledger(tmp_path / "ledger.db", "support") as ledger:
        ingest = Ingest(log, ledger, "support")
        read = 0
        for _ in range(100):
            before = (contents(ledger.known()), ledger.offsets())
            try:
                count = ingest.pump(4)
            except _Crash:
                assert (contents(ledger.known()), ledger.offsets()) == before
                continue
            read += count
            if not count:
                break
        assert read == len(events)
        assert contents(ledger.known()) == contents(expected)
        assert ledger.offsets() == expected.offsets


def test_a_killed_trainer_reads_the_lost_batch_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Maker()
    path = tmp_path / "log.db"
    with SqliteLog(path) as log:
        log.append([encode_event(event) for event in story(make)])
        with Ledger(tmp_path / "ledger.db", "support") as ledger, monkeypatch.context() as patch:
            ingest = Ingest(log, ledger, "support")
            ingest.pump(5)

            def crash(self: Ledger, events: Iterable[Event]) -> None:
                raise _Crash

            patch.setattr(Ledger, "_bury", crash)
            with pytest.raises(_Crash):
                ingest.pump(5)
            ingest.close()
        with Ledger(tmp_path / "ledger.db", "support") as ledger, ledger_of(log) as fresh:
            ingest = Ingest(log, ledger, "support")
            pump_all(ingest, 3)
            ingest.close()
            assert contents(ledger.known()) == contents(fresh.known())


def test_other_policies_are_skipped_unread_but_consent_and_erasure_are_not(log: MemoryLog) -> None:
    ours, theirs = Maker(), Maker("sales")
    mine = ours.completion(user="ann")
    foreign = encode_event(theirs.completion(id="cmpl_foreign"))
    broken = LogRecord(foreign.topic, foreign.key, b"not even JSON", foreign.headers)
    late = (ours.consent("ann", ConsentLevel.STORE, policy="sales"), ours.erasure("bob", policy="sales"))
    gone = ours.completion(user="bob", id="cmpl_gone")
    log.append([encode_event(mine), encode_event(gone), foreign, broken, *(encode_event(event) for event in late)])
    with ledger_of(log) as ledger:
        known = ledger.known()
        assert [facts.completion_id for facts in known.completions] == [mine.completion_id]
        assert [consent.end_user for consent in known.consents] == ["ann"]
        assert known.erased_completions == {"cmpl_gone"}
        assert ledger.dead_letters() == []
        assert sum(known.offsets.values()) == 6


def test_what_cannot_be_read_is_buried_with_its_place_and_reason(log: MemoryLog) -> None:
    make = Maker()
    good = encode_event(make.thumb(make.completion()))
    future = tuple((name, b"attune.feedback.received.v2" if name == "ce_type" else v) for name, v in good.headers)
    other = tuple((name, b"support" if name == "ce_subject" else v) for name, v in good.headers)
    sales = Maker("sales").thumb(make.completion())
    replica = ReplicaReported(
        id="rep_1",
        at=1,
        policy="support",
        tenant="operator",
        replica_id="r",
        generation=0,
        stable=0,
        canary=None,
        loaded={},
    )
    misplaced = encode_event(replica)
    bad = [
        LogRecord(good.topic, b"k", b"{broken", good.headers),
        LogRecord(good.topic, b"k", good.value, future),
        LogRecord(good.topic, b"k", good.value, ()),
        LogRecord(good.topic, b"k", sales.model_dump_json().encode(), other),
        LogRecord(good.topic, b"k", misplaced.value, misplaced.headers),
        LogRecord(good.topic, b"k", good.value.replace(b'"aspects":{}', b'"aspects":{"tone":NaN}'), good.headers),
    ]
    assert bad[-1].value != good.value
    positions = log.append([*bad, good])
    with ledger_of(log, size=2) as ledger:
        assert len(ledger.known().feedback) == 1
        dead = ledger.dead_letters()
        assert [letter.position for letter in dead] == positions[:6]
    texts = [letter.reason for letter in dead]
    for text, word in zip(texts, ("body", "v2", "ce_type", "ce_subject", "belong", "tone"), strict=True):
        assert word in text
    buried = records(log, DEAD_LETTER.name)
    assert [value for value, _ in buried] == [record.value for record in bad]
    place = positions[1]
    assert buried[1][1]["attune_origin"].decode() == f"{place.topic}/{place.partition}@{place.offset}"
    assert buried[1][1]["attune_reason"].decode() == texts[1]
    assert buried[1][1]["ce_type"] == b"attune.feedback.received.v2"


def test_a_log_that_is_away_while_burying_loses_nothing(log: MemoryLog, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Maker()
    good = encode_event(make.thumb(make.completion()))
    log.append([LogRecord(good.topic, good.key, b"{", good.headers), good])

    def away(records: object) -> None:
        raise Unavailable("the log is away")

    with ledger_of(MemoryLog()) as ledger:
        ingest = Ingest(log, ledger, "support")
        with monkeypatch.context() as patch:
            patch.setattr(log, "append", away)
            with pytest.raises(Unavailable):
                ingest.pump()
        assert ledger.offsets() == {}
        pump_all(ingest)
        assert len(ledger.dead_letters()) == 1
        assert len(ledger.known().feedback) == 1


def test_a_log_that_goes_away_while_reading_is_read_again(log: MemoryLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log.append([encode_event(event) for event in story(Maker())])

    def away(*_: object) -> None:
        raise Unavailable("the log is away")

    with ledger_of(MemoryLog()) as ledger:
        ingest = Ingest(log, ledger, "support")
        with monkeypatch.context() as patch:
            patch.setattr(log, "read", away)
            patch.setattr(log, "reader", away)
            for _ in range(3):
                with pytest.raises(Unavailable):
                    ingest.pump()
        assert pump_all(ingest) == len(story(Maker()))
        assert ingest.lag() == 0


def test_ingest_reads_five_topics(log: MemoryLog) -> None:
    with ledger_of(log) as ledger:
        ingest = Ingest(log, ledger, "support")
        assert {place.topic for place in ingest._places} == {
            COMPLETIONS.name,
            FEEDBACK.name,
            CONSENTS.name,
            ERASURES.name,
            RATERS.name,
        }


def test_a_ledger_of_another_log_is_refused(tmp_path: Path, log: MemoryLog) -> None:
    make = Maker()
    log.append([encode_event(make.completion())])
    with Ledger(tmp_path / "ledger.db", "support") as ledger:
        pump_all(Ingest(log, ledger, "support"))
        with pytest.raises(IntegrityError, match="another log"):
            Ingest(MemoryLog(), ledger, "support")
