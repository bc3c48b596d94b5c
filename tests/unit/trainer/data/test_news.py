"""Which labels are new since a turn began: told one by one, whatever was taken back, erased or expired since."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from exchange.log.memory import MemoryLog
from schemas.event import Event
from schemas.wire import encode_event
from tests.factories import START, Maker
from tests.unit.trainer.data.support import SCOPE, pump_all
from tests.unit.trainer.data.test_imported import imported
from trainer.intake.ingest import Ingest
from trainer.intake.ledger import Ledger
from trainer.joining.join import Joined, join
from trainer.settings import FeedbackSection
from trainer.snapshots.news import mark_of, new_labels

WINDOW = 10_000
SETTINGS = FeedbackSection(feedback_window_ms=WINDOW, heldout_users=0.0, min_answers=5)


class Reading:
    """A log and the ledger that reads it bit by bit."""

    def __init__(self, folder: Path) -> None:
        self.make, self.log = Maker(), MemoryLog()
        self.ledger = Ledger(folder / "ledger.db", "support")
        self._ingest = Ingest(self.log, self.ledger, "support")

    def close(self) -> None:
        self._ingest.close()
        self.ledger.close()

    def after(self, events: Sequence[Event]) -> Joined:
        """What is joined once these have been read too."""
        self.log.append([encode_event(event) for event in events])
        pump_all(self._ingest)
        return join(self.ledger.known(), SCOPE, WINDOW)

    def talk(self, start: int, count: int, users: int = 5) -> list[Event]:
        """Answers with a thumb each; a last answer closes the others' windows and has its own still open."""
        events: list[Event] = []
        for number in range(count):
            answer = self.make.completion(start + number, user=f"u{number % users}")
            events += [answer, self.make.thumb(answer, at=start + number + 1, user=f"u{number % users}")]
        return [*events, self.make.completion(start + count + WINDOW, user="clock")]


@pytest.fixture
def reading(tmp_path: Path) -> Iterator[Reading]:
    reading = Reading(tmp_path)
    yield reading
    reading.close()


def test_words_that_go_hide_none_that_come(reading: Reading) -> None:
    """Four of five people are erased, another takes a word back: the total falls by more than comes."""
    story = reading.talk(0, 20)
    before = reading.after(story)
    mark = mark_of(before, SETTINGS, 5)
    assert new_labels(before, SETTINGS, 5, None) == 20
    assert new_labels(before, SETTINGS, 5, mark) == 0
    gone = [reading.make.erasure(f"u{number}", at=50_000) for number in range(4)]
    kept = next(event for event in story if event.id == "fb_0005")
    now = reading.after([*gone, reading.make.retraction(kept), *reading.talk(60_000, 7)])  # type: ignore[arg-type]
    assert len(now.words) == 3 + 7
    assert new_labels(now, SETTINGS, 5, mark) == 7


def test_what_expires_hides_none_that_come(reading: Reading) -> None:
    mark = mark_of(reading.after(reading.talk(0, 20)), SETTINGS, 5)
    reading.after(reading.talk(60_000, 7))
    reading.ledger.expire({"standard": START + 50_000})
    now = join(reading.ledger.known(), SCOPE, WINDOW)
    assert len(now.words) == 7
    assert new_labels(now, SETTINGS, 5, mark) == 7


def test_a_word_whose_window_was_open_is_new_once_it_has_closed(reading: Reading) -> None:
    late = reading.make.completion(15_000, user="u1")
    mark = mark_of(reading.after([*reading.talk(0, 6), late, reading.make.thumb(late, at=15_001)]), SETTINGS, 5)
    now = reading.after([reading.make.completion(40_000, user="clock")])
    assert len(now.words) == 7
    assert new_labels(now, SETTINGS, 5, mark) == 1


def test_what_a_spool_brings_late_is_new_though_its_time_is_old(reading: Reading) -> None:
    answer, other = reading.make.completion(1_000, id="spooled"), reading.make.completion(1_000, id="there")
    mark = mark_of(reading.after([*reading.talk(5_000, 6), other]), SETTINGS, 5)
    now = reading.after([answer, reading.make.thumb(answer, at=1_500), reading.make.thumb(other, at=1_500)])
    assert new_labels(now, SETTINGS, 5, mark) == 2


def test_imported_votes_are_new_when_they_are_read_and_when_they_begin_to_count(reading: Reading) -> None:
    votes = [imported(reading.make, "a", liked=True, target=f"vote_{number}") for number in range(4)]
    few = reading.after([*votes, *reading.talk(60_000, 3)])
    early = mark_of(few, SETTINGS, 5)
    assert new_labels(few, SETTINGS, 5, None) == 3, "no answers to use them on"
    enough = reading.after(reading.talk(90_000, 3))
    assert new_labels(enough, SETTINGS, 5, early) == 3 + 4
    mark = mark_of(enough, SETTINGS, 5)
    assert new_labels(enough, SETTINGS, 5, mark) == 0
    more = reading.after([imported(reading.make, "b", liked=True, target="vote_9", at=1)])
    assert new_labels(more, SETTINGS, 5, mark) == 1


def test_a_comment_that_values_an_aspect_begins_no_turn(reading: Reading) -> None:
    answer = reading.make.completion(0)
    now = reading.after([answer, reading.make.comment(answer, aspects={"tone": 1.0}), *reading.talk(1_000, 3)])
    assert len(now.words) == 4
    assert new_labels(now, SETTINGS, 5, None) == 3
