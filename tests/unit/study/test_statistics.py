"""Gold within a budget, areas and paired intervals, by hand-worked numbers."""

from __future__ import annotations

import pytest

from tests.bench.study.statistics import area, gold_within, paired, peak_minus_final

CURVE = [(0.0, 0.40), (0.2, 0.50), (0.6, 0.54)]


@pytest.mark.parametrize(("budget", "gold"), [(0.1, 0.45), (0.2, 0.50), (0.4, 0.52), (0.6, 0.54), (2.0, 0.54)])
def test_a_run_is_followed_until_it_meets_the_budget_or_ends(budget: float, gold: float) -> None:
    assert gold_within(CURVE, budget) == pytest.approx(gold)


def test_a_run_that_never_moved_is_worth_the_base() -> None:
    assert gold_within([(0.0, 0.4)], 0.5) == 0.4
    assert area([(0.0, 0.4)]) == 0.0


def test_a_run_that_comes_back_is_cut_where_it_first_left() -> None:
    assert gold_within([(0.0, 0.4), (0.4, 0.5), (0.1, 0.9)], 0.2) == pytest.approx(0.45)


def test_area_is_the_mean_gain_over_the_budgets() -> None:
    assert area(CURVE, (0.1, 0.4)) == pytest.approx((0.05 + 0.12) / 2)


def test_what_was_lost_after_the_peak() -> None:
    assert peak_minus_final(CURVE) == 0.0
    assert peak_minus_final([*CURVE, (0.9, 0.50)]) == pytest.approx(0.04)


def test_the_interval_of_paired_differences() -> None:
    equal = paired([0.02] * 5)
    assert (equal.low, equal.mean, equal.high) == pytest.approx((0.02, 0.02, 0.02))
    spread = paired([0.00, 0.02, 0.04, 0.06])
    assert spread == paired([0.00, 0.02, 0.04, 0.06])
    assert spread.mean == pytest.approx(0.03)
    # Standard error 0.0112 (n in the denominator): the percentile interval of four values lies near mean +- 2 of it.
    assert spread.low == pytest.approx(0.01, abs=0.006)
    assert spread.high == pytest.approx(0.05, abs=0.006)
