"""What people said, as couples of a better and a worse answer. Knows labels alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from trainer.data import PreferencePair, ThumbedAnswer, TokenPair

_Label = TypeVar("_Label", PreferencePair, ThumbedAnswer)
_HEARD_WHOLE = 8
"""Pairs, and thumbs, of one person that always count."""


class Couple(NamedTuple):
    """One preference."""

    better: TokenPair
    worse: TokenPair
    person: str
    """Pseudonym of who said it; of a liked and a disliked answer, the one of the two people who said more."""


def couples(pairs: Sequence[PreferencePair], thumbs: Sequence[ThumbedAnswer]) -> list[Couple]:
    """The best over the worst answer of each word that knows one, and a liked with a disliked answer of one cohort.

    A comparison or ranking makes one couple, since the 28 pairs of a ranking of eight are not 28 trials. What one
    person says again and again makes as many couples: whoever counts them has to know people (`trainer.gates.agreed`).
    """
    words: dict[str, list[PreferencePair]] = {}
    for pair in pairs:
        if not pair.tie:
            words.setdefault(pair.set_id, []).append(pair)
    furthest = [_furthest(word) for word in words.values()]
    found = [Couple((p.prompt_ids, p.chosen_ids), (p.prompt_ids, p.rejected_ids), p.group) for p in furthest]
    said = Counter([*(pair.group for pair in furthest), *(item.group for item in thumbs)])
    for cohort in sorted({item.cohort for item in thumbs}):
        liked, disliked = (
            [item for item in thumbs if item.cohort == cohort and item.liked is wanted] for wanted in (True, False)
        )
        for up, down in zip(liked, disliked, strict=False):
            louder = max(up.group, down.group, key=lambda person: (said[person], person))
            found.append(Couple((up.prompt_ids, up.answer_ids), (down.prompt_ids, down.answer_ids), louder))
    return found


def _furthest(word: Sequence[PreferencePair]) -> PreferencePair:
    """Of the untied pairs of one word, the one whose answers stand furthest apart, by how often each was preferred."""
    standing = Counter(pair.chosen_ids for pair in word)
    standing.subtract(pair.rejected_ids for pair in word)
    return max(word, key=lambda pair: standing[pair.chosen_ids] - standing[pair.rejected_ids])


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
