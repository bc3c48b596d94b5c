"""The few statistics that gates and promotion stand on, as pure functions. Knows numbers, nothing of what they mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from schemas.errors import InvalidInput


def wilson_interval(successes: float, trials: float, confidence: float = 0.95) -> tuple[float, float]:
    """The two-sided Wilson score interval of a proportion (Wilson 1927, eq. 4 of Brown, Cai & DasGupta 2001).

    Args:
        successes: 0 to `trials`; halves are allowed (a tie counts half).
        trials: at least 1; parts are allowed, as of words that weigh less.
        confidence: two-sided, in (0, 1).

    Raises:
        InvalidInput: no trials, or more successes than trials.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise InvalidInput(f"{successes} successes of {trials} trials are no proportion")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / trials
    spread = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / spread
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)) / spread
    return max(0.0, centre - half), min(1.0, centre + half)


def sign_test(wins: int, losses: int) -> float:
    """One-sided p-value of at least `wins` wins of `wins + losses` fair coin tosses; 1 where there were none."""
    tosses = wins + losses
    if tosses == 0:
        return 1.0
    ways = sum(math.comb(tosses, count) for count in range(wins, tosses + 1))
    return ways / (1 << tosses)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for having looked at all of them (Holm 1979): one below a level is a finding at that level.

    The chance of a single false finding among all stays below the level, whatever depends on what.
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, floor = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = floor
    return adjusted


def mean(values: Sequence[float]) -> float | None:
    """The arithmetic mean; None of nothing."""
    return math.fsum(values) / len(values) if values else None
