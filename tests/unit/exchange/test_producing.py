"""One record that a broker refuses harms no other: producers that fail as kafka-python's do, without a broker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence, Set

import pytest

from exchange.log.kafka.lazy import Lazy
from exchange.log.kafka.producing import Outcome, Producers
from exchange.log.port import Position
from schemas.errors import InvalidInput, Unavailable
from schemas.wire import LogRecord

TOPIC = "attune.policy"


class Broker:
    """What producers made here have stored, and how often one was made and ended."""

    def __init__(self, *, refuse: Set[bytes] = frozenset(), hurt: str = "after") -> None:
        self.refuse = refuse
        self.hurt = hurt
        self.stored: list[bytes] = []
        self.made = 0
        self.ended: list[bool] = []
        self.away = False
        self.in_send: Callable[[], None] = lambda: None

    def make(self) -> OneProducer:
        if self.away:
            raise Unavailable("no broker answers")
        self.made += 1
        return OneProducer(self)


class OneProducer:
    """Wedged by a refusal: what follows fails with the same error, as with kafka-python's idempotent producer."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.wedged = False

    def send(self, records: Sequence[LogRecord], until: float) -> list[Outcome]:
        self.broker.in_send()
        outcomes: list[Outcome] = []
        for record in records:
            if self.broker.away:
                outcomes.append(Unavailable("the broker left"))
            elif self.wedged or record.value in self.broker.refuse:
                self.wedged = True
                outcomes.append(InvalidInput("too large"))
            else:
                self.broker.stored.append(record.value)
                outcomes.append(Position(TOPIC, 0, len(self.broker.stored) - 1))
        if self.wedged and self.broker.hurt == "before":  # records under way beside it are lost to the client, stored
            outcomes = [InvalidInput("too large") if isinstance(outcome, Position) else outcome for outcome in outcomes]
        return outcomes

    def close(self, *, failed: bool) -> None:
        self.broker.ended.append(failed)


def records(*values: bytes) -> list[LogRecord]:
    return [LogRecord(TOPIC, b"k", value) for value in values]


def soon() -> float:
    return time.monotonic() + 60


@pytest.mark.parametrize("guilty", [{b"3"}, {b"0"}, {b"6"}, {b"1", b"2", b"5"}, {str(n).encode() for n in range(7)}])
def test_only_the_guilty_are_refused_and_the_others_stored_once_in_order(guilty: set[bytes]) -> None:
    broker = Broker(refuse=guilty)
    producers = Producers(broker.make)
    values = [str(n).encode() for n in range(7)]
    outcomes = producers.deliver(records(*values), soon())
    assert [isinstance(outcome, InvalidInput) for outcome in outcomes] == [value in guilty for value in values]
    assert broker.stored == [value for value in values if value not in guilty]
    assert [broker.stored[outcome.offset] for outcome in outcomes if isinstance(outcome, Position)] == broker.stored
    assert all(broker.ended)
    producers.deliver(records(b"later"), soon())
    assert broker.stored[-1] == b"later", "the next append is not hurt"


def test_what_seemed_to_fail_may_be_stored_twice_and_is_never_lost() -> None:
    broker = Broker(refuse={b"2"}, hurt="before")
    outcomes = Producers(broker.make).deliver(records(b"0", b"1", b"2", b"3"), soon())
    assert [isinstance(outcome, Position) for outcome in outcomes] == [True, True, False, True]
    assert set(broker.stored) == {b"0", b"1", b"3"}


def test_a_producer_that_failed_is_ended_and_another_made() -> None:
    broker = Broker()
    producers = Producers(broker.make)
    broker.in_send = lambda: setattr(broker, "away", True)
    assert isinstance(producers.deliver(records(b"0"), soon())[0], Unavailable)
    assert broker.ended == [True]
    assert isinstance(producers.deliver(records(b"0"), soon())[0], Unavailable), "and none can be made now"
    broker.away, broker.in_send = False, lambda: None
    assert isinstance(producers.deliver(records(b"0"), soon())[0], Position)
    assert broker.made == 2
    producers.close()
    assert broker.ended == [True, False]


def test_a_fit_producer_is_kept() -> None:
    broker = Broker()
    producers = Producers(broker.make)
    for n in range(3):
        producers.deliver(records(str(n).encode()), soon())
    assert (broker.made, broker.ended) == (1, [])


def test_a_failed_producer_is_ended_by_its_last_user() -> None:
    broker = Broker(refuse={b"bad"})
    producers = Producers(broker.make)
    inside, leave = threading.Event(), threading.Event()

    def wait() -> None:
        inside.set()
        assert leave.wait(10)

    broker.in_send = wait
    slow = threading.Thread(target=lambda: producers.deliver(records(b"slow"), soon()))
    slow.start()
    assert inside.wait(10)
    broker.in_send = lambda: None
    producers.deliver(records(b"bad"), soon())
    assert broker.ended == [], "another thread still sends with it"
    producers.deliver(records(b"next"), soon())
    assert broker.made == 2
    leave.set()
    slow.join(10)
    assert broker.ended == [True]


def test_time_that_is_over_sends_nothing() -> None:
    broker = Broker()
    assert isinstance(Producers(broker.make).deliver(records(b"0"), time.monotonic())[0], Unavailable)
    assert broker.made == 0


def test_callers_that_waited_for_a_try_share_its_failure() -> None:
    inside, leave, tries = threading.Event(), threading.Event(), []

    def make() -> str:
        tries.append(1)
        inside.set()
        assert leave.wait(10)
        if len(tries) > 1:
            return "there"
        raise Unavailable("away")

    lazy: Lazy[str] = Lazy(make)
    lazy._lock = queue = _Queue()  # type: ignore[assignment]
    errors: list[str] = []

    def ask() -> None:
        try:
            lazy.get()
        except Unavailable as error:
            errors.append(error.message)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert inside.wait(10)
    assert queue.full.wait(10)
    leave.set()
    for thread in threads:
        thread.join(10)
    assert errors == ["away"] * 4
    assert len(tries) == 1
    assert lazy.get() == "there"


class _Queue:
    """A lock that tells when four have asked for it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.asked = 0
        self.full = threading.Event()

    def __enter__(self) -> None:
        self.asked += 1
        if self.asked == 4:
            self.full.set()
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()
