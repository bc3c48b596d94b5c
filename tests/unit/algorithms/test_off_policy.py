"""Off-policy estimates on numbers worked by hand, and on a bandit whose true values are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from trainer.algorithms.off_policy import (
    doubly_robust,
    people_resampled,
    percentile_interval,
    self_normalised,
    sequence_ratios,
)


def _doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


ONES = _doubles(1, 1, 1)
RATIOS, REWARDS = _doubles(2, 0.5, 1), _doubles(1, 0, 1)


def test_ratios_are_capped_and_never_quite_0() -> None:
    found = sequence_ratios(_doubles(0, math.log(4), 20, -900), cap=10)
    assert found.tolist() == pytest.approx([1, 4, 10, math.exp(-50)])
    assert found[3] > 0
    assert bool(sequence_ratios(_doubles(float("nan")), cap=10).isnan())


def test_self_normalised_by_hand() -> None:
    assert float(self_normalised(RATIOS, REWARDS, ONES)) == pytest.approx(3 / 3.5)
    # The first answer counted three times: (3*2*1 + 0 + 1) / (6 + 0.5 + 1).
    assert float(self_normalised(RATIOS, REWARDS, _doubles(3, 1, 1))) == pytest.approx(7 / 7.5)


def test_doubly_robust_by_hand() -> None:
    modelled, expected = _doubles(0.5, 0.5, 0.5), _doubles(0.6, 0.8, 0.7)
    # 0.7 + (2 * 0.5 - 0.5 * 0.5 + 1 * 0.5) / 3.5
    assert float(doubly_robust(RATIOS, REWARDS, modelled, expected, ONES)) == pytest.approx(0.7 + 1.25 / 3.5)


def test_a_perfect_model_leaves_nothing_to_correct() -> None:
    found = doubly_robust(RATIOS, REWARDS, REWARDS, _doubles(0.2, 0.3, 0.4), ONES)
    assert float(found) == pytest.approx(0.3)


def test_the_logged_policy_itself_is_worth_what_was_logged() -> None:
    same = sequence_ratios(_doubles(0, 0, 0), cap=10)
    assert float(self_normalised(same, REWARDS, ONES)) == pytest.approx(2 / 3)


def _bandit(seed: int = 0, count: int = 40_000) -> tuple[Tensor, Tensor, Tensor]:
    """Actions [N] by the behaviour, log ratios [N] of a policy worth 0.68, rewards [N] of 0 or 1."""
    behaviour, policy = _doubles(0.5, 0.3, 0.2), _doubles(0.2, 0.2, 0.6)
    chances = _doubles(0.2, 0.5, 0.9)
    generator = torch.Generator().manual_seed(seed)
    actions = torch.multinomial(behaviour, count, replacement=True, generator=generator)
    rewards = torch.bernoulli(chances[actions], generator=generator)
    return actions, (policy / behaviour).log()[actions], rewards


def test_both_find_the_true_value_of_another_policy() -> None:
    actions, log_ratios, rewards = _bandit()
    ratios, ones = sequence_ratios(log_ratios, cap=10), torch.ones_like(rewards)
    true = 0.2 * 0.2 + 0.2 * 0.5 + 0.6 * 0.9
    assert float(rewards.mean()) == pytest.approx(0.43, abs=0.01), "what was logged is another value"
    assert float(self_normalised(ratios, rewards, ones)) == pytest.approx(true, abs=0.01)

    wrong = _doubles(0.9, 0.9, 0.1)
    by_wrong_model = float(wrong @ _doubles(0.2, 0.2, 0.6))
    found = doubly_robust(ratios, rewards, wrong[actions], torch.full_like(rewards, by_wrong_model), ones)
    assert float(found) == pytest.approx(true, abs=0.01), "right ratios mend a wrong model"

    right = _doubles(0.2, 0.5, 0.9)
    found = doubly_robust(ones, rewards, right[actions], torch.full_like(rewards, true), ones)
    assert float(found) == pytest.approx(true, abs=0.01), "a right model mends wrong ratios"


def test_a_cap_pulls_towards_what_was_logged() -> None:
    _, log_ratios, rewards = _bandit()
    capped = self_normalised(sequence_ratios(log_ratios, cap=1.0), rewards, torch.ones_like(rewards))
    assert float(rewards.mean()) + 0.05 < float(capped) < 0.68 - 0.05


def test_a_bootstrap_draws_people_with_all_their_answers() -> None:
    people = torch.tensor([0, 0, 1, 2, 2, 2])
    times = people_resampled(people, 200, seed=3)
    assert times.shape == (200, 6)
    assert torch.equal(times[:, 0], times[:, 1])
    assert torch.equal(times[:, 3], times[:, 5])
    drawn = times[:, [0, 2, 3]]
    assert bool((drawn.sum(1) == 3).all()), "as many people as there are"
    assert drawn.mean(0).tolist() == pytest.approx([1, 1, 1], abs=0.2)
    assert torch.equal(times, people_resampled(people, 200, seed=3))
    assert not torch.equal(times, people_resampled(people, 200, seed=4))


def test_intervals_over_people_are_wider_than_over_answers_that_agree() -> None:
    people = torch.arange(10).repeat_interleave(10)
    rewards = (people % 2).double()  # ten people, each of one mind
    ratios = torch.ones(100, dtype=torch.float64)
    widths = []
    for units in (people, torch.arange(100)):
        low, high = percentile_interval(self_normalised(ratios, rewards, people_resampled(units, 1000, 0)), 0.95)
        assert low < 0.5 < high
        widths.append(high - low)
    assert widths[0] > 2 * widths[1]


def test_percentiles_by_hand() -> None:
    low, high = percentile_interval(torch.arange(101, dtype=torch.float64), 0.9)
    assert (low, high) == pytest.approx((5, 95))
