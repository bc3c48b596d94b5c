"""Finding a word on the log by its id: among the newest from memory, older ones by a bounded search."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from exchange.log.memory import MemoryLog
from exchange.log.port import EventLog
from exchange.log.sqlite import SqliteLog
from exchange.reading.accepted import AcceptedWords
from schemas.errors import NotFound, Unavailable
from schemas.wire import LogRecord, encode_event
from tests.factories import Maker


@pytest.fixture(params=["memory", "sqlite"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> EventLog:
    return MemoryLog() if request.param == "memory" else SqliteLog(tmp_path / "log.db")


def talk(log: EventLog, count: int, prefix: str = "w", conversation: str | None = None) -> list[str]:
    """Thumbs on the log, each with a record of another kind beside it."""
    make, names = Maker(), []
    for number in range(count):
        answer = make.completion(number, id=f"cmpl-{prefix}{number}", conversation=conversation)
        word = make.thumb(answer, id=f"fb-{prefix}{number}")
        log.append([encode_event(make.displayed([answer])), encode_event(word)])
        names.append(word.id)
    return names


def test_a_word_is_found_with_its_place_and_time(log: EventLog) -> None:
    words = AcceptedWords(log)
    names = talk(log, 20)
    for name in names:
        found = words.find(name, search=False)
        assert found.event.id == name
        assert found.event.content is None
        assert found.position.topic == "attune.feedback"
        assert found.stored_at > 0
    (late,) = talk(log, 1, "late")
    assert words.find(late, search=False).event.id == late, "what came since is read at the next call"
    with pytest.raises(NotFound):
        words.find("fb-none", search=True)
    words.close()


def test_older_words_take_a_search(log: EventLog) -> None:
    old = talk(log, 30, "old", conversation="one")
    words = AcceptedWords(log, limit=12)
    with pytest.raises(NotFound):
        words.find(old[0], search=False)
    assert words.find(old[0], search=True).event.id == old[0]
    assert words.find(old[-1], search=False).event.id == old[-1]
    assert len(words._known) <= 12
    talk(log, 40, "new", conversation="one")
    newest = talk(log, 1, "newest", conversation="one")[0]
    assert words.find(newest, search=False).event.id == newest, "a gap larger than the bound is skipped"
    assert len(words._known) <= 12
    words.close()


def test_a_word_that_came_twice_counts_where_it_came_first(log: EventLog) -> None:
    make = Maker()
    word = make.thumb(make.completion(), id="fb-twice")
    first, _ = log.append([encode_event(word), encode_event(word)])
    assert AcceptedWords(log).find("fb-twice", search=False).position == first


def test_what_is_no_word_or_cannot_be_read_is_not_found() -> None:
    log, make = MemoryLog(), Maker()
    shown = make.displayed([make.completion()])
    good = encode_event(make.thumb(make.completion(), id="fb-broken"))
    log.append([encode_event(shown), LogRecord(good.topic, good.key, b"{", good.headers)])
    words = AcceptedWords(log)
    for name in (shown.id, "fb-broken"):
        with pytest.raises(NotFound):
            words.find(name, search=True)


def test_reading_ends_at_its_deadline_and_goes_on_from_there() -> None:
    log = MemoryLog()
    names = talk(log, 2500)
    words = AcceptedWords(log, timeout_s=0.0)
    with pytest.raises(Unavailable, match="could not be read"):
        words.find(names[0], search=False)
    for _ in range(10):  # batch after batch
        try:
            assert words.find(names[0], search=False).event.id == names[0]
            return
        except Unavailable:
            continue
    pytest.fail("it never got through")


def test_one_search_at_a_time() -> None:
    entered, leave = threading.Event(), threading.Event()

    class Slow(MemoryLog):
        slow = False

        def reader(self, offsets):  # type: ignore[no-untyped-def]
            if self.slow:
                entered.set()
                assert leave.wait(10)
            return super().reader(offsets)

    log = Slow()
    talk(log, 3)
    words = AcceptedWords(log)
    words.find("fb-w0", search=False)
    log.slow = True
    done: list[str] = []

    def search() -> None:
        try:
            words.find("fb-none", search=True)
        except NotFound:
            done.append("not found")

    thread = threading.Thread(target=search)
    thread.start()
    assert entered.wait(10)
    with pytest.raises(Unavailable, match="another word"):
        words.find("fb-other", search=True)
    leave.set()
    thread.join(10)
    assert done == ["not found"]


def test_where_retention_went_past_the_reader_the_next_call_begins_anew(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    words = AcceptedWords(log)
    (first, *_) = talk(log, 3, conversation="one")
    assert words.find(first, search=False).event.id == first
    talk(log, 3, "unread", conversation="one")
    for kind in ("attune.feedback.received.v1", "attune.answer.displayed.v1"):
        assert log.drop("attune.feedback", 2**62, "ce_type", kind) > 0
    (late,) = talk(log, 1, "late", conversation="one")
    with pytest.raises(Unavailable, match="deleted"):
        words.find(late, search=False)
    assert words.find(late, search=False).event.id == late
    words.close()
