"""One voice per person and target: the latest valid word counts, once.

Pure functions over feedback; the order it comes in makes no difference. Thumbs and stars are one kind of word (a
verdict on an answer), comparisons and rankings another (an order of candidates); corrections, comments and each named
outcome stand beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from schemas.feedback import AnswerTarget, FeedbackReceived, Outcome, Retraction
from trainer.joining.exclusions import Exclusion, Reason

Voice = tuple[str, str, str]


def voice(word: FeedbackReceived) -> Voice:
    """Whose word this is: tenant, and the person or else the conversation that stands for them."""
    return (word.tenant, "user", word.end_user) if word.end_user else (word.tenant, "conversation", word.conversation)


@dataclass(frozen=True)
class Revocations:
    """What persons took back or replaced by name."""

    voided: Mapping[str, Reason]
    """Feedback id -> RETRACTED or SUPERSEDED."""
    exclusions: tuple[Exclusion, ...]
    """Retractions that take nothing back."""
    foreign_supersedes: int
    """Words that name another person's word as replaced: they count, the other word stands."""


def revocations(feedback: Iterable[FeedbackReceived]) -> Revocations:
    """Resolve `supersedes`, honoured only between words of one voice, and at any time: a person who takes a word back
    late must not be learnt from, though a new word that late would not count.
    """
    by_id = {word.id: word for word in feedback}
    voided: dict[str, Reason] = {}
    exclusions: list[Exclusion] = []
    foreign = 0
    for word in by_id.values():
        retracts = isinstance(word.signal, Retraction)
        named = by_id.get(word.supersedes or "")
        if named is None or named.id == word.id:
            if retracts:
                exclusions.append(Exclusion("feedback", word.id, Reason.UNKNOWN_FEEDBACK))
        elif voice(named) != voice(word):
            foreign += 1
            if retracts:
                exclusions.append(Exclusion("feedback", word.id, Reason.FOREIGN_RETRACTION))
        elif retracts or voided.get(named.id) is not Reason.RETRACTED:
            voided[named.id] = Reason.RETRACTED if retracts else Reason.SUPERSEDED
    return Revocations(voided, tuple(exclusions), foreign)


def latest_words(
    words: Iterable[FeedbackReceived], voided: Mapping[str, Reason]
) -> tuple[list[FeedbackReceived], list[Exclusion]]:
    """The one word of each voice, target and kind that counts, by (event time, id), and why the others do not.

    A word taken back leaves its place empty: the ones before it were replaced by it and do not come back.
    """
    slots: dict[tuple[Voice, str, str], list[FeedbackReceived]] = {}
    for word in words:
        slots.setdefault((voice(word), _target(word), _family(word)), []).append(word)
    kept: list[FeedbackReceived] = []
    exclusions: list[Exclusion] = []
    for slot in slots.values():
        *earlier, last = sorted(slot, key=lambda word: (word.at, word.id))
        if last.id in voided:
            exclusions.append(Exclusion("feedback", last.id, voided[last.id]))
        else:
            kept.append(last)
        exclusions += [Exclusion("feedback", word.id, voided.get(word.id) or _replaced(word, last)) for word in earlier]
    return sorted(kept, key=lambda word: (word.at, word.id)), exclusions


def _replaced(word: FeedbackReceived, last: FeedbackReceived) -> Reason:
    # A correction says everything in its sealed text, so two of them cannot be told to be the same.
    same = (word.signal, word.target) == (last.signal, last.target)
    return Reason.DUPLICATE if same and word.signal.kind != "correction" else Reason.SUPERSEDED


def _target(word: FeedbackReceived) -> str:
    if isinstance(word.target, AnswerTarget):
        return f"answer {word.target.completion_id}/{word.target.choice}"
    return f"comparison {word.target.comparison_id}"


def _family(word: FeedbackReceived) -> str:
    kind = word.signal.kind
    if isinstance(word.signal, Outcome):
        return f"outcome {word.signal.name}"
    return {"thumbs": "verdict", "rating": "verdict", "comparison": "order", "ranking": "order"}.get(kind, kind)
