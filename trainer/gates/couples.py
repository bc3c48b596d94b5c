"""What people said, as couples of a better and a worse answer. Knows labels alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

from trainer.data import PreferencePair, ThumbedAnswer, TokenPair

_Label = TypeVar("_Label", PreferencePair, ThumbedAnswer)
Couple = tuple[TokenPair, TokenPair]
"""(better, worse)."""
_HEARD_WHOLE = 8
"""Pairs, and thumbs, of one person that always count."""


def couples(pairs: Sequence[PreferencePair], thumbs: Sequence[ThumbedAnswer]) -> list[Couple]:
    """Untied pairs, and a liked with a disliked answer of one cohort, each thumb in one couple: independent trials."""
    found = [((p.prompt_ids, p.chosen_ids), (p.prompt_ids, p.rejected_ids)) for p in pairs if not p.tie]
    for cohort in sorted({item.cohort for item in thumbs}):
        liked, disliked = (
            [(item.prompt_ids, item.answer_ids) for item in thumbs if item.cohort == cohort and item.liked is wanted]
            for wanted in (True, False)
        )
        found += list(zip(liked, disliked, strict=False))
    return found


def equal_voices(
    pairs: Sequence[PreferencePair], thumbs: Sequence[ThumbedAnswer], most: int
) -> tuple[list[PreferencePair], list[ThumbedAnswer]]:
    """The newest labels, at most `most` of each kind, without the louder part of busy people; oldest first.

    Labels of one moment are in their order, imported votes before whatever is live.

    Three of four people are heard whole, and nobody more often than the busiest of those three.
    """
    said = sorted(Counter([*(pair.group for pair in pairs), *(item.group for item in thumbs)]).values())
    each = max(_HEARD_WHOLE, said[(3 * len(said) - 1) // 4]) if said else 0
    return _newest(pairs, each, most), _newest(thumbs, each, most)


def _newest(labels: Sequence[_Label], each: int, most: int) -> list[_Label]:
    heard: Counter[str] = Counter()
    kept: list[_Label] = []
    for label in sorted(labels, key=lambda label: label.at)[::-1]:
        heard[label.group] += 1
        if heard[label.group] <= each and len(kept) < most:
            kept.append(label)
    return kept[::-1]
