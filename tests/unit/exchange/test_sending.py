"""From the appender to the log by way of the spool: logs that go away, hang, refuse and come back."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from exchange.log.appender import Appender
from exchange.log.frames import Frame, scan
from exchange.log.line import NotKept
from exchange.log.memory import MemoryLog
from exchange.log.port import Position, RecordsRefused, TopicPartition
from exchange.log.spool import Spool
from exchange.log.sqlite import SqliteLog
from schemas.errors import InvalidInput, Unavailable
from schemas.topics import COMPLETIONS, DEAD_LETTER, ERASURES, FEEDBACK
from schemas.wire import LogRecord, encode_event, header
from tests.factories import Maker
from tests.flaky_log import FlakyLog
from tests.unit.trainer.data.support import ledger_of

QUICK = 0.01
"""Seconds until a log is tried again or counts as slow: tests wait on conditions, so short is safe."""
NEVER = 3600.0


def record(value: str, key: str = "k", topic: str = FEEDBACK.name, size: int = 0) -> LogRecord:
    return LogRecord(topic, key.encode(), value.encode().ljust(size, b"."))


def values(log: MemoryLog, topic: str = FEEDBACK.name, key: str | None = None) -> list[str]:
    places = {TopicPartition(topic, number): 0 for number in log.partitions(topic)}
    found = log.reader(places).poll(max_records=100_000)
    mine = [stored for stored in found if key is None or stored.key == key.encode()]
    return [stored.value.decode().rstrip(".") for stored in mine]


class Counted:
    """A tally that remembers."""

    def __init__(self) -> None:
        self.seen: Counter[tuple[str, ...]] = Counter()

    def failed(self, reason: str) -> None:
        self.seen["failed", reason] += 1

    def dropped(self, topic: str, reason: str) -> None:
        self.seen["dropped", topic, reason] += 1

    def buried(self, where: str) -> None:
        self.seen["buried", where] += 1


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.001)


@pytest.fixture
def log() -> FlakyLog:
    return FlakyLog()


def test_with_the_log_there_nothing_touches_the_spool(log: FlakyLog, tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        appender = Appender(log, spool=spool, spool_after_s=NEVER)
        stored = [appender.submit(record(str(n))).result(10) for n in range(50)]
        assert {one.durable for one in stored} == {"log"}
        assert [one.position.offset for one in stored if one.position] == list(range(50))
        assert list(tmp_path.glob("*.frames")) == []
        assert appender.state().away_since is None
        assert appender.state().delivered_at is not None
        assert appender.close()


def test_with_the_log_away_words_are_safe_in_the_spool_and_come_in_order(log: FlakyLog, tmp_path: Path) -> None:
    log.away = True
    with Spool(tmp_path) as spool:
        appender = Appender(log, spool=spool, spool_after_s=NEVER, retry_s=QUICK)
        futures = [appender.submit(record(str(n))) for n in range(50)]
        assert {future.result(10).durable for future in futures} == {"spool"}
        state = appender.state()
        assert state.away_since is not None
        assert state.spool_bytes == spool.size_bytes > 0
        assert state.spool_oldest_at is not None
        assert state.has_room
        assert appender.pending_bytes == 0
        assert not appender.flush(10), "the log has nothing"
        log.away = False
        until(lambda: appender.flush(1))
        assert values(log) == [str(n) for n in range(50)]
        assert appender.submit(record("50")).result(10).durable == "log"
        assert appender.state().away_since is None
        assert appender.close()


def test_a_hanging_log_holds_nobody_up_and_gets_nothing_twice(log: FlakyLog, tmp_path: Path) -> None:
    log.gate.clear()
    with Spool(tmp_path) as spool:
        appender = Appender(log, spool=spool, spool_after_s=QUICK, retry_s=QUICK)
        first = appender.submit(record("0"))
        until(lambda: bool(log.tried))
        rest = [appender.submit(record(str(n))) for n in range(1, 20)]
        assert {future.result(10).durable for future in (first, *rest)} == {"spool"}
        log.gate.set()
        until(lambda: appender.flush(1))
        assert values(log) == [str(n) for n in range(20)], "the copy of what came through is forgotten"
        assert appender.close()


def test_a_hanging_log_that_fails_in_the_end_gets_it_later(log: FlakyLog, tmp_path: Path) -> None:
    log.gate.clear()
    with Spool(tmp_path) as spool:
        appender = Appender(log, spool=spool, spool_after_s=QUICK, retry_s=QUICK)
        futures = [appender.submit(record("a"))]
        until(lambda: bool(log.tried))
        log.away = True
        futures.append(appender.submit(record("b")))
        for future in futures:
            assert future.result(10).durable == "spool"
        log.gate.set()
        until(lambda: appender.state().away_since is not None)
        log.away = False
        until(lambda: appender.flush(1))
        assert values(log) == ["a", "b"]
        assert appender.close()


def test_order_holds_for_every_key_while_the_log_comes_and_goes(log: FlakyLog, tmp_path: Path) -> None:
    rng = random.Random(7)
    with Spool(tmp_path, segment_bytes=2000) as spool:
        appender = Appender(log, spool=spool, spool_after_s=0.002, retry_s=0.001, max_batch_records=7)
        stop = threading.Event()

        def weather() -> None:
            while not stop.is_set():
                log.away = rng.random() < 0.5
                log.gate.clear() if rng.random() < 0.3 else log.gate.set()
                stop.wait(0.003)

        def speak(key: str) -> None:
            for n in range(150):
                appender.submit(record(str(n), key))
                if n % 10 == 0:
                    time.sleep(0.002)

        changing = threading.Thread(target=weather)
        speakers = [threading.Thread(target=speak, args=(f"key-{n}",)) for n in range(4)]
        for thread in (changing, *speakers):
            thread.start()
        for thread in speakers:
            thread.join()
        stop.set()
        changing.join()
        log.away = False
        log.gate.set()
        until(lambda: appender.flush(1))
        for n in range(4):
            assert values(log, key=f"key-{n}") == [str(n) for n in range(150)], "in order, and once"
        assert appender.close()


class Stormy(MemoryLog):
    """Fails by chance before an append or in the midst of one, and is slow by chance, until it is calm."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng
        self.calm = False

    def append(self, records: Sequence[LogRecord]) -> list[Position]:
        dice = 1.0 if self.calm else self._rng.random()
        if dice < 0.2:
            time.sleep(self._rng.uniform(0, 0.01))
        if dice < 0.3:
            super().append(records[: self._rng.randrange(len(records) + 1)])
            raise Unavailable("away, and nobody knows what of it is there")
        return super().append(records)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_the_log_does_and_over_restarts_nothing_is_lost_and_order_holds(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    log, said = Stormy(rng), 0
    for life in range(4):
        log.calm = life == 3
        with Spool(tmp_path, segment_bytes=rng.choice([200, 2000, 10**6])) as spool:
            appender = Appender(
                log,
                spool=spool,
                spool_after_s=rng.choice([0.001, 0.005, 0.05]),
                retry_s=rng.choice([0.0, 0.001, 0.01]),
                max_batch_records=rng.choice([1, 3, 50]),
                max_batch_bytes=rng.choice([50, 1000, 10**6]),
            )
            futures = []
            for _ in range(rng.randrange(20, 80)):
                futures.append(appender.submit(record(str(said), f"key-{said % 3}")))
                said += 1
                time.sleep(rng.choice([0, 0, 0, 0.002]))
            if log.calm:
                until(lambda: appender.flush(1))  # noqa: B023 waited for here
            assert appender.close(rng.choice([0.0, 0.01, 5.0]))
            assert all(future.exception(0) is None for future in futures)
            until(lambda: not appender.alive)  # noqa: B023
    for key in range(3):
        first = dict.fromkeys(values(log, key=f"key-{key}"))
        assert list(first) == [str(n) for n in range(said) if n % 3 == key]


def test_newer_records_wait_behind_a_replay(log: FlakyLog, tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        spool.append([record(str(n)) for n in range(5)])
        log.gate.clear()
        appender = Appender(log, spool=spool, spool_after_s=NEVER, retry_s=QUICK, max_batch_records=2)
        until(lambda: bool(log.tried))
        newer = appender.submit(record("new"))
        log.gate.set()
        assert newer.result(10).durable == "log"
        assert values(log) == ["0", "1", "2", "3", "4", "new"]
        assert log.tried == [["0", "1"], ["2", "3"], ["4"], ["new"]]
        assert appender.close()


def test_what_may_not_come_late_is_never_spooled(log: FlakyLog, tmp_path: Path) -> None:
    log.away = True
    tally = Counted()
    with Spool(tmp_path) as spool:
        appender = Appender(log, spool=spool, tally=tally, retry_s=QUICK)
        erasure = appender.submit(record("forget me", topic=ERASURES.name))
        assert str(erasure.exception(10)) == "the broker is away"
        assert spool.empty
        assert tally.seen["dropped", ERASURES.name, "log_away"] == 1
        assert appender.submit(record("a word")).result(10).durable == "spool"
        log.away = False
        assert appender.submit(record("forget me", topic=ERASURES.name)).result(10).durable == "log"
        assert appender.close()


def test_a_full_spool_refuses_words_and_drops_answers_by_reason(log: FlakyLog, tmp_path: Path) -> None:
    log.away = True
    tally = Counted()
    with Spool(tmp_path, max_bytes=1000) as spool:
        appender = Appender(log, spool=spool, tally=tally, retry_s=QUICK)
        fits = appender.submit(record("answer", topic=COMPLETIONS.name, size=700))
        assert fits.result(10).durable == "spool"
        dropped = appender.submit(record("answer", topic=COMPLETIONS.name, size=200))
        assert isinstance(dropped.exception(10), NotKept)
        word = appender.submit(record("word"))
        assert word.result(10).durable == "spool"
        error = appender.submit(record("word", size=300)).exception(10)
        assert isinstance(error, NotKept)
        assert error.reason == "spool_full"
        assert "raise spool.max_bytes" in str(error)
        assert tally.seen["dropped", COMPLETIONS.name, "spool_full"] == 1
        assert tally.seen["dropped", FEEDBACK.name, "spool_full"] == 1
        log.away = False
        until(lambda: appender.flush(1))
        assert values(log) == ["word"]
        assert appender.submit(record("word", size=300)).result(10).durable == "log"
        assert appender.close()


def test_a_locked_sqlite_file_is_a_slow_log(tmp_path: Path) -> None:
    file = tmp_path / "log.db"
    with SqliteLog(file) as log, Spool(tmp_path / "spool") as spool, closing(sqlite3.connect(file)) as other:
        appender = Appender(log, spool=spool, spool_after_s=QUICK, retry_s=QUICK)
        other.execute("BEGIN IMMEDIATE")
        assert {appender.submit(record(str(n))).result(10).durable for n in range(3)} == {"spool"}
        other.rollback()
        until(lambda: appender.flush(1))
        places = {TopicPartition(FEEDBACK.name, number): 0 for number in log.partitions(FEEDBACK.name)}
        with closing(log.reader(places)) as reader:
            assert [stored.value for stored in reader.poll()] == [b"0", b"1", b"2"]
        assert appender.close()


def test_a_full_spool_gives_nothing_up_while_the_log_is_only_slow(log: FlakyLog, tmp_path: Path) -> None:
    log.gate.clear()
    tally = Counted()
    with Spool(tmp_path, max_bytes=100) as spool:
        appender = Appender(log, spool=spool, tally=tally, spool_after_s=QUICK, retry_s=QUICK)
        futures = [appender.submit(record("0", size=200))]
        until(lambda: bool(log.tried))
        futures += [appender.submit(record(str(n), size=200)) for n in range(1, 5)]
        time.sleep(5 * QUICK)
        log.gate.set()
        assert {future.result(10).durable for future in futures} == {"log"}
        assert values(log) == ["0", "1", "2", "3", "4"]
        assert not tally.seen
        log.gate.clear()
        futures = [appender.submit(record(str(n), size=200)) for n in range(2)]
        until(lambda: len(log.tried) > 2)
        log.away = True
        log.gate.set()
        assert {type(future.exception(10)) for future in futures} == {NotKept}
        assert appender.close()


def test_poison_in_the_spool_is_buried_and_those_behind_it_go_on(log: FlakyLog, tmp_path: Path) -> None:
    tally = Counted()
    with Spool(tmp_path) as spool:
        spool.append([record("a"), record("poison"), record("b")])
        appender = Appender(log, spool=spool, tally=tally)
        until(lambda: appender.flush(1))
        assert values(log) == ["a", "b"]
        letters = {TopicPartition(DEAD_LETTER.name, 0): 0}
        (letter,) = log.reader(letters).poll()
        assert (letter.key, letter.value) == (b"k", b"poison")
        assert header(letter.headers, "attune_reason") == "the broker will never take it"
        assert header(letter.headers, "attune_origin") == f"{FEEDBACK.name} by way of the spool"
        assert tally.seen["buried", "topic"] == 1
        assert appender.close()


def test_poison_that_the_dead_letter_topic_refuses_too_lies_in_a_file(log: FlakyLog, tmp_path: Path) -> None:
    tally = Counted()
    file = tmp_path / "dead-letters"
    log.refused_topics.add(DEAD_LETTER.name)
    with Spool(tmp_path / "spool") as spool:
        appender = Appender(log, spool=spool, dead_letters=file, tally=tally)
        good, bad, also_good = (appender.submit(record(value)) for value in ("a", "poison", "b"))
        assert {future.result(10).durable for future in (good, also_good)} == {"log"}
        assert isinstance(bad.exception(10), InvalidInput)
        (frame,) = scan(file.read_bytes())
        assert isinstance(frame, Frame)
        assert (frame.record.topic, frame.record.value) == (DEAD_LETTER.name, b"poison")
        assert tally.seen["buried", "file"] == 1
        assert appender.close()


def test_closing_with_the_log_away_leaves_everything_to_the_next_process(log: FlakyLog, tmp_path: Path) -> None:
    log.gate.clear()
    with Spool(tmp_path) as spool:
        appender = Appender(log, spool=spool, spool_after_s=NEVER, retry_s=NEVER)
        futures = [appender.submit(record("0"))]
        until(lambda: bool(log.tried))
        futures += [appender.submit(record(str(n))) for n in range(1, 10)]
        assert appender.close(QUICK)
        assert {future.result(0).durable for future in futures} == {"spool"}
        with pytest.raises(NotKept, match="stopping"):
            appender.submit(record("late"))
    later = MemoryLog()
    with Spool(tmp_path) as spool:
        appender = Appender(later, spool=spool)
        until(lambda: appender.flush(1))
        assert appender.close()
    assert values(later) == [str(n) for n in range(10)]
    log.gate.set()


def test_a_record_that_came_twice_counts_once(log: FlakyLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after the log had it and before the spool knew: it is sent again, and the ledger is the same."""
    make = Maker()
    answers = [make.completion(n) for n in range(5)]
    events = [*answers, *(make.thumb(answer) for answer in answers)]
    with monkeypatch.context() as killed, Spool(tmp_path) as spool:
        spool.append([encode_event(event) for event in events])
        delivered = threading.Event()
        killed.setattr(Spool, "delivered", lambda self, number: delivered.set() or time.sleep(NEVER))  # type: ignore[func-returns-value]
        Appender(log, spool=spool)
        assert delivered.wait(10)
    with ledger_of(log) as ledger:
        once = ledger.known()
    with Spool(tmp_path) as spool:
        appender = Appender(log, spool=spool)
        until(lambda: appender.flush(1))
        assert appender.close()
    assert len(values(log)) == 2 * len(answers), "the log has every word twice"
    with ledger_of(log) as ledger:
        again = ledger.known()
    assert {one.id for one in again.feedback} == {one.id for one in once.feedback}
    assert len(again.feedback) == len(again.completions) == len(answers)


def test_a_spool_that_cannot_be_read_is_tried_again(
    log: FlakyLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tally = Counted()
    with Spool(tmp_path) as spool:
        spool.append([record("old")])
        broken = threading.Event()
        broken.set()
        peek = spool.peek

        def reading(max_records: int, max_bytes: int) -> list[LogRecord]:
            if broken.is_set():
                raise Unavailable("the disk cannot be read")
            return peek(max_records, max_bytes)

        monkeypatch.setattr(spool, "peek", reading)
        appender = Appender(log, spool=spool, tally=tally, spool_after_s=QUICK, retry_s=QUICK)
        assert appender.submit(record("new")).result(10).durable == "spool"
        until(lambda: tally.seen["failed", "spool"] > 0)
        broken.clear()
        until(lambda: appender.flush(1))
        assert values(log) == ["old", "new"]
        assert appender.close()


async def test_append_from_an_event_loop_says_where_it_is_safe(log: FlakyLog, tmp_path: Path) -> None:
    log.away = True
    with Spool(tmp_path) as spool:
        appender = Appender(log, spool=spool, retry_s=QUICK)
        assert (await appender.append(record("word"))).durable == "spool"
        log.away = False
        await asyncio.to_thread(until, lambda: appender.flush(1))
        assert (await appender.append(record("word"))).durable == "log"
        assert await asyncio.to_thread(appender.close)


def test_a_log_that_says_which_record_it_refuses_is_given_nothing_twice(tmp_path: Path) -> None:
    class Telling(FlakyLog):
        def append(self, records: Sequence[LogRecord]) -> list[Position]:
            bad = InvalidInput("the broker will never take it")
            outcomes = [bad if one.value == b"poison" and one.topic != DEAD_LETTER.name else None for one in records]
            stored = iter(super().append([one for one, out in zip(records, outcomes, strict=True) if out is None]))
            if any(outcomes):
                raise RecordsRefused([out or next(stored) for out in outcomes])
            return list(stored)

    log = Telling()
    with Spool(tmp_path) as spool:
        spool.append([record("a"), record("poison"), record("b")])
        appender = Appender(log, spool=spool)
        until(lambda: appender.flush(1))
        assert values(log) == ["a", "b"]
        assert values(log, DEAD_LETTER.name) == ["poison"]
        assert appender.close()


def test_a_flush_waits_for_what_came_before_it_alone(tmp_path: Path) -> None:
    class Stepped(MemoryLog):
        """Takes a batch for each permit."""

        def __init__(self) -> None:
            super().__init__()
            self.permits = threading.Semaphore(0)

        def append(self, records: Sequence[LogRecord]) -> list[Position]:
            assert self.permits.acquire(timeout=30)
            return super().append(records)

    log = Stepped()
    with Spool(tmp_path) as spool:
        appender = Appender(log, spool=spool, spool_after_s=NEVER)
        appender.submit(record("a"))
        until(lambda: bool(appender._line.sending))
        flushed: list[bool] = []
        flush = threading.Thread(target=lambda: flushed.append(appender.flush(60)))
        flush.start()
        until(lambda: bool(appender._line.settled._waiters))  # type: ignore[attr-defined]
        later = appender.submit(record("b"))
        log.permits.release()
        flush.join(30)
        assert flushed == [True]
        assert not later.done()
        log.permits.release()
        assert appender.close()
