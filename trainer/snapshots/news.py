"""Which labels are new since a turn began: what its snapshot could not hold.

Counted one by one and never as a difference of totals: words are taken back, erased and expire, and a total that falls
would hide what has come. A word is new where its window closed after the snapshot was cut, or where it or its answer
was read later than that: a spool may bring what is old by the clock. Pure; knows a join and a moment of the ledger.
"""

from __future__ import annotations

from pydantic import Field

from schemas.base import Millis, Record
from trainer.joining.join import Joined
from trainer.joining.words import JoinedWord, states_preference
from trainer.snapshots.selection import SnapshotSettings, is_heldout_person


class Mark(Record):
    """A moment of the ledger, up to which labels have counted."""

    watermark: Millis = Field(description="latest event time known then")
    read: int = Field(ge=0, description="events that had been read")
    imported: int = Field(ge=0, description="the same for imported votes: 0 while none of them counts")


def mark_of(joined: Joined, settings: SnapshotSettings, min_answers: int) -> Mark:
    """The moment of a join."""
    imported = joined.read if imports_count(joined, settings, min_answers) else 0
    return Mark(watermark=joined.watermark, read=joined.read, imported=imported)


def new_labels(joined: Joined, settings: SnapshotSettings, min_answers: int, since: Mark | None) -> int:
    """Words that say which answers are good, and imported votes where those count.

    Args:
        since: the moment of the last turn's snapshot; None before the first: all are new.
    """
    words = sum(
        states_preference(word.feedback) and (since is None or _is_new(word, joined, since)) for word in joined.words
    )
    if not imports_count(joined, settings, min_answers):
        return words
    known = 0 if since is None else since.imported
    return words + sum(joined.places.get(vote.id, 1) > known for vote in joined.imported)


def imports_count(joined: Joined, settings: SnapshotSettings, min_answers: int) -> bool:
    """Whether imported votes count towards a turn: once there are answers that PPO could learn from with what they
    teach. Until then they would only begin turns that come to nothing.
    """
    people = (answer.completion.subject() for answer in joined.trainable)
    return sum(not is_heldout_person(person, settings) for person in people) >= min_answers


def _is_new(word: JoinedWord, joined: Joined, since: Mark) -> bool:
    if word.finished_at + joined.window_ms > since.watermark:
        return True
    events = (word.feedback.id, *(answer.completion.id for answer in word.answers))
    return max(joined.places.get(name, 0) for name in events) > since.read
