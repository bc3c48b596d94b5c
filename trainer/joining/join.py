"""Feedback joined with the answers it speaks of, after a fixed window of event time.

Pure: the same facts give the same result, whatever order they came in and whenever it is asked. The clock is the
watermark, the latest event time known. An answer is settled once the watermark is a whole window past its end; feedback
later than the window is left out, so that answers of yesterday and of last month had the same time to be judged. An
answer that nobody judged is unlabelled, never bad. What is left out has its reason beside its id. Imported votes stand
beside all that (`trainer.joining.imports`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from schemas.completion import ConsentLevel
from schemas.feedback import (
    AnswerTarget,
    CandidateRef,
    Comparison,
    ComparisonTarget,
    FeedbackReceived,
    FeedbackSource,
    Ranking,
    Rating,
    Retraction,
    Thumbs,
)
from trainer.intake.facts import Answer, CompletionFacts, ImportedFacts, Known
from trainer.joining.consent import Consents, consents_of, may_train
from trainer.joining.contradictions import Same, by_key, contradicted
from trainer.joining.eligibility import Scope, ppo_reasons
from trainer.joining.exclusions import Exclusion, Reason
from trainer.joining.imports import join_imported
from trainer.joining.raters import Believed
from trainer.joining.voices import latest_words, revocations
from trainer.joining.words import JoinedWord, aspects_said, states_preference


@dataclass(frozen=True)
class Joined:
    """The result of a join, sorted by time and id."""

    words: tuple[JoinedWord, ...]
    """What people and apps said that trains the reward model."""
    settled: tuple[Answer, ...]
    """All answers that had their window, consented, of this base: what words may speak of."""
    trainable: tuple[Answer, ...]
    """Those of them that PPO may learn from."""
    exclusions: tuple[Exclusion, ...]
    foreign_supersedes: int
    answered: int
    """Answers known, those of erased persons not counted."""
    displayed: int
    """Distinct answers that a displayed event names."""
    rated: int
    """Distinct answers that any feedback speaks of, but for a model's."""
    watermark: int
    window_ms: int
    quarantined: int = 0
    """Raters whose words are not believed."""
    imported: tuple[ImportedFacts, ...] = ()
    """Votes from before Attune that train the reward model."""
    ai: tuple[JoinedWord, ...] = ()
    """What models said in the place of people: never counted among what people said."""
    places: Mapping[str, int] = field(default_factory=dict)
    """Event id -> its place in the order in which events were read, from 1."""
    read: int = 0
    """How many events were read."""


def join(known: Known, scope: Scope, window_ms: int) -> Joined:
    """Join everything known.

    Args:
        window_ms: milliseconds of event time that each completion waits for its feedback.
    """
    completions, twins = _unique(known.completions)
    consents = consents_of(known)
    exclusions = [Exclusion("answer", answer.name, Reason.DUPLICATE) for answer in twins]
    settled: list[Answer] = []
    trainable: list[Answer] = []
    for completion in completions.values():
        for choice in completion.choices:
            answer = Answer(completion, choice)
            unusable = _unusable(answer, consents, scope)
            if completion.finished_at + window_ms > known.watermark:
                exclusions.append(Exclusion("answer", answer.name, Reason.WINDOW_OPEN))
                continue
            reasons = (*([unusable] if unusable else []), *ppo_reasons(answer, scope))
            exclusions += [Exclusion("answer", answer.name, reason) for reason in reasons]
            if unusable is None:
                settled.append(answer)
                trainable += [] if reasons else [answer]

    revoked = revocations(known.feedback)
    exclusions += revoked.exclusions
    exclusions += [Exclusion("feedback", name, Reason.ERASED) for name in known.erased_feedback]
    exclusions += [Exclusion("feedback", name, Reason.EXPIRED) for name in known.expired_feedback]
    valid: list[FeedbackReceived] = []
    targets: dict[str, tuple[Answer, ...]] = {}
    for word in known.feedback:
        if isinstance(word.signal, Retraction):
            continue
        found = _target_of(word, completions, known, window_ms)
        if isinstance(found, Reason):
            exclusions.append(Exclusion("feedback", word.id, revoked.voided.get(word.id) or found))
        else:
            valid.append(word)
            targets[word.id] = found
    last, replaced = latest_words(valid, revoked.voided)
    exclusions += replaced
    words: list[JoinedWord] = []
    believed = Believed(known.raters)
    for word in last:
        reason = _useless(word, targets[word.id], consents, scope)
        if reason is None and not believed(word.tenant, word.speaker()):
            reason = Reason.QUARANTINED
        if reason is None:
            words.append(JoinedWord(word, targets[word.id]))
        else:
            exclusions.append(Exclusion("feedback", word.id, reason))
    imported, not_imported = join_imported(known, consents, believed)
    exclusions += not_imported
    result = Joined(
        words=tuple(word for word in words if not _by_ai(word.feedback)),
        settled=tuple(sorted(settled, key=_by_time)),
        trainable=tuple(sorted(trainable, key=_by_time)),
        exclusions=tuple(sorted(exclusions)),
        foreign_supersedes=revoked.foreign_supersedes,
        answered=sum(len(completion.choices) for completion in completions.values()),
        displayed=len({(ref.completion_id, ref.choice) for shown in known.displayed for ref in shown.candidates}),
        rated=len(
            {(ref.completion_id, ref.choice) for word in known.feedback if not _by_ai(word) for ref in _refs(word)}
        ),
        watermark=known.watermark,
        window_ms=window_ms,
        quarantined=len(believed.quarantined),
        imported=imported,
        ai=tuple(word for word in words if _by_ai(word.feedback)),
        places=known.places,
        read=known.read,
    )
    return without_contradictions(result, by_key)


