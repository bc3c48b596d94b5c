"""Every loss's gradient against finite differences in double precision, and against garbage where nothing is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from trainer.algorithms import advantages, dpo, kto, ordinal, ppo, preference, sequences

MASK = torch.tensor([[True, True, True], [True, True, False]])
LIMITS = ppo.Limits()


def _wide(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


BEHAVIOUR = _wide([[-1.0, -1.2, -0.7], [-2.0, -1.5, -0.3]])
PROXIMAL = _wide([[-1.05, -1.1, -0.75], [-1.9, -1.6, -0.3]])
GAIN = _wide([[1.0, -0.5, 0.8], [-1.0, 0.3, -2.0]])


def _policy(log_p: Tensor) -> Tensor:
    return ppo.policy_loss(log_p, BEHAVIOUR, GAIN, MASK, tokens=5, limits=LIMITS)


def _decoupled(log_p: Tensor) -> Tensor:
    return ppo.policy_loss(log_p, BEHAVIOUR, GAIN, MASK, tokens=5, limits=LIMITS, proximal=PROXIMAL)


def _dual(log_p: Tensor) -> Tensor:
    limits = ppo.Limits(ratio_low=0.01, ratio_high=100.0, sequence_k3=100.0)
    return ppo.policy_loss(log_p, BEHAVIOUR, -GAIN.abs(), MASK, tokens=5, limits=limits)


def _values(values: Tensor) -> Tensor:
    old, returns = torch.zeros(2, 3, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64)
    return ppo.value_loss(values, old, returns, MASK, tokens=5)


def _pairs(numbers: Tensor) -> Tensor:
    ties = torch.tensor([False, True, False, True])
    return preference.pair_losses(numbers[:4], ties, numbers[4].exp()).sum()


def _thumbs(numbers: Tensor) -> Tensor:
    liked = torch.tensor([True, False])
    return preference.thumb_losses(numbers[:2], liked, numbers[2:4].exp(), numbers[4:6]).sum()


def _ratings(numbers: Tensor) -> Tensor:
    scale, thresholds, offsets = ordinal.read(numbers[5:])
    location = scale * numbers[:5] + offsets[torch.tensor([0, 1, 0, 1, 1])]
    losses = ordinal.rating_losses(location, torch.arange(1, 6), thresholds)
    return losses.sum() + ordinal.offset_losses(offsets, deviation=0.7).sum()


def _dpo(log_p: Tensor) -> Tensor:
    ratios = sequences.answer_log_probs(log_p - BEHAVIOUR, MASK)
    return dpo.dpo_losses(dpo.implied_margins(ratios[:1], ratios[1:]), beta=0.7).sum()


def _kto(log_p: Tensor) -> Tensor:
    ratios = sequences.answer_log_probs(log_p - BEHAVIOUR, MASK)
    z0 = torch.tensor(0.3, dtype=torch.float64)
    return kto.kto_losses(ratios, torch.tensor([True, False]), z0, beta=0.7).sum()


def _likelihood(log_p: Tensor) -> Tensor:
    return -sequences.answer_log_probs(log_p, MASK).sum()


NEAR = [[-0.9, -1.25, -0.75], [-1.9, -1.45, -9.0]]


@pytest.mark.parametrize(
    ("loss", "at"),
    [
        (_policy, NEAR),
        (_decoupled, NEAR),
        (_dual, [[0.5, -1.1, 1.5], [-2.2, 0.1, -9.0]]),
        (_values, [[0.1, 0.5, 0.15], [-0.1, -0.5, 9.0]]),
        (_pairs, [0.3, -0.8, -2.0, 0.0, -0.5]),
        (_thumbs, [0.3, -0.8, 0.2, -0.4, 0.1, 0.6]),
        (_ratings, [0.3, -0.8, 0.2, 1.5, -0.1, 0.2, -1.0, 0.1, -0.3, 0.4, 0.6, -0.5]),
        (preference.centring, [0.3, -0.8, 2.0]),
        (_dpo, NEAR),
        (_kto, NEAR),
        (_likelihood, NEAR),
    ],
    ids=[
        "policy",
        "decoupled",
        "dual clip",
        "value",
        "pairs",
        "thumbs",
        "ratings",
        "centring",
        "dpo",
        "kto",
        "likelihood",
    ],
)
def test_gradients_against_finite_differences(loss: Callable[[Tensor], Tensor], at: list[float]) -> None:
    point = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (point,), eps=1e-6, atol=1e-6)
    (gradient,) = torch.autograd.grad(loss(point), point)
    assert float(gradient.abs().sum()) > 0


def test_no_gradient_flows_through_the_reference_point() -> None:
    ratios = torch.tensor([0.5, 1.0], requires_grad=True)
    loss = kto.kto_losses(torch.tensor([0.2, 0.1]), torch.tensor([True, False]), kto.reference_point(ratios), beta=1.0)
    assert not loss.requires_grad


def _of_ppo(fill: Callable[[Tensor], Tensor], n: Mapping[str, Tensor], mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    log_p, values = fill(n["log_p"]).requires_grad_(), fill(n["values"]).requires_grad_()
    behaviour, old = fill(n["behaviour"]), fill(n["old"])
    rewards = advantages.shaped_rewards(torch.ones(mask.shape[0]), behaviour, fill(n["reference"]), mask, 0.05)
    gain, returns = advantages.gae(rewards, old, mask)
    gain = advantages.whiten(gain, mask)
    policy = ppo.policy_loss(log_p, behaviour, gain, mask, tokens=20, limits=LIMITS)
    return policy + ppo.value_loss(values, old, returns, mask, tokens=20), log_p, values


def _of_dpo(fill: Callable[[Tensor], Tensor], n: Mapping[str, Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
    log_p = fill(n["log_p"]).requires_grad_()
    ratios = sequences.answer_log_probs(log_p, mask) - sequences.answer_log_probs(fill(n["reference"]), mask)
    return dpo.dpo_losses(dpo.implied_margins(ratios[:3], ratios[3:]), beta=0.3).sum(), log_p


def _of_kto(fill: Callable[[Tensor], Tensor], n: Mapping[str, Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
    log_p = fill(n["log_p"]).requires_grad_()
    ratios = sequences.answer_log_probs(log_p, mask) - sequences.answer_log_probs(fill(n["reference"]), mask)
    z0 = kto.reference_point(sequences.answer_log_probs(fill(n["behaviour"]), mask))
    return kto.kto_losses(ratios, torch.tensor([True, False] * 3), z0, beta=0.3).sum(), log_p


def _of_likelihood(fill: Callable[[Tensor], Tensor], n: Mapping[str, Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
    log_p = fill(n["log_p"]).requires_grad_()
    return -sequences.answer_log_probs(log_p, mask).sum(), log_p


@pytest.mark.parametrize("learner", [_of_ppo, _of_dpo, _of_kto, _of_likelihood], ids=["ppo", "dpo", "kto", "sft"])
@pytest.mark.parametrize("garbage", [0.0, 1e30, math.inf, -math.inf, math.nan])
def test_garbage_in_masked_positions_changes_no_gradient_by_a_bit(
    learner: Callable[..., tuple[Tensor, ...]], garbage: float
) -> None:
    generator = torch.Generator().manual_seed(3)
    lengths = torch.tensor([7, 2, 5, 1, 6, 3])
    mask = torch.arange(7)[None] < lengths[:, None]
    names = ("behaviour", "reference", "values", "old")
    numbers = {name: -torch.randn(6, 7, generator=generator).abs() for name in names}
    numbers["log_p"] = numbers["behaviour"] + 0.2 * torch.randn(6, 7, generator=generator)

    def gradients(fill: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        loss, *inputs = learner(fill, numbers, mask)
        return torch.autograd.grad(loss, inputs)

    clean = gradients(torch.clone)
    assert all(float(gradient.abs().sum()) > 0 for gradient in clean)
    dirty = gradients(lambda tensor: torch.where(mask, tensor, garbage))
    assert all(torch.equal(before, after) for before, after in zip(clean, dirty, strict=True))
