"""Several objectives as one reward, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from trainer.algorithms.objectives import Objective, combined_reward, determination

SCORE = torch.tensor([1.0, -2.0, 7.0])


def test_aspects_are_weighed_and_each_is_clipped() -> None:
    tone = Objective(torch.zeros(3), torch.tensor([2.0, -9.0, 0.0]), 0.5, None)
    brevity = Objective(torch.zeros(3), torch.tensor([1.0, 1.0, 1.0]), -0.25, None)
    # 1 + 0.5 x 2 - 0.25; -2 + 0.5 x (-5) - 0.25; 5 + 0 - 0.25
    assert combined_reward(SCORE, [tone, brevity], 5.0).tolist() == pytest.approx([1.75, -4.75, 4.75])


def test_no_merit_buys_back_what_lies_below_a_floor() -> None:
    safety = Objective(torch.tensor([-0.1, 0.3, 0.2]), torch.zeros(3), 0.0, 0.2)
    tone = Objective(torch.zeros(3), torch.tensor([9.0, -9.0, -9.0]), 2.0, None)
    found = combined_reward(torch.tensor([9.0, -9.0, 9.0]), [safety, tone], 5.0).tolist()
    # Below the floor: -5 x (1 + 2), the least that any answer gets. At the floor: nothing happens.
    assert found == pytest.approx([-15.0, -15.0, -5.0])


def test_without_objectives_a_reward_is_the_clipped_score() -> None:
    assert combined_reward(SCORE, [], 5.0).tolist() == [1.0, -2.0, 5.0]


def test_determination_by_hand() -> None:
    observed = torch.tensor([0.0, 1.0, 2.0])
    # Squared distances from the mean add up to 2; these predictions miss by 0.5 in all.
    assert determination(torch.tensor([0.5, 1.5, 2.0]), observed) == pytest.approx(0.75)
    assert determination(torch.ones(3), observed) == 0.0
    assert determination(torch.full((3,), 4.0), observed) == pytest.approx(1 - (16 + 9 + 4) / 2)
    assert math.isfinite(determination(torch.zeros(3), observed))
