"""From joined words and answers to rows that a learner can use: pairs, thumbs, corrections, answers for PPO.

Pure. Rows name answers by (completion id, choice) and hold no content. How a word becomes rows:

- comparison: the winner against each other candidate; a tie, each two tied; both bad, a thumb down on each;
- ranking of k: its C(k, 2) pairs (InstructGPT, section 3.5); candidates in one group tie;
- thumbs: liked or not; ratings: their stars, three too, and liked or not where they are not three;
- correction: the edit over the original, and a demonstration;
- aspects, in whatever word on one answer: a row for each.

The pairs of one word share a set id and weigh 1 together, so that no word outweighs another.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from schemas.completion import COLLECTED
from schemas.feedback import Comparison, Correction, FeedbackSource, Ranking, Rating, Thumbs
from trainer.intake.facts import Answer
from trainer.joining.voices import Voice, voice
from trainer.joining.words import JoinedWord, aspects_said, liked
from trainer.snapshots.selection import Selection, SnapshotSettings, heldout_by

_LARGEST_TOP_K = 2**31 - 1
"""That a row holds; no vocabulary is so large, so it is off. Clients may send any number."""


@dataclass(frozen=True)
class Label:
    """What every row out of feedback says of its word."""

    feedback_id: str
    at: int
    """Event time of the word, ms since the epoch."""
    group: str
    """Pseudonym of who spoke."""
    kind: str
    """Kind of signal."""
    source: str
    """Who speaks: user, rater, ai, implicit."""
    heldout: str
    """Why it is held out: user, time, or empty."""


@dataclass(frozen=True)
class PairRow(Label):
    """One answer preferred to another, or tied with it."""

    number: int
    """Of the pair within its word."""
    chosen_completion: str
    chosen_choice: int
    rejected_completion: str
    rejected_choice: int
    tie: bool
    weight: float


@dataclass(frozen=True)
class ThumbRow(Label):
    """One answer liked or not, or rated."""

    completion_id: str
    choice: int
    liked: bool | None
    """None: three stars."""
    weight: float
    """Inverse propensity, clipped."""
    stars: int | None = None
    """1 to 5; None: no rating."""


@dataclass(frozen=True)
class AspectRow(Label):
    """What a word says of one aspect of its answer."""

    completion_id: str
    choice: int
    aspect: str
    value: float
    """-1 to 1."""


@dataclass(frozen=True)
class CorrectionRow(Label):
    """One answer that a person wrote anew; the text is sealed in the feedback's content."""

    completion_id: str
    choice: int


@dataclass(frozen=True)
class AnswerRow:
    """One answer for PPO."""

    completion_id: str
    choice: int
    finished_at: int
    group: str
    version: int
    temperature: float
    top_p: float
    top_k: int
    logprobs: bytes
    """Little-endian float32, nats."""
    heldout: str


@dataclass(frozen=True)
class Rows:
    """A snapshot's rows, each kind in a fixed order."""

    pairs: tuple[PairRow, ...]
    thumbs: tuple[ThumbRow, ...]
    corrections: tuple[CorrectionRow, ...]
    answers: tuple[AnswerRow, ...]
    aspects: tuple[AspectRow, ...]


