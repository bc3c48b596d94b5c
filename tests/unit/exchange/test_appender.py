"""The appender: order, group commit, backpressure, errors and close, with logs that do as they are told."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence

import pytest

from exchange.log.appender import Appender
from exchange.log.line import Stored
from exchange.log.memory import MemoryLog
from exchange.log.port import Position, TopicPartition
from schemas.errors import InvalidInput, Unavailable
from schemas.topics import POLICY
from schemas.wire import LogRecord


def record(value: str, size: int = 0) -> LogRecord:
    return LogRecord(POLICY.name, b"k", value.encode().ljust(size, b"."))


def offset(stored: Stored) -> int:
    assert stored.durable == "log"
    assert stored.position is not None
    return stored.position.offset


def values(log: MemoryLog) -> list[str]:
    found = log.reader({TopicPartition(POLICY.name, 0): 0}).poll(max_records=100_000)
    return [stored.value.decode().rstrip(".") for stored in found]


class SteeredLog(MemoryLog):
    """Waits at `gate` before each append, remembers batches, and fails for values that say so."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[list[str]] = []

    def append(self, records: Sequence[LogRecord]) -> list[Position]:
        self.batches.append([record.value.decode().rstrip(".") for record in records])
        self.gate.wait(30)
        for one in records:
            if one.value.startswith(b"never"):
                raise InvalidInput("the broker refuses it", field="value")
            if one.value.startswith(b"away"):
                raise Unavailable("the broker is away", remedy="Wait.")
            if one.value.startswith(b"bug"):
                raise RuntimeError("a fault outside the contract")
        return super().append(records)


def test_records_keep_the_order_of_submit() -> None:
    log = MemoryLog()
    appender = Appender(log)
    futures = [appender.submit(record(str(n))) for n in range(500)]
    assert [offset(future.result(10)) for future in futures] == list(range(500))
    assert values(log) == [str(n) for n in range(500)]
    assert appender.pending_bytes == 0
    assert appender.close()


def test_what_waits_behind_a_batch_goes_as_one() -> None:
    log = SteeredLog()
    log.gate.clear()
    appender = Appender(log, max_batch_records=4, max_batch_bytes=10_000)
    futures = [appender.submit(record("first"))]
    while not log.batches:
        time.sleep(0.001)
    futures += [appender.submit(record(str(n))) for n in range(6)]
    log.gate.set()
    for future in futures:
        future.result(10)
    assert log.batches == [["first"], ["0", "1", "2", "3"], ["4", "5"]]
    appender.close()


def test_batches_are_bounded_in_bytes_but_hold_at_least_one_record() -> None:
    log = SteeredLog()
    log.gate.clear()
    appender = Appender(log, max_batch_bytes=250)
    futures = [appender.submit(record("first"))]
    while not log.batches:
        time.sleep(0.001)
    futures += [appender.submit(record(name, size)) for name, size in [("a", 100), ("b", 100), ("c", 900), ("d", 100)]]
    log.gate.set()
    for future in futures:
        future.result(10)
    assert log.batches == [["first"], ["a", "b"], ["c"], ["d"]]
    appender.close()


def test_a_full_queue_refuses_and_takes_again_once_there_is_room() -> None:
    log = SteeredLog()
    log.gate.clear()
    appender = Appender(log, max_queue_bytes=1000)
    kept = [appender.submit(record(str(n), 299)) for n in range(3)]  # 300 bytes each with the key
    assert appender.pending_bytes == 900
    with pytest.raises(Unavailable, match="full"):
        appender.submit(record("too much", 299))
    kept.append(appender.submit(record("small", 99)))
    assert appender.pending_bytes == 1000
    log.gate.set()
    for future in kept:
        future.result(10)
    assert appender.flush(10)
    assert appender.pending_bytes == 0
    appender.submit(record("again", 899)).result(10)
    assert values(log) == ["0", "1", "2", "small", "again"]
    appender.close()


def test_unavailable_reaches_every_sender_of_the_batch_and_the_next_batch_goes_on() -> None:
    log = SteeredLog()
    log.gate.clear()
    appender = Appender(log)
    first = appender.submit(record("first"))
    while not log.batches:
        time.sleep(0.001)
    doomed = [appender.submit(record("fine")), appender.submit(record("away"))]
    log.gate.set()
    first.result(10)
    errors = [future.exception(10) for future in doomed]
    assert all(isinstance(error, Unavailable) and str(error) == "the broker is away. Wait." for error in errors)
    assert errors[0] is not errors[1]
    appender.submit(record("after")).result(10)
    assert values(log) == ["first", "after"]
    assert appender.pending_bytes == 0
    appender.close()


