"""Wilson interval and sign test against hand-worked numbers."""

from __future__ import annotations

import pytest

from schemas.errors import InvalidInput
from trainer.gates.statistics import mean, sign_test, wilson_interval


def test_wilson_interval_of_a_textbook_case() -> None:
    # 8 of 10 at 95 %: z = 1.959964, centre (0.8 + 0.19207) / 1.38415 = 0.71675, half 0.22658.
    low, high = wilson_interval(8, 10)
    assert low == pytest.approx(0.49016, abs=1e-4)
    assert high == pytest.approx(0.94332, abs=1e-4)


def test_wilson_interval_at_the_edges_stays_inside_zero_and_one() -> None:
    assert wilson_interval(0, 5)[0] == pytest.approx(0.0)
    assert wilson_interval(5, 5)[1] == pytest.approx(1.0)
    assert wilson_interval(0, 5)[1] == pytest.approx(1 - wilson_interval(5, 5)[0])


@pytest.mark.parametrize(("successes", "trials"), [(1, 0), (3, 2), (-1, 4)])
def test_wilson_interval_refuses_what_is_no_proportion(successes: int, trials: int) -> None:
    with pytest.raises(InvalidInput):
        wilson_interval(successes, trials)


def test_sign_test_counts_the_tail() -> None:
    assert sign_test(0, 0) == 1.0
    assert sign_test(3, 0) == pytest.approx(1 / 8)
    assert sign_test(2, 1) == pytest.approx(4 / 8)  # C(3,2) + C(3,3) of 8
    assert sign_test(9, 1) == pytest.approx(11 / 1024)
    assert sign_test(0, 4) == 1.0


def test_mean() -> None:
    assert mean([]) is None
    assert mean([1.0, 2.0]) == 1.5
