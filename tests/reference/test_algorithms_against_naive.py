"""The shipped maths against naive double-precision loops written from the papers, and against finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from trainer.algorithms import advantages, kl, ppo, preference

SEEDS = range(5)
LIMITS = ppo.Limits()


def _ragged(seed: int, rows: int = 6, width: int = 7) -> tuple[Tensor, list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, width + 1, (rows,), generator=generator)
    lengths[0] = width
    return torch.arange(width)[None] < lengths[:, None], [int(n) for n in lengths]


def _normal(seed: int, shape: tuple[int, ...], scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", SEEDS)
def test_gae(seed: int) -> None:
    mask, lengths = _ragged(seed)
    rewards, values = _normal(seed + 10, tuple(mask.shape)), _normal(seed + 20, tuple(mask.shape))
    found, returns = advantages.gae(rewards, values, mask, 0.97, 0.9)
    for row, length in enumerate(lengths):
        r, v = rewards[row].double().tolist(), values[row].double().tolist()
        for t in range(length):
            expected = 0.0
            for k in range(t, length):
                following = v[k + 1] if k + 1 < length else 0.0
                expected += (0.97 * 0.9) ** (k - t) * (r[k] + 0.97 * following - v[k])
            assert found[row, t].item() == pytest.approx(expected, abs=1e-4)
            assert returns[row, t].item() == pytest.approx(expected + v[t], abs=1e-4)
        assert float(found[row, length:].abs().sum()) == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_policy_loss(seed: int) -> None:
    mask, lengths = _ragged(seed)
    shape = tuple(mask.shape)
    behaviour = -_normal(seed + 1, shape).abs()
    log_p, proximal = behaviour + _normal(seed + 2, shape, 0.42), behaviour + _normal(seed + 3, shape, 0.5)
    gain = _normal(seed + 4, shape)
    for anchor in (None, proximal):
        found = ppo.policy_loss(log_p, behaviour, gain, mask, tokens=17, limits=LIMITS, proximal=anchor)
        total, kept = 0.0, 0
        for row, length in enumerate(lengths):
            raw = [float(log_p[row, t]) - float(behaviour[row, t]) for t in range(length)]
            if sum(math.exp(x) - 1 - x for x in raw) / length > 0.1:
                continue
            for t, x in enumerate(raw):
                if not 0.5 <= math.exp(x) <= 2:
                    continue
                kept += 1
                prox = float(behaviour[row, t] if anchor is None else anchor[row, t])
                rho, a = math.exp(float(log_p[row, t]) - prox), float(gain[row, t])
                value = min(rho * a, min(max(rho, 0.8), 1.2) * a)
                value = max(value, 3 * a) if a < 0 else value
                total += min(math.exp(prox - float(behaviour[row, t])), 2.0) * value
        assert kept > 0
        assert found.item() == pytest.approx(-total / 17, abs=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_value_loss(seed: int) -> None:
    mask, lengths = _ragged(seed)
    values, old, returns = (_normal(seed + k, tuple(mask.shape)) for k in (1, 2, 3))
    found = ppo.value_loss(values, old, returns, mask, tokens=sum(lengths))
    total = 0.0
    for row, length in enumerate(lengths):
        for t in range(length):
            v, o, r = float(values[row, t]), float(old[row, t]), float(returns[row, t])
            total += max((v - r) ** 2, (min(max(v, o - 0.2), o + 0.2) - r) ** 2)
    assert found.item() == pytest.approx(0.5 * total / sum(lengths), abs=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_weighted_kl(seed: int) -> None:
    mask, lengths = _ragged(seed)
    values, log_ratio = _normal(seed + 1, tuple(mask.shape)).abs(), _normal(seed + 2, tuple(mask.shape))
    found = kl.importance_weighted_kl(values, log_ratio, mask, cap=2.0)
    expected = 0.0
    for t in range(mask.shape[1]):
        weights = [
            min(math.exp(sum(float(log_ratio[row, k]) for k in range(min(t, length)))), 2.0)
            for row, length in enumerate(lengths)
        ]
        inside = sum(w * float(values[row, t]) for row, w in enumerate(weights) if t < lengths[row])
        expected += inside / sum(weights)
    assert found.item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_rao_kupper(seed: int) -> None:
    margins = _normal(seed, (8,), 2.0)
    ties = torch.tensor([False, True] * 4)
    theta = 1.7
    found = preference.pair_losses(margins, ties, torch.tensor(math.log(theta)))
    for margin, tie, loss in zip(margins.tolist(), ties.tolist(), found.tolist(), strict=True):
        a, b = math.exp(margin), 1.0
        drawn = (theta**2 - 1) * a * b / ((a + theta * b) * (b + theta * a))
        assert loss == pytest.approx(-math.log(drawn if tie else a / (a + theta * b)), abs=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_partial_correlation_is_the_correlation_of_residuals(seed: int) -> None:
    z = _normal(seed, (40,)).double()
    x, y = z + _normal(seed + 1, (40,)).double(), _normal(seed + 2, (40,)).double() - 2 * z

    def residual(values: Tensor) -> Tensor:
        design = torch.stack([torch.ones_like(z), z], 1)
        slopes: Tensor = torch.linalg.lstsq(design, values[:, None]).solution[:, 0]
        return values - design @ slopes

    expected = torch.corrcoef(torch.stack([residual(x), residual(y)]))[0, 1].item()
    assert preference.partial_correlation(x, y, z) == pytest.approx(expected, abs=1e-4)


def _policy(log_p: Tensor) -> Tensor:
    behaviour = torch.tensor([[-1.0, -1.2, -0.7], [-2.0, -1.5, -0.3]], dtype=torch.float64)
    gain = torch.tensor([[1.0, -0.5, 0.8], [-1.0, 0.3, -2.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    return ppo.policy_loss(log_p, behaviour, gain, mask, tokens=5, limits=LIMITS)


def _values(values: Tensor) -> Tensor:
    old, returns = torch.zeros(2, 3, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    return ppo.value_loss(values, old, returns, mask, tokens=5)


def _pairs(numbers: Tensor) -> Tensor:
    ties = torch.tensor([False, True, False, True])
    return preference.pair_losses(numbers[:4], ties, numbers[4].exp()).sum()


def _thumbs(numbers: Tensor) -> Tensor:
    liked = torch.tensor([True, False])
    return preference.thumb_losses(numbers[:2], liked, numbers[2:4].exp(), numbers[4:6]).sum()


@pytest.mark.parametrize(
    ("loss", "at"),
    [
        (_policy, [[-0.9, -1.25, -0.75], [-1.9, -1.45, -9.0]]),
        (_values, [[0.1, 0.5, 0.15], [-0.1, -0.5, 9.0]]),
        (_pairs, [0.3, -0.8, -2.0, 0.0, -0.5]),
        (_thumbs, [0.3, -0.8, 0.2, -0.4, 0.1, 0.6]),
    ],
    ids=["policy", "value", "pairs", "thumbs"],
)
def test_gradients_against_finite_differences(loss: Callable[[Tensor], Tensor], at: list[float]) -> None:
    point = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (point,), eps=1e-6, atol=1e-6)


def test_garbage_in_masked_positions_changes_no_gradient_by_a_bit() -> None:
    mask, _ = _ragged(3)
    shape = tuple(mask.shape)
    behaviour = -_normal(1, shape).abs()
    inputs = [behaviour + _normal(2, shape, 0.2), behaviour, _normal(3, shape), _normal(4, shape), _normal(5, shape)]

    def gradients(garbage: float | None) -> list[Tensor]:
        filled = [x if garbage is None else torch.where(mask, x, garbage) for x in inputs]
        log_p, values = filled[0].clone().requires_grad_(), filled[3].clone().requires_grad_()
        rewards = advantages.shaped_rewards(torch.ones(shape[0]), filled[1], filled[2], mask, 0.05)
        gain, returns = advantages.gae(rewards, filled[4], mask)
        gain = advantages.whiten(gain, mask)
        policy = ppo.policy_loss(log_p, filled[1], gain, mask, tokens=20, limits=LIMITS)
        value = ppo.value_loss(values, filled[4], returns, mask, tokens=20)
        return list(torch.autograd.grad(policy + value, (log_p, values)))

    clean = gradients(None)
    assert float(clean[0].abs().sum()) > 0
    for garbage in (0.0, 1e30, math.inf, -math.inf, math.nan):
        for before, after in zip(clean, gradients(garbage), strict=True):
            assert torch.equal(before, after)
