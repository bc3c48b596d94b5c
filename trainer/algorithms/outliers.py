"""Tests of few counts, and their control where many are tested at once. Pure; no tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence

from schemas.errors import InvalidInput


def at_most(agreed: int, trials: int, share: float) -> float:
    """P(X <= agreed) for X ~ Binomial(trials, share): how likely so few or fewer are.

    Where the trials have different chances with mean `share`, and agreed <= trials x share - 1, this is no less than
    the true probability (Hoeffding 1956, theorem 4): the test errs towards finding nothing.

    Args:
        agreed: 0 to `trials`.
        share: in [0, 1].

    Raises:
        InvalidInput: numbers out of these ranges.
    """
    if not 0 <= agreed <= trials or not 0 <= share <= 1:
        raise InvalidInput(f"{agreed} of {trials} at a chance of {share} are no binomial counts")
    if agreed == trials or share == 0:
        return 1.0
    if share == 1:
        return 0.0
    logs = [
        math.lgamma(trials + 1)
        - math.lgamma(count + 1)
        - math.lgamma(trials - count + 1)
        + count * math.log(share)
        + (trials - count) * math.log1p(-share)
        for count in range(agreed + 1)
    ]
    most = max(logs)
    return min(1.0, math.exp(most) * math.fsum(math.exp(log - most) for log in logs))


def at_least(count: int, mean: float) -> float:
    """P(X >= count) for X ~ Poisson(mean): how likely so many or more are.

    Raises:
        InvalidInput: a negative count, or a mean that is not positive.
    """
    if count < 0 or not mean > 0:
        raise InvalidInput(f"{count} at a mean of {mean} is no Poisson count")
    if count <= mean:  # the sum below would be long, and its answer is of no interest
        return 1.0 if count == 0 else max(0.0, 1 - math.fsum(_poisson(k, mean) for k in range(count)))
    # From `count` upwards every term is smaller than the one before by mean / k < 1.
    term, total, k = _poisson(count, mean), 0.0, count
    while term > total * 1e-17:
        total += term
        k += 1
        term *= mean / k
    return min(1.0, total)


def false_discoveries(p_values: Sequence[float], level: float) -> list[bool]:
    """Benjamini and Hochberg 1995, section 3.1: which hypotheses to reject so that of the rejected ones a share of at
    most `level` is expected to be true: with p(1) <= ... <= p(m), those up to the largest k with p(k) <= k / m x level.
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    last = max((k for k, place in enumerate(order, 1) if p_values[place] <= k / len(order) * level), default=0)
    rejected = set(order[:last])
    return [place in rejected for place in range(len(p_values))]


def _poisson(count: int, mean: float) -> float:
    return math.exp(count * math.log(mean) - mean - math.lgamma(count + 1))
