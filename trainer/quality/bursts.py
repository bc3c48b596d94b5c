"""Bursts: many who come at once, say a little and are gone. Each says too little to be tested; together they do not.

That many come at once is no fault (a newsletter went out): what they said is tested as if one person had said it
(`trainer.quality.review`). Pure.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from trainer.algorithms.outliers import at_least
from trainer.quality.votes import Vote

WINDOW_MS = 10 * 60_000
_FEWEST = 5
_CHANCE = 1e-4


def bursts_of(votes: Sequence[Vote]) -> list[frozenset[str]]:
    """Who came together: of each ten minutes in which improbably many came, those who were gone again within as long.

    Improbable is what has a chance of less than 1 in 10,000 at the median of all such ten minutes in which anybody came
    and went, by Poisson.
    """
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for vote in votes:
        first[vote.rater] = min(vote.at, first.get(vote.rater, vote.at))
        last[vote.rater] = max(vote.at, last.get(vote.rater, vote.at))
    came: dict[int, set[str]] = {}
    for rater, at in first.items():
        if last[rater] - at < WINDOW_MS:
            came.setdefault(at // WINDOW_MS, set()).add(rater)
    if not came:
        return []
    usual = statistics.median(len(who) for who in came.values())
    return [
        frozenset(who) for _, who in sorted(came.items()) if len(who) >= _FEWEST and at_least(len(who), usual) < _CHANCE
    ]
