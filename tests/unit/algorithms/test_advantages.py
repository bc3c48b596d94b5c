"""Reward shaping, GAE and whitening, on numbers worked by hand."""

from __future__ import annotations

import pytest
import torch

from trainer.algorithms.advantages import gae, shaped_rewards, whiten

MASK = torch.tensor([[True, True, True], [True, False, False]])


def test_the_score_lies_on_the_last_token_and_the_penalty_on_all() -> None:
    log_p = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, 7.0, float("nan")]])
    reference = torch.tensor([[-1.5, -2.0, -2.0], [-2.0, 9.0, 9.0]])
    found = shaped_rewards(torch.tensor([2.0, -1.0]), log_p, reference, MASK, beta=0.1)
    expected = torch.tensor([[-0.05, 0.0, 0.1 + 2.0], [-0.1 - 1.0, 0.0, 0.0]])
    torch.testing.assert_close(found, expected)


def test_gae_by_hand() -> None:
    rewards = torch.tensor([[0.0, 0.0, 1.0], [2.0, 50.0, 50.0]])
    values = torch.tensor([[0.5, 0.25, 0.75], [0.5, 50.0, float("nan")]])
    advantages, returns = gae(rewards, values, MASK, gamma=1.0, lam=0.5)
    # deltas of row 0: 0.25 - 0.5, 0.75 - 0.25, 1 - 0.75; then backwards with factor 0.5
    expected = torch.tensor([[-0.25 + 0.5 * 0.625, 0.5 + 0.5 * 0.25, 0.25], [1.5, 0.0, 0.0]])
    torch.testing.assert_close(advantages, expected)
    torch.testing.assert_close(returns, expected + torch.tensor([[0.5, 0.25, 0.75], [0.5, 0.0, 0.0]]))


def test_with_lambda_1_returns_are_the_rewards_to_come_whatever_the_values() -> None:
    rewards, values = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[9.0, -3.0, 0.5]])
    _, returns = gae(rewards, values, torch.ones(1, 3, dtype=torch.bool), gamma=1.0, lam=1.0)
    torch.testing.assert_close(returns, torch.tensor([[7.0, 6.0, 4.0]]))


def test_whitening_by_hand() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0], [6.0, float("nan"), 100.0]])
    found = whiten(values, MASK)
    assert found[0].tolist() == pytest.approx([-2 / 3.5**0.5, -1 / 3.5**0.5, 0.0], abs=1e-6)
    assert found[1].tolist() == pytest.approx([3 / 3.5**0.5, 0.0, 0.0], abs=1e-6)


def test_equal_values_whiten_to_zero_not_to_nan() -> None:
    found = whiten(torch.full((2, 3), 0.3), MASK)
    assert float(found.abs().max()) < 1e-3