def rows_of(selection: Selection, settled: Sequence[Answer], settings: SnapshotSettings) -> Rows:
    """All rows of a selection.

    Args:
        settled: every answer that could have been judged, for the propensity of judging.
    """
    weights = propensity_weights(selection.words, settled, settings.propensity_clip)
    pairs: list[PairRow] = []
    thumbs: list[ThumbRow] = []
    corrections: list[CorrectionRow] = []
    aspects: dict[tuple[Voice, tuple[str, int], str], AspectRow] = {}
    for word in selection.spoken:
        ai = word.feedback.source is FeedbackSource.AI
        feedback, signal, answers = word.feedback, word.feedback.signal, word.answers
        label = (
            feedback.id,
            feedback.at,
            feedback.speaker(),
            signal.kind,
            str(feedback.source),
            "" if ai else heldout_by(feedback.speaker(), word.finished_at, selection, settings),
        )
        for number, (chosen, rejected, tie, weight) in enumerate(_pairs(word)):
            pairs.append(PairRow(*label, number, *answers[chosen].key, *answers[rejected].key, tie, weight))
        if isinstance(signal, Comparison) and signal.verdict == "both_bad":
            thumbs += [ThumbRow(*label, *answer.key, False, 1.0) for answer in answers]
        if isinstance(signal, Correction):
            corrections.append(CorrectionRow(*label, *answers[0].key))
        if isinstance(signal, Thumbs | Rating):
            stars = signal.stars if isinstance(signal, Rating) else None
            # A model has no propensity of clicking: it judges what it is asked to.
            weight = 1.0 if ai else weights[_stratum(answers[0])]
            thumbs.append(ThumbRow(*label, *answers[0].key, liked(feedback), weight, stars))
        for name, value in () if ai else sorted(aspects_said(feedback).items()):
            # Words come oldest first: of several words of one person on one answer, the latest counts.
            aspects[voice(feedback), answers[0].key, name] = AspectRow(*label, *answers[0].key, name, value)
    return Rows(
        tuple(pairs),
        tuple(thumbs),
        tuple(corrections),
        tuple(_answers(selection, settings)),
        tuple(aspects.values()),
    )


def _pairs(word: JoinedWord) -> Iterator[tuple[int, int, bool, float]]:
    """(chosen, rejected, tie, weight), as indices into the word's answers."""
    signal, count = word.feedback.signal, len(word.answers)
    every = count * (count - 1) // 2
    if isinstance(signal, Comparison) and signal.winner is not None:
        for other in range(count):
            if other != signal.winner:
                yield signal.winner, other, False, 1 / (count - 1)
    elif isinstance(signal, Comparison) and signal.verdict == "tie":
        for first, second in itertools.combinations(range(count), 2):
            yield first, second, True, 1 / every
    elif isinstance(signal, Ranking):
        place = {index: number for number, group in enumerate(signal.order) for index in group}
        for first, second in itertools.combinations([index for group in signal.order for index in group], 2):
            yield first, second, place[first] == place[second], 1 / every


def propensity_weights(
    words: Sequence[JoinedWord], settled: Sequence[Answer], clip: float
) -> Mapping[tuple[str | None, str | None], float]:
    """Weight of a thumb or rating by (language, domain) of its answer: the overall propensity of judging an answer over
    that of the stratum, so that topics on which people rarely click count as much as those on which they often do.

    Propensity = (judged + 1) / (answers + 2), Laplace's estimate; weights are at most `clip` and mostly near 1. Answers
    that were only collected count where they were judged, not where they were not: nobody had the choice.
    """
    judged_keys = {word.answers[0].key for word in words if isinstance(word.feedback.signal, Thumbs | Rating)}
    shown = [answer for answer in settled if answer.completion.domain != COLLECTED or answer.key in judged_keys]
    seen = Counter(_stratum(answer) for answer in shown)
    judged = Counter(_stratum(answer) for answer in settled if answer.key in judged_keys)
    overall = (judged.total() + 1) / (seen.total() + 2)
    return {stratum: min(clip, overall * (seen[stratum] + 2) / (judged[stratum] + 1)) for stratum in seen}


def _stratum(answer: Answer) -> tuple[str | None, str | None]:
    return answer.completion.language, answer.completion.domain


def _answers(selection: Selection, settings: SnapshotSettings) -> Iterator[AnswerRow]:
    for answer in selection.answers:
        completion, sampling = answer.completion, answer.completion.sampling
        yield AnswerRow(
            *answer.key,
            finished_at=completion.finished_at,
            group=completion.subject(),
            version=completion.version,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=min(sampling.top_k, _LARGEST_TOP_K),
            logprobs=answer.choice.logprob_bytes(),
            heldout=heldout_by(completion.subject(), None, selection, settings),
        )
