"""Ratings as ordered categories, by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from trainer.algorithms import ordinal

STARS = torch.arange(1, 6)


def test_at_score_0_a_fresh_scale_finds_each_star_as_likely() -> None:
    scale, thresholds, offsets = ordinal.read(ordinal.fresh(2))
    assert thresholds.tolist() == pytest.approx([math.log(x) for x in (1 / 4, 2 / 3, 3 / 2, 4)])
    assert (float(scale), offsets.tolist()) == (1.0, [0.0, 0.0])
    assert ordinal.rating_losses(torch.zeros(5), STARS, thresholds).tolist() == pytest.approx([math.log(5)] * 5)


def test_a_better_answer_by_hand() -> None:
    """At location log 4 the odds of at most k stars are a quarter of before: 1/16, 1/6, 3/8, 1."""
    thresholds = ordinal.read(ordinal.fresh(0)).thresholds
    at_most = [0, 1 / 17, 1 / 7, 3 / 11, 1 / 2, 1]
    expected = [-math.log(high - low) for low, high in pairwise(at_most)]
    found = ordinal.rating_losses(torch.full((5,), math.log(4)), STARS, thresholds)
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_a_kind_rater_s_four_stars_say_as_much_as_a_harsh_rater_s_three() -> None:
    """An offset shifts all thresholds alike: proportional odds."""
    thresholds = ordinal.read(ordinal.packed(1.0, [-3.0, -1.0, 1.0, 3.0], 0)).thresholds
    kind = ordinal.rating_losses(torch.tensor([0.5 + 2.0]), torch.tensor([4]), thresholds)
    harsh = ordinal.rating_losses(torch.tensor([0.5]), torch.tensor([3]), thresholds)
    assert float(kind) == pytest.approx(float(harsh), rel=1e-6)


def test_nothing_is_lost_far_from_the_thresholds() -> None:
    thresholds = torch.tensor([-1.0, 0.0, 1.0, 2.0], requires_grad=True)
    location = torch.tensor([80.0, -80.0, 80.0], requires_grad=True)
    losses = ordinal.rating_losses(location, torch.tensor([1, 5, 3]), thresholds)
    # log(sigmoid(1 - 80) - sigmoid(0 - 80)) = -79 + log(1 - 1/e)
    assert losses.tolist() == pytest.approx([81.0, 82.0, 79 - math.log(1 - math.exp(-1))])
    losses.sum().backward()
    assert bool(torch.isfinite(thresholds.grad).all())  # type: ignore[arg-type]
    assert location.grad.tolist() == pytest.approx([1.0, -1.0, 1.0])  # type: ignore[union-attr]


def test_the_prior_is_that_of_a_normal() -> None:
    assert ordinal.offset_losses(torch.tensor([0.0, 1.0, -3.0]), 2.0).tolist() == [0.0, 0.125, 1.125]


def test_concordance_by_hand() -> None:
    scores, stars = torch.tensor([0.1, 0.5, 0.3, 0.5]), torch.tensor([1, 2, 4, 4])
    # 1<2 yes, 1<4 yes yes, 2<4: 0.5 over 0.3 no, equal half: 3.5 of 5.
    assert ordinal.concordance(scores, stars) == pytest.approx(3.5 / 5)
    assert ordinal.concordance(scores, torch.tensor([3, 3, 3, 3])) is None
