"""Blinded votes between a canary and the stable version, out of the feedback that is known.

Votes do not wait for the feedback window and need no consent to training: they are counted, not learnt from. One voice
per person and comparison; what was taken back, what comes from models or apps, and what the quarantined say does not
count. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from schemas.feedback import Comparison, ComparisonTarget, FeedbackReceived, FeedbackSource
from trainer.joining.raters import EVERYBODY, Believed
from trainer.joining.voices import latest_words, revocations, voice
from trainer.release.promotion import CanaryVote


def canary_votes(
    feedback: Iterable[FeedbackReceived], *, canary: int, stable: int, since_ms: int, believed: Believed = EVERYBODY
) -> tuple[CanaryVote, ...]:
    """The votes of `believed` people, cast at or after `since_ms` on comparisons of both versions and no other."""
    words = [word for word in feedback if believed(word.tenant, word.speaker())]
    between = [word for word in words if _is_between(word, {canary, stable}) and word.at >= since_ms]
    counted, _ = latest_words(between, revocations(words).voided)
    return tuple(
        CanaryVote(
            speaker="/".join(voice(word)),
            comparison_id=word.target.comparison_id,
            at=word.at,
            verdict=_verdict(word.signal, word.target, canary),
        )
        for word in counted
        if isinstance(word.target, ComparisonTarget) and isinstance(word.signal, Comparison)
    )


def _is_between(word: FeedbackReceived, versions: set[int]) -> bool:
    signal, target = word.signal, word.target
    if not isinstance(signal, Comparison) or not isinstance(target, ComparisonTarget):
        return False
    if word.source not in (FeedbackSource.USER, FeedbackSource.RATER):
        return False
    fits = signal.winner is None or signal.winner < len(target.candidates)
    return fits and {candidate.version for candidate in target.candidates} == versions


def _verdict(signal: Comparison, target: ComparisonTarget, canary: int) -> Literal["win", "loss", "tie"]:
    if signal.winner is None:
        return "tie"
    return "win" if target.candidates[signal.winner].version == canary else "loss"