def _by_ai(word: FeedbackReceived) -> bool:
    return word.source is FeedbackSource.AI


def _by_time(answer: Answer) -> tuple[int, str, int]:
    return answer.completion.finished_at, *answer.key


def _unique(completions: tuple[CompletionFacts, ...]) -> tuple[dict[str, CompletionFacts], list[Answer]]:
    """Completions by id, and the answers of events that claim an id already taken by an earlier one."""
    first: dict[str, CompletionFacts] = {}
    twins: list[Answer] = []
    for completion in sorted(completions, key=lambda completion: (completion.at, completion.id)):
        if first.setdefault(completion.completion_id, completion) is not completion:
            twins += [Answer(completion, choice) for choice in completion.choices]
    return first, twins


def _unusable(answer: Answer, consents: Consents, scope: Scope) -> Reason | None:
    """Why nothing at all may be learnt from an answer."""
    completion = answer.completion
    said = completion.consent.level is ConsentLevel.TRAIN
    if not said or not may_train(completion.end_user, completion.at, consents):
        return Reason.NO_CONSENT
    if completion.base_fingerprint != scope.base_fingerprint:
        return Reason.WRONG_BASE
    return None if answer.choice.token_count else Reason.EMPTY


def _refs(word: FeedbackReceived) -> tuple[CandidateRef, ...]:
    return (word.target,) if isinstance(word.target, AnswerTarget) else word.target.candidates


def _target_of(
    word: FeedbackReceived, completions: Mapping[str, CompletionFacts], known: Known, window_ms: int
) -> tuple[Answer, ...] | Reason:
    """The answers a word speaks of, or why it cannot be counted (yet)."""
    answers: list[Answer] = []
    for ref in _refs(word):
        if ref.completion_id in known.erased_completions:
            return Reason.ERASED
        if ref.completion_id in known.expired_completions:
            return Reason.EXPIRED
        completion = completions.get(ref.completion_id)
        if completion is None:
            return Reason.NO_COMPLETION
        choice = next((choice for choice in completion.choices if choice.index == ref.choice), None)
        if choice is None:
            return Reason.UNKNOWN_CHOICE
        answers.append(Answer(completion, choice))
    closes = max(answer.completion.finished_at for answer in answers) + window_ms
    if not _fits(word):
        return Reason.MISMATCHED
    if word.at > closes:
        return Reason.LATE
    return Reason.WINDOW_OPEN if closes > known.watermark else tuple(answers)


def _fits(word: FeedbackReceived) -> bool:
    match word.signal, word.target:
        case Comparison() as signal, ComparisonTarget() as target:
            return signal.winner is None or signal.winner < len(target.candidates)
        case Ranking() as signal, ComparisonTarget() as target:
            return sum(map(len, signal.order)) == len(target.candidates)
        case (Comparison() | Ranking(), _) | (Thumbs() | Rating(), ComparisonTarget()):
            return False
        case _:
            return word.signal.kind != "correction" or isinstance(word.target, AnswerTarget)


def _useless(word: FeedbackReceived, answers: tuple[Answer, ...], consents: Consents, scope: Scope) -> Reason | None:
    """Why a word that stands trains nothing."""
    if not may_train(word.end_user, word.at, consents):
        return Reason.NO_CONSENT
    for answer in answers:
        if reason := _unusable(answer, consents, scope):
            return reason
    return None if states_preference(word) or aspects_said(word) else Reason.NOT_A_PREFERENCE


def without_contradictions(joined: Joined, same: Same) -> Joined:
    """The join without the words that contradict each other, given which answers are the same."""
    at_odds = contradicted(joined.words, same)
    exclusions = [Exclusion("feedback", name, Reason.CONTRADICTED) for name in at_odds]
    return replace(
        joined,
        words=tuple(word for word in joined.words if word.feedback.id not in at_odds),
        exclusions=tuple(sorted((*joined.exclusions, *exclusions))),
    )
