"""The paired bootstrap against what theory says."""

import random
import statistics

import pytest

from deploy.demo.evaluate import paired_gain


def test_a_constant_gain_has_no_uncertainty() -> None:
    gain = paired_gain([0.1, 0.5, 0.9], [0.3, 0.7, 1.1])
    assert (gain.mean, gain.low, gain.high) == pytest.approx((0.2, 0.2, 0.2))


def test_the_interval_matches_the_normal_one_for_many_pairs() -> None:
    rng = random.Random(1)
    before = [rng.gauss(0.5, 0.2) for _ in range(300)]
    after = [value + rng.gauss(0.1, 0.3) for value in before]
    differences = [late - early for early, late in zip(before, after, strict=True)]
    error = statistics.stdev(differences) / 300**0.5
    gain = paired_gain(before, after)
    assert gain.mean == pytest.approx(statistics.mean(differences))
    assert gain.low == pytest.approx(gain.mean - 1.96 * error, abs=0.15 * error)
    assert gain.high == pytest.approx(gain.mean + 1.96 * error, abs=0.15 * error)


def test_no_gain_is_not_excluded_where_there_is_none() -> None:
    rng = random.Random(2)
    excluded = 0
    for _ in range(40):
        before, after = ([rng.random() for _ in range(60)] for _ in range(2))
        gain = paired_gain(before, after)
        excluded += not gain.low <= 0 <= gain.high
    assert excluded <= 6  # 2 expected


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        paired_gain([0.1, 0.2], [0.3])
