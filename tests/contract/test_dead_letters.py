"""Dead letters on every log: what a reader buried is found with place and reason, and put back once."""

from __future__ import annotations

from pathlib import Path

import pytest

from exchange.log.port import EventLog, Position, StoredRecord, TopicPartition
from exchange.reading.letters import Letter, letter, letters, replay, replayed, why_not
from schemas.base import new_id
from schemas.errors import InvalidInput, NotFound
from schemas.events import EVENTS
from schemas.feedback import FeedbackReceived
from schemas.topics import DEAD_LETTER, FEEDBACK
from schemas.wire import LogRecord, encode_event
from tests.golden.samples import SAMPLES
from trainer.intake.ingest import Ingest
from trainer.intake.ledger import Ledger

LETTERS = TopicPartition(DEAD_LETTER.name, 0)


def pump(log: EventLog, ledger: Ledger) -> None:
    """Read the log to its end."""
    ingest = Ingest(log, ledger, "dead-letters")
    try:
        while ingest.lag():
            ingest.pump(timeout_s=5.0)
    finally:
        ingest.close()


def test_what_could_not_be_read_is_put_back_once(
    log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = SAMPLES["feedback_thumbs"]
    assert isinstance(sample, FeedbackReceived)
    # A policy of its own: what other tests left on the log is foreign to its reader.
    thumb = sample.model_copy(update={"policy": "dead-letters", "id": new_id("fb")})
    record = encode_event(thumb)
    start = log.end_offset(LETTERS)
    unreadable = LogRecord(record.topic, record.key, b"\xff\x00", record.headers)
    ours, theirs = log.append([record, unreadable])
    with Ledger(tmp_path / "ledger.db", thumb.policy) as ledger, monkeypatch.context() as older:
        # An older version, to which the event's type is unknown.
        older.delitem(EVENTS, thumb.wire_type())
        pump(log, ledger)
    buried = {one.origin: one for one in letters(log) if one.number >= start}
    readable = buried[f"{ours.topic}/{ours.partition}@{ours.offset}"]
    broken = buried[f"{theirs.topic}/{theirs.partition}@{theirs.offset}"]
    assert (readable.record.value, readable.headers, readable.topic) == (record.value, record.headers, FEEDBACK.name)
    assert "not known here" in readable.reason
    assert letter(log, broken.number) == broken
    assert "no valid" in (why_not(broken) or "")
    with pytest.raises(InvalidInput, match="cannot be replayed"):
        replay(log, broken)

    assert why_not(readable) is None
    assert replayed(log, [readable, broken]) == set()
    place = replay(log, readable)
    assert place.topic == FEEDBACK.name
    assert replayed(log, [readable, broken]) == {readable.identity}
    with Ledger(tmp_path / "ledger.db", thumb.policy) as ledger:
        assert ledger.known().feedback == ()
        pump(log, ledger)
        assert [word.id for word in ledger.known().feedback] == [thumb.id]
    with pytest.raises(NotFound):
        letter(log, log.end_offset(LETTERS))


@pytest.mark.parametrize(
    ("origin", "why"),
    [
        ("attune.policy/0@4", "is not replayed"),
        ("nowhere/0@4", "names no topic"),
        ("attune.completions/0@4", "does not belong in attune.completions"),
        ("attune.feedback by way of the spool", None),
        ("attune.feedback/2@7", None),
    ],
)
def test_what_may_be_replayed_depends_on_where_it_came_from(origin: str, why: str | None) -> None:
    one = made(origin)
    found = why_not(one)
    assert (found is None) if why is None else (why in (found or ""))
    assert one.identity == (origin if "@" in origin else "attune.dead-letter/0@3")


def made(origin: str) -> Letter:

    record = encode_event(SAMPLES["feedback_thumbs"])
    stored = StoredRecord(Position(DEAD_LETTER.name, 0, 3), 0, record.key, record.value, record.headers)
    return Letter(3, stored, origin, "because")