def test_one_bad_record_does_not_take_its_neighbours_down() -> None:
    log = SteeredLog()
    log.gate.clear()
    appender = Appender(log)
    first = appender.submit(record("first"))
    while not log.batches:
        time.sleep(0.001)
    good, bad, also_good = (appender.submit(record(value)) for value in ("a", "never", "b"))
    log.gate.set()
    assert [offset(future.result(10)) for future in (first, good, also_good)] == [0, 1, 2]
    error = bad.exception(10)
    assert isinstance(error, InvalidInput)
    assert error.field == "value"
    assert values(log) == ["first", "a", "b"]
    assert appender.pending_bytes == 0
    appender.close()


def test_what_no_log_takes_is_refused_at_once() -> None:
    appender = Appender(MemoryLog())
    with pytest.raises(InvalidInput, match="no topic"):
        appender.submit(LogRecord("attune.typo", b"k", b"v"))
    assert appender.pending_bytes == 0
    appender.close()


def test_close_sends_what_is_queued_and_takes_no_more() -> None:
    log = SteeredLog()
    appender = Appender(log, max_batch_records=3)
    futures = [appender.submit(record(str(n))) for n in range(20)]
    assert appender.close(10)
    assert all(future.done() and future.exception() is None for future in futures)
    with pytest.raises(Unavailable, match="stopping"):
        appender.submit(record("late"))
    assert appender.close()


def test_close_gives_up_on_what_waits_when_the_log_hangs() -> None:
    log = SteeredLog()
    log.gate.clear()
    appender = Appender(log)
    sending = appender.submit(record("sending"))
    while not log.batches:
        time.sleep(0.001)
    waiting = appender.submit(record("waiting"))
    began = time.monotonic()
    assert not appender.close(0.2)
    assert time.monotonic() - began < 5
    assert isinstance(waiting.exception(1), Unavailable)
    assert not sending.done()
    log.gate.set()
    sending.result(10)
    assert values(log) == ["sending"]


def test_a_fault_of_the_log_fails_its_batch_and_the_next_goes_on() -> None:
    log = SteeredLog()
    log.gate.clear()
    appender = Appender(log, max_batch_records=1)
    bug, behind_it = (appender.submit(record(value)) for value in ("bug", "behind it"))
    log.gate.set()
    assert isinstance(bug.exception(10), Unavailable)
    assert offset(behind_it.result(10)) == 0
    assert appender.alive
    assert appender.close()
    assert appender.pending_bytes == 0
    with pytest.raises(Unavailable):
        appender.submit(record("late"))


async def test_append_waits_without_holding_up_the_event_loop() -> None:
    log = SteeredLog()
    log.gate.clear()
    appender = Appender(log)
    appending = asyncio.create_task(appender.append(record("slow")))
    for _ in range(20):
        await asyncio.sleep(0.005)
    assert not appending.done()
    log.gate.set()
    assert offset(await appending) == 0
    with pytest.raises(Unavailable):
        await appender.append(record("away"))
    appender.close()


async def test_a_caller_that_leaves_does_not_take_its_record_with_it() -> None:
    log = SteeredLog()
    log.gate.clear()
    appender = Appender(log, max_batch_records=1)
    tasks = [asyncio.create_task(appender.append(record(value))) for value in ("a", "b")]
    while not log.batches:
        await asyncio.sleep(0.001)
    for task in tasks:
        task.cancel()
    assert [type(result) for result in await asyncio.gather(*tasks, return_exceptions=True)] == [
        asyncio.CancelledError,
        asyncio.CancelledError,
    ]
    log.gate.set()
    assert await asyncio.to_thread(appender.flush, 10)
    assert values(log) == ["a", "b"]
    appender.close()


def test_many_threads_lose_nothing() -> None:
    log = MemoryLog()
    appender = Appender(log)

    def send(name: int) -> None:
        for n in range(200):
            appender.submit(record(f"{name}:{n}"))

    threads = [threading.Thread(target=send, args=(name,)) for name in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert appender.close()
    found = values(log)
    assert len(found) == 1000
    for name in range(5):
        assert [value for value in found if value.startswith(f"{name}:")] == [f"{name}:{n}" for n in range(200)]
