"""Krippendorff's alpha against the examples of his own paper (2011), and what it is not defined for."""

from __future__ import annotations

import pytest

from trainer.algorithms.agreement import krippendorff_alpha

FOUR_OBSERVERS = (
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
)


def test_two_observers_of_ten_units() -> None:
    """Section A: binary data, alpha = 0.095. By hand: o_01 = 4, n = 20, n_0 = 14, n_1 = 6; 1 - 19 x 4 / (14 x 6)."""
    first, second = "0100000010", "1110010000"
    found = krippendorff_alpha(list(zip(first, second, strict=True)))
    assert found == pytest.approx(1 - 19 * 4 / (14 * 6)) == pytest.approx(0.095, abs=5e-4)


def test_four_observers_with_missing_data() -> None:
    """Section C: nominal data with missing values, alpha = 0.743."""
    rows = [line.split() for line in FOUR_OBSERVERS]
    units = [[value for value in unit if value != "."] for unit in zip(*rows, strict=True)]
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=5e-4)


def test_it_says_nothing_where_nothing_can_be_said() -> None:
    assert krippendorff_alpha([]) is None
    assert krippendorff_alpha([["up"], ["down"], []]) is None, "no item was judged twice"
    assert krippendorff_alpha([["up", "up"], ["up", "up"]]) is None, "nobody ever said anything else"


def test_its_ends() -> None:
    assert krippendorff_alpha([["up", "up"], ["down", "down"]]) == 1
    assert krippendorff_alpha([["up", "down"], ["down", "up"]]) == pytest.approx(-0.5), "1 - 3 x 4 / (2 x 4)"
