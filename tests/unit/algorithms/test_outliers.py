"""Counts against exact fractions, and Benjamini and Hochberg's own example."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from schemas.errors import InvalidInput
from trainer.algorithms.outliers import at_least, at_most, false_discoveries


@pytest.mark.parametrize(
    ("agreed", "trials", "share"), [(0, 1, "1/2"), (2, 5, "1/2"), (9, 40, "5/8"), (19, 20, "3/4"), (100, 300, "2/3")]
)
def test_a_lower_tail_is_the_exact_fraction(agreed: int, trials: int, share: str) -> None:
    chance = Fraction(share)
    exact = sum(math.comb(trials, k) * chance**k * (1 - chance) ** (trials - k) for k in range(agreed + 1))
    assert at_most(agreed, trials, float(chance)) == pytest.approx(float(exact), rel=1e-9)


def test_by_hand() -> None:
    assert at_most(1, 3, 0.5) == pytest.approx(0.5), "1 + 3 of 8"
    assert at_most(0, 4, 0.75) == pytest.approx(1 / 256)
    assert at_least(2, 1.0) == pytest.approx(1 - 2 / math.e)
    assert at_least(30, 2.0) == pytest.approx(math.exp(-2) * sum(2.0**k / math.factorial(k) for k in range(30, 80)))


def test_the_ends() -> None:
    assert (at_most(0, 0, 0.5), at_most(5, 5, 0.9), at_most(3, 5, 0.0), at_most(3, 5, 1.0)) == (1, 1, 1, 0)
    assert (at_least(0, 3.0), at_least(1, 3.0)) == (1, pytest.approx(1 - math.exp(-3)))
    for wrong in ((-1, 5, 0.5), (6, 5, 0.5), (1, 5, 1.5)):
        with pytest.raises(InvalidInput):
            at_most(*wrong)
    with pytest.raises(InvalidInput):
        at_least(1, 0.0)


def test_benjamini_and_hochbergs_example() -> None:
    """Section 4.1 of their paper: 15 p-values, at 0.05 the four smallest are rejected (Bonferroni rejects three)."""
    p = [
        0.0001,
        0.0004,
        0.0019,
        0.0095,
        0.0201,
        0.0278,
        0.0298,
        0.0344,
        0.0459,
        0.3240,
        0.4262,
        0.5719,
        0.6528,
        0.7590,
        1,
    ]
    assert false_discoveries(p, 0.05) == [True] * 4 + [False] * 11
    assert false_discoveries(p[::-1], 0.05) == [False] * 11 + [True] * 4
    assert false_discoveries([], 0.05) == []
    assert false_discoveries([0.04, 0.05], 0.05) == [True, True], "p(2) carries p(1) with it"
