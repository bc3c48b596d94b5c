"""The record of consents: last words win in any order, restarts read on, and what is not known yet allows nothing."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from exchange.log.memory import MemoryLog, MemoryReader
from exchange.log.port import TopicPartition
from schemas.completion import Consent, ConsentLevel
from schemas.errors import Unavailable
from schemas.topics import CONSENTS
from schemas.wire import LogRecord, encode_event
from server.request.consents import ConsentBook, narrowed
from tests.factories import Maker
from tests.unit.server.control.world import until

NONE, STORE, TRAIN = ConsentLevel


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


@pytest.mark.parametrize(("asked", "said"), list(itertools.product(ConsentLevel, repeat=2)))
def test_a_request_may_do_what_both_it_and_the_person_allow(asked: ConsentLevel, said: ConsentLevel) -> None:
    order = [NONE, STORE, TRAIN]
    found = narrowed(Consent(level=asked, source="key"), said)
    assert found.level is order[min(order.index(asked), order.index(said))]
    assert found.source == ("event" if found.level is not asked else "key")


async def test_the_last_word_counts_in_whatever_order_words_come(log: MemoryLog, tmp_path: Path) -> None:
    make = Maker()
    changes = [make.consent("ann", NONE, 1), make.consent("ann", TRAIN, 2), make.consent("ann", STORE, 3)]
    for number, order in enumerate(itertools.permutations(changes)):
        book = ConsentBook(log, tmp_path / f"{number}.db")
        await book.start()
        for change in order:
            book.note([change])
        assert (book.said_by("ann"), book.said_by("bob"), book.said_by(None)) == (STORE, TRAIN, TRAIN)
        await book.close()


async def test_all_that_was_said_before_the_start_is_known_and_a_restart_reads_only_what_is_new(
    log: MemoryLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, path = Maker(), tmp_path / "consents.db"
    log.append([LogRecord(CONSENTS.name, b"k", b"{", ())])  # what cannot be read is passed over
    log.append([encode_event(make.consent(f"u{n}", NONE, n)) for n in range(50)])
    book = ConsentBook(log, path)
    await book.start()
    assert {book.said_by(f"u{n}") for n in range(50)} == {NONE}
    log.append([encode_event(make.consent("u7", TRAIN, 100))])
    await until(lambda: book.said_by("u7") is TRAIN)
    await book.close()

    opened: list[int] = []
    reader = log.reader

    def watched(offsets: dict[TopicPartition, int]) -> object:
        opened.extend(offsets.values())
        return reader(offsets)

    monkeypatch.setattr(log, "reader", watched)
    again = ConsentBook(log, path)
    await again.start()
    assert again.said_by("u7") is TRAIN
    assert again.said_by("u8") is NONE
    await again.close()
    assert set(opened) == {52}


async def test_while_the_log_is_away_what_is_known_holds_and_a_new_replica_keeps_nothing_of_named_people(
    log: MemoryLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append([encode_event(Maker().consent("ann", STORE))])
    old = ConsentBook(log, tmp_path / "old.db")
    await old.start()
    await old.close()

    def away(*_: object) -> None:
        raise Unavailable("the log is away")

    with monkeypatch.context() as patch:
        patch.setattr(log, "reader", away)
        patch.setattr(log, "end_offset", away)
        patch.setattr("server.request.consents.RETRY_S", 0.01)
        old, new = ConsentBook(log, tmp_path / "old.db"), ConsentBook(log, tmp_path / "new.db")
        bold = ConsentBook(log, tmp_path / "bold.db", TRAIN)
        for book in (old, new, bold):
            await book.start()
        bold.note([Maker().consent("carl", STORE)])
        assert (bold.said_by("bob"), bold.said_by("carl")) == (TRAIN, STORE)
        assert (old.said_by("ann"), old.said_by("bob")) == (STORE, TRAIN)
        assert (new.said_by("ann"), new.said_by("bob"), new.said_by(None)) == (NONE, NONE, TRAIN)
        patch.undo()
        await until(lambda: (new.said_by("ann"), new.said_by("bob")) == (STORE, TRAIN))
    for book in (old, new, bold):
        await book.close()


async def test_another_log_is_read_from_its_start_and_words_known_before_hold(log: MemoryLog, tmp_path: Path) -> None:
    make, path = Maker(), tmp_path / "consents.db"
    log.append([encode_event(make.consent(f"u{n}", NONE)) for n in range(9)])
    first = ConsentBook(log, path)
    await first.start()
    await first.close()
    fresh = MemoryLog()
    fresh.append([encode_event(make.consent("u1", TRAIN, 9_000))])
    second = ConsentBook(fresh, path)
    await second.start()
    assert (second.said_by("u1"), second.said_by("u2")) == (TRAIN, NONE)
    await second.close()


async def test_a_full_disk_neither_ends_a_replica_nor_loses_a_word(
    log: MemoryLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.request.consents.RETRY_S", 0.01)
    make, people = Maker(), [f"u{n}" for n in range(2_000)]
    book = ConsentBook(log, tmp_path / "consents.db")
    await book.start()
    pages = book._written.execute("PRAGMA page_count").fetchone()[0]
    book._written.execute(f"PRAGMA max_page_count = {pages}")
    log.append([encode_event(make.consent(name, NONE)) for name in people])
    with pytest.raises(Unavailable, match="disk is full"):
        book.note([make.consent(f"v{n}", NONE) for n in range(2_000)])
    again = ConsentBook(log, tmp_path / "consents.db")
    again._written.execute(f"PRAGMA max_page_count = {pages}")
    await again.start()
    await again.close()
    assert book.alive
    book._written.execute("PRAGMA max_page_count = 1000000")
    await until(lambda: {book.said_by(name) for name in people} == {NONE})
    await book.close()


async def test_a_log_that_falls_silent_while_it_is_read_keeps_no_server_from_starting(
    log: MemoryLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.request.consents.RETRY_S", 0.01)
    log.append([encode_event(Maker().consent("ann", NONE))])
    book = ConsentBook(log, tmp_path / "consents.db", TRAIN)
    with monkeypatch.context() as patch:
        patch.setattr("server.request.consents.SILENCE_S", 0.0)
        patch.setattr(MemoryReader, "poll", lambda *_, **__: [])
        await book.start()
        assert book.said_by("ann") is TRAIN
    await until(lambda: book.said_by("ann") is NONE)
    await book.close()
