"""Losses and figures of the reward model, on numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from trainer.algorithms import preference


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_bradley_terry_is_rao_kupper_at_threshold_0() -> None:
    margins = torch.tensor([0.0, 1.5, -2.0])
    found = preference.pair_losses(margins, torch.zeros(3, dtype=torch.bool), torch.tensor(0.0))
    assert found.tolist() == pytest.approx([math.log(2), -math.log(_sigmoid(1.5)), -math.log(_sigmoid(-2.0))], abs=1e-6)


@pytest.mark.parametrize("margin", [-3.0, 0.0, 0.7])
def test_win_lose_and_tie_sum_to_one(margin: float) -> None:
    eta = torch.tensor(0.4)
    margins = torch.tensor([margin, -margin, margin])
    losses = preference.pair_losses(margins, torch.tensor([False, False, True]), eta)
    assert torch.exp(-losses).sum().item() == pytest.approx(1.0, abs=1e-6)


def test_ties_are_likeliest_at_equal_scores() -> None:
    margins = torch.tensor([-1.0, 0.0, 1.0])
    losses = preference.pair_losses(margins, torch.ones(3, dtype=torch.bool), torch.tensor(0.5))
    assert losses.argmin().item() == 1
    assert losses[0].item() == pytest.approx(losses[2].item())


def test_a_ranking_becomes_all_its_pairs_with_the_weight_of_one() -> None:
    pairs = preference.ranking_pairs([2, 1, 2])  # item 1 first, items 0 and 2 tie behind it
    assert [(pair.chosen, pair.rejected, pair.tie) for pair in pairs] == [(1, 0, False), (0, 2, True), (1, 2, False)]
    assert [pair.weight for pair in pairs] == pytest.approx([1 / 3] * 3)
    assert preference.ranking_pairs([1]) == []


def test_thumbs_use_the_scale_and_bias_of_their_cohort() -> None:
    scores, liked = torch.tensor([1.0, 1.0]), torch.tensor([True, False])
    losses = preference.thumb_losses(scores, liked, torch.tensor([2.0, 1.0]), torch.tensor([-1.0, 0.5]))
    assert losses.tolist() == pytest.approx([-math.log(_sigmoid(1.0)), -math.log(1 - _sigmoid(1.5))], abs=1e-6)


def test_centring_and_accuracy() -> None:
    assert preference.centring(torch.tensor([1.0, -3.0])).item() == 5.0
    assert preference.accuracy(torch.tensor([0.5, -0.5, 0.0, 2.0])) == pytest.approx(2.5 / 4)


def test_calibration_error_by_hand() -> None:
    stated = torch.tensor([0.15, 0.15, 0.85, 0.85])
    happened = torch.tensor([0.0, 0.0, 1.0, 0.0])
    assert preference.expected_calibration_error(stated, happened) == pytest.approx(0.5 * 0.15 + 0.5 * 0.35, abs=1e-6)


def test_certainty_that_comes_true_is_calibrated() -> None:
    assert preference.expected_calibration_error(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0])) == 0.0


def test_correlation_and_its_partial_form() -> None:
    z = torch.tensor([0.0, 0.0, 1.0, 1.0])
    noise = torch.tensor([0.1, -0.1, 0.1, -0.1])
    assert preference.correlation(z, 3 * z + 2) == pytest.approx(1.0)
    assert preference.correlation(z, torch.ones(4)) == 0.0
    # x and y share only z: raw correlation is high, nothing is left once z is given
    assert preference.correlation(z + noise, z + noise.flip(0).roll(1)) > 0.9
    x, y = z + noise, z + torch.tensor([0.1, 0.1, -0.1, -0.1])
    assert preference.partial_correlation(x, y, z) == pytest.approx(0.0, abs=1e-6)
    assert preference.partial_correlation(z + noise, z - noise, z) == pytest.approx(-1.0)
