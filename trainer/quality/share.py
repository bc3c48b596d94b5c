"""The influence cap: no person has more than a share of the words that are learnt from. Pure.

Words beyond it are left out rather than weighed down: each that is left out has its reason where its fate is asked, and
those kept, the newest, speak of versions that still matter. Where few people speak a share cannot be held (the only
one has all of it), so nobody needs to stay below twice an equal part.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Literal

Taken = Literal["taken", "over_share", "over_cap"]
_FAIR = 2.0


def within_share(speakers: Sequence[Hashable], share: float, room: int) -> list[Taken]:
    """Which of the words to take, of `room` at most; one answer for each.

    With n(i) words of person i, everybody has min(n(i), c) of theirs taken for the largest whole c that is at most
    max(share, 2 / people) of all that are taken, and at least 1.

    Args:
        speakers: who said each word, newest first.
        share: of the words taken, in (0, 1].
    """
    limit = _limit(Counter(speakers), share, room)
    taken: Counter[Hashable] = Counter()
    answers: list[Taken] = []
    for speaker in speakers:
        if taken[speaker] >= limit:
            answers.append("over_share")
        elif room <= 0:
            answers.append("over_cap")
        else:
            taken[speaker] += 1
            room -= 1
            answers.append("taken")
    return answers


def _limit(counts: Counter[Hashable], share: float, room: int) -> int:
    """c, found from above: what is taken shrinks with it, so the first that fits is the largest."""
    if not counts:
        return 1
    share = max(share, _FAIR / len(counts))
    limit = max(counts.values())
    while True:
        total = min(room, sum(min(count, limit) for count in counts.values()))
        fits = max(1, math.floor(share * total + 1e-9))
        if limit <= fits:
            return limit
        limit = fits
