"""The PPO objective, its filters, metrics and stops, on numbers worked by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from trainer.algorithms import ppo

LIMITS = ppo.Limits(sequence_k3=100.0)
WIDE = replace(LIMITS, ratio_low=0.01, ratio_high=100.0)


def _loss(ratio: float, advantage: float, limits: ppo.Limits = LIMITS) -> tuple[float, float]:
    """Loss and gradient to the logprob of a single token."""
    behaviour = torch.tensor([[-1.0]])
    log_p = (behaviour + math.log(ratio)).requires_grad_()
    mask = torch.tensor([[True]])
    loss = ppo.policy_loss(log_p, behaviour, torch.tensor([[advantage]]), mask, tokens=1, limits=limits)
    (gradient,) = torch.autograd.grad(loss, log_p)
    return loss.item(), gradient.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.1, 2.0, -2.2, -2.2),
        (1.5, 2.0, -2.4, 0.0),
        (1.5, -2.0, 3.0, 3.0),
        (0.6, -2.0, 1.6, 0.0),
        (0.6, 2.0, -1.2, -1.2),
    ],
    ids=["start", "within", "clipped above", "above, bad", "clipped below", "below, good"],
)
def test_clipped_objective_by_hand(ratio: float, advantage: float, loss: float, gradient: float) -> None:
    assert _loss(ratio, advantage) == pytest.approx((loss, gradient), abs=1e-6)


def test_dual_clip_bounds_a_bad_token_that_became_likely() -> None:
    assert _loss(5.0, -2.0, WIDE) == pytest.approx((6.0, 0.0), abs=1e-6)
    assert _loss(2.5, -2.0, WIDE) == pytest.approx((5.0, 5.0), abs=1e-6)


@pytest.mark.parametrize("ratio", [0.49, 2.01])
def test_tokens_outside_the_ratio_bounds_are_left_out(ratio: float) -> None:
    assert _loss(ratio, -1.0) == (0.0, 0.0)


def test_an_answer_that_drifted_too_far_is_left_out_whole() -> None:
    behaviour = torch.full((2, 2), -1.0)
    log_p = behaviour + torch.tensor([[0.6, 0.6], [0.0, 0.6]])
    mask = torch.ones(2, 2, dtype=torch.bool)
    drift = math.expm1(0.6) - 0.6  # 0.222; the second answer's mean is half of it
    keep = ppo.keep_mask(log_p, behaviour, mask, replace(LIMITS, sequence_k3=0.75 * drift))
    assert keep.tolist() == [[False, False], [True, True]]


def test_normalised_by_the_tokens_of_the_whole_step_so_micro_batches_add_up() -> None:
    torch.manual_seed(0)
    behaviour, gain = -torch.rand(4, 3), torch.randn(4, 3)
    log_p = behaviour + 0.3 * torch.randn(4, 3)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]]).bool()
    whole = ppo.policy_loss(log_p, behaviour, gain, mask, tokens=9, limits=LIMITS)
    parts = [
        ppo.policy_loss(log_p[rows], behaviour[rows], gain[rows], mask[rows], tokens=9, limits=LIMITS)
        for rows in ([0], [1, 2], [3])
    ]
    assert sum(part.item() for part in parts) == pytest.approx(whole.item(), abs=1e-6)


def test_a_decoupled_anchor_is_weighted_and_its_weight_is_cut() -> None:
    log_p = torch.tensor([[-1.0, -1.0]])
    proximal = torch.tensor([[-1.1, -1.0]])
    behaviour = proximal - torch.tensor([[math.log(1.5), math.log(3.0)]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    gain = torch.ones(1, 2)
    loss = ppo.policy_loss(log_p, behaviour, gain, mask, tokens=1, limits=WIDE, proximal=proximal)
    assert loss.item() == pytest.approx(-(1.5 * math.exp(0.1) + 2.0 * 1.0), abs=1e-5)


def test_value_loss_takes_the_worse_of_plain_and_clipped() -> None:
    values = torch.tensor([[1.0, 0.1]], requires_grad=True)
    old, returns = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    loss = ppo.value_loss(values, old, returns, torch.ones(1, 2, dtype=torch.bool), tokens=2, clip=0.2)
    # first: plain 0, clipped (0.2 - 1)^2; second: both (0.1 - 1)^2
    assert loss.item() == pytest.approx(0.5 * (0.64 + 0.81) / 2)
    (gradient,) = torch.autograd.grad(loss, values)
    assert gradient[0].tolist() == pytest.approx([0.0, -0.45])


def test_metrics_by_hand() -> None:
    behaviour = torch.full((2, 2), -2.0)
    step = torch.tensor([[math.log(1.5), math.log(0.5)], [0.0, float("nan")]])
    mask = torch.tensor([[True, True], [True, False]])
    gain = torch.tensor([[1.0, -1.0], [1.0, 1.0]])
    versions = torch.tensor([3, 5])
    found = ppo.update_metrics(behaviour + step, behaviour, gain, mask, versions, LIMITS)
    k3 = [0.5 - math.log(1.5), -0.5 - math.log(0.5), 0.0]
    assert found["approx_kl_k1_per_token"] == pytest.approx(-(math.log(1.5) + math.log(0.5)) / 3, abs=1e-6)
    assert found["approx_kl_k1_per_sequence"] == pytest.approx(-(math.log(1.5) + math.log(0.5)) / 2, abs=1e-6)
    assert found["approx_kl_k3_per_token"] == pytest.approx(sum(k3) / 3, abs=1e-6)
    assert found["approx_kl_k3_per_sequence"] == pytest.approx(sum(k3) / 2, abs=1e-6)
    assert found["k3_per_token_v3"] == pytest.approx(sum(k3) / 2, abs=1e-6)
    assert found["k3_per_token_v5"] == 0.0
    assert found["mean_abs_log_ratio"] == pytest.approx((math.log(1.5) + math.log(2)) / 3, abs=1e-6)
    assert found["clip_fraction_high"] == pytest.approx(1 / 3)
    assert found["ratio_mean"] == pytest.approx(1.0)
    assert found["ratio_max"] == pytest.approx(1.5)
    assert found["effective_sample_size"] == pytest.approx(9 / (3 * (2.25 + 0.25 + 1)))
    assert found["effective_sample_size_sequences"] == pytest.approx(1.75**2 / (2 * (0.75**2 + 1)))


def test_one_wild_token_that_is_left_out_does_not_pass_for_a_drifted_batch() -> None:
    behaviour = torch.full((4, 8), -2.0)
    step = torch.zeros(4, 8)
    step[0, 0] = 8.0  # a ratio of 2981
    mask = torch.ones(4, 8, dtype=torch.bool)
    limits = ppo.Limits(sequence_k3=math.inf)
    found = ppo.update_metrics(behaviour + step, behaviour, torch.ones(4, 8), mask, torch.zeros(4), limits)
    assert found["effective_sample_size_raw"] < 0.04
    assert found["effective_sample_size"] == pytest.approx(31 / 32)


def test_effective_sample_size_of_equal_and_of_one_heavy_weight() -> None:
    assert ppo.effective_sample_size(torch.ones(8)).item() == pytest.approx(1.0)
    assert ppo.effective_sample_size(torch.tensor([1e6, 1.0, 1.0, 1.0])).item() == pytest.approx(0.25, abs=1e-4)


def test_value_metrics_by_hand() -> None:
    values, returns = torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 4.0]])
    found = ppo.value_metrics(values, torch.tensor([[1.1, 0.0]]), returns, torch.ones(1, 2).bool(), 0.2)
    assert found == {"explained_variance": pytest.approx(1 - 1 / 4), "value_clip_fraction": 0.5}


CALM = {
    "mean_abs_log_ratio": 0.05,
    "clip_fraction_high": 0.1,
    "clip_fraction_low": 0.1,
    "effective_sample_size": 0.9,
    "policy_loss": 0.0,
}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"mean_abs_log_ratio": 0.11}, "mean_abs_log_ratio"),
        ({"clip_fraction_low": 0.21}, "clip_fraction"),
        ({"effective_sample_size": 0.29}, "effective_sample_size"),
        ({"policy_loss": math.nan}, "non-finite policy_loss"),
        ({"policy_loss": math.inf, "effective_sample_size": 0.1}, "non-finite policy_loss"),
    ],
)
def test_stop_conditions(change: dict[str, float], reason: str | None) -> None:
    assert ppo.stop_reason(CALM | change, ppo.StopLimits()) == reason
