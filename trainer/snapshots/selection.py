"""Which of the joined words and answers a snapshot takes, and which of them are held out.

Pure. Preferences: all so far, newest first up to a cap and to a share for each person, and in what room that leaves the
imported votes, among which a person has no more than that share either. Answers for PPO: those settled since the last
snapshot, unless there are none. Held out: some persons, by a hash of their pseudonym, and the newest of the new labels,
so that the reward model is judged on people and on a time that it has not seen. Imported votes train and never judge:
they speak of other systems' answers, and may outnumber the live ones. What models said takes the room that people
leave, and never judges either.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from trainer.intake.facts import Answer, ImportedFacts
from trainer.joining.exclusions import Exclusion, Reason
from trainer.joining.join import Joined
from trainer.joining.voices import voice
from trainer.joining.words import JoinedWord
from trainer.quality.share import within_share


class SnapshotSettings(BaseModel):
    """What goes into a snapshot."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    feedback_window_ms: int = Field(
        60_000, ge=0, description="event time that every completion waits for its feedback, ms (ours)"
    )
    max_labels: int = Field(50_000, ge=1, description="words of feedback at most, the newest (ours)")
    max_person_share: float = Field(
        0.05,
        gt=0,
        le=1,
        description="of the words of a snapshot, one person's at most (their newest); with few people at most twice an "
        "equal part (ours)",
    )
    max_answers: int = Field(20_000, ge=1, description="answers for PPO at most, the newest (ours)")
    heldout_users: float = Field(0.1, ge=0, lt=1, description="share of persons whose labels are held out (ours)")
    heldout_time: float = Field(
        0.1, ge=0, lt=1, description="share of the labels new since the last snapshot, its newest, held out (ours)"
    )
    propensity_clip: float = Field(5.0, ge=1, description="largest weight of a thumb by inverse propensity (ours)")


@dataclass(frozen=True)
class Selection:
    """What a snapshot takes, sorted by time and id."""

    words: tuple[JoinedWord, ...]
    answers: tuple[Answer, ...]
    exclusions: tuple[Exclusion, ...]
    """What was fit but not taken."""
    time_cut: int | None
    """Labels on answers finished at or after this moment are held out; None: none for their time."""
    imported: tuple[ImportedFacts, ...] = ()
    ai: tuple[JoinedWord, ...] = ()
    """What models said; all of it trains."""

    @property
    def spoken(self) -> tuple[JoinedWord, ...]:
        """All words taken, people's first."""
        return (*self.words, *self.ai)


def select(joined: Joined, settings: SnapshotSettings, since: int | None) -> Selection:
    """Choose from a join.

    Args:
        since: watermark of the last snapshot that was learnt from, ms since the epoch; None where there is none.
    """
    newest_first = sorted(joined.words, key=lambda word: (word.feedback.at, word.feedback.id), reverse=True)
    fates = within_share(
        [voice(word.feedback) for word in newest_first], settings.max_person_share, settings.max_labels
    )
    words = tuple(word for word, fate in zip(reversed(newest_first), reversed(fates), strict=True) if fate == "taken")
    fresh = [answer for answer in joined.trainable if _is_new(answer.completion.finished_at, joined, since)]
    pool = fresh or joined.trainable
    answers = tuple(pool[max(0, len(pool) - settings.max_answers) :])
    exclusions = [
        Exclusion("feedback", word.feedback.id, Reason(fate))
        for word, fate in zip(newest_first, fates, strict=True)
        if fate != "taken"
    ]
    old = {answer.key for answer in joined.trainable} - {answer.key for answer in pool}
    for answer in joined.trainable[: len(joined.trainable) - len(answers)]:
        reason = Reason.SEEN_BEFORE if answer.key in old else Reason.OVER_CAP
        exclusions.append(Exclusion("answer", answer.name, reason))
    new = [word for word in words if _is_new(word.finished_at, joined, since)]
    imported, not_taken = _select_imported(joined, settings.max_labels - len(words), settings)
    exclusions += not_taken
    ai_cut = max(0, len(joined.ai) - (settings.max_labels - len(words) - len(imported)))
    exclusions += [Exclusion("feedback", word.feedback.id, Reason.OVER_CAP) for word in joined.ai[:ai_cut]]
    time_cut = _time_cut(new or words, settings.heldout_time)
    return Selection(words, answers, tuple(sorted(exclusions)), time_cut, imported, joined.ai[ai_cut:])


def _select_imported(
    joined: Joined, room: int, settings: SnapshotSettings
) -> tuple[tuple[ImportedFacts, ...], list[Exclusion]]:
    """The newest `room` imported votes of persons who are not held out; oldest first."""
    theirs = [vote for vote in joined.imported if not is_heldout_person(vote.speaker(), settings)]
    fates = within_share(
        [(vote.tenant, vote.speaker()) for vote in reversed(theirs)], settings.max_person_share, max(0, room)
    )
    told = list(zip(theirs, reversed(fates), strict=True))
    held_out = [vote for vote in joined.imported if is_heldout_person(vote.speaker(), settings)]
    exclusions = [Exclusion("feedback", vote.id, Reason.HELD_OUT) for vote in held_out]
    exclusions += [Exclusion("feedback", vote.id, Reason(fate)) for vote, fate in told if fate != "taken"]
    return tuple(vote for vote, fate in told if fate == "taken"), exclusions


def heldout_by(group: str, finished_at: int | None, selection: Selection, settings: SnapshotSettings) -> str:
    """Why a row is held out: `user`, `time`, or empty where it trains. No `finished_at`: time is no cause."""
    if is_heldout_person(group, settings):
        return "user"
    late = selection.time_cut is not None and finished_at is not None and finished_at >= selection.time_cut
    return "time" if late else ""


def is_heldout_person(group: str, settings: SnapshotSettings) -> bool:
    """Whether all labels of this person are held out."""
    return _fraction(group) < settings.heldout_users


def _is_new(finished_at: int, joined: Joined, since: int | None) -> bool:
    return since is None or finished_at + joined.window_ms > since


def _time_cut(words: Sequence[JoinedWord], share: float) -> int | None:
    """The time from which on the newest `share` of the words lie; never all of them."""
    times = sorted(word.finished_at for word in words)
    count = math.floor(share * len(times))
    if count == 0 or times[-count] == times[0]:
        return None
    return times[-count]


def _fraction(group: str) -> float:
    """A number in [0, 1) that is a person's for ever."""
    return int.from_bytes(hashlib.sha256(f"held out {group}".encode()).digest()[:8], "big") / 2**64
