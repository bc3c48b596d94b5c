"""The shipped maths against naive double-precision loops written from the papers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from trainer.algorithms import advantages, dpo, kl, kto, off_policy, ppo, preference, sequences

SEEDS = range(5)
LIMITS = ppo.Limits()
ESTIMATORS = (kl.k1, kl.k2, kl.k3)


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


@pytest.mark.parametrize("seed", SEEDS)
def test_whitening(seed: int) -> None:
    mask, lengths = _ragged(seed)
    values = 5 + _normal(seed, tuple(mask.shape), 3.0)
    inside = [float(values[row, t]) for row, length in enumerate(lengths) for t in range(length)]
    mean = math.fsum(inside) / len(inside)
    deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in inside) / len(inside))
    found = advantages.whiten(values, mask)
    for row, length in enumerate(lengths):
        expected = [(float(values[row, t]) - mean) / deviation for t in range(length)]
        assert found[row, :length].tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_kl_estimators(seed: int) -> None:
    log_p, log_q = -_normal(seed, (20,)).abs(), -_normal(seed + 1, (20,)).abs()
    for x, y, *found in zip(*(t.tolist() for t in (log_p, log_q)), *(e(log_p, log_q).tolist() for e in ESTIMATORS)):  # noqa: B905
        ratio = math.exp(y) / math.exp(x)
        expected = [-math.log(ratio), math.log(ratio) ** 2 / 2, ratio - 1 - math.log(ratio)]
        assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_adaptive_beta_follows_the_controller_of_lm_human_preferences(seed: int) -> None:
    """Its `update(current, n_steps)` in numpy, over ten updates."""
    beta = value = 0.05
    for observed in (12 * torch.rand(10, generator=torch.Generator().manual_seed(seed))).tolist():
        proportional_error = float(np.clip(observed / 6.0 - 1, -0.2, 0.2))
        value *= 1 + proportional_error * 256 / 10_000
        beta = kl.adaptive_beta(beta, observed, target=6.0, horizon=10_000, sequences=256, clip=0.2)
        assert beta == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_ranking_s_loss_is_the_mean_over_all_its_pairs(seed: int) -> None:
    """InstructGPT, equation 1: -(1 / C(k,2)) sum over pairs of log sigmoid of the difference."""
    scores = _normal(seed, (5,), 2.0)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed)).tolist()
    ranks = [order.index(item) + 1 for item in range(5)]
    pairs = preference.ranking_pairs(ranks)
    margins = torch.stack([scores[pair.chosen] - scores[pair.rejected] for pair in pairs])
    losses = preference.pair_losses(margins, torch.zeros(len(pairs), dtype=torch.bool), torch.zeros(()))
    found = sum(pair.weight * loss for pair, loss in zip(pairs, losses.tolist(), strict=True))
    expected = -sum(
        math.log(1 / (1 + math.exp(float(scores[worse]) - float(scores[better]))))
        for place, better in enumerate(order)
        for worse in order[place + 1 :]
    )
    assert found == pytest.approx(expected / 10, abs=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_dpo_and_kto(seed: int) -> None:
    mask, lengths = _ragged(seed)
    log_p, reference = -_normal(seed, tuple(mask.shape)).abs(), -_normal(seed + 1, tuple(mask.shape)).abs()
    ratios = sequences.answer_log_probs(log_p, mask) - sequences.answer_log_probs(reference, mask)
    naive = [
        sum(float(log_p[row, t]) - float(reference[row, t]) for t in range(length))
        for row, length in enumerate(lengths)
    ]
    assert ratios.tolist() == pytest.approx(naive, abs=1e-4)
    found = dpo.dpo_losses(dpo.implied_margins(ratios[:3], ratios[3:]), beta=0.4)
    expected = [math.log(1 + math.exp(-0.4 * (naive[row] - naive[row + 3]))) for row in range(3)]
    assert found.tolist() == pytest.approx(expected, abs=1e-4)
    liked = torch.tensor([True, False] * 3)
    z0 = max(0.0, sum(naive) / len(naive))
    assert kto.reference_point(ratios).item() == pytest.approx(z0, abs=1e-4)
    found = kto.kto_losses(ratios, liked, kto.reference_point(ratios), beta=0.4)
    expected = [
        1 - 1 / (1 + math.exp(-0.4 * (ratio - z0 if good else z0 - ratio)))
        for ratio, good in zip(naive, liked.tolist(), strict=True)
    ]
    assert found.tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_off_policy_values(seed: int) -> None:
    log_ratios, rewards = _normal(seed, (9,), 1.5).double(), (_normal(seed + 1, (9,)) > 0).double()
    modelled, expected, weights = (_normal(seed + n, (9,)).double().abs() for n in (2, 3, 4))
    ratios = off_policy.sequence_ratios(log_ratios, 3.0)
    below = above = corrected = model = 0.0
    for row in range(9):
        rho = min(math.exp(float(log_ratios[row])), 3.0)
        w, r = float(weights[row]), float(rewards[row])
        below += w * rho
        above += w * rho * r
        corrected += w * rho * (r - float(modelled[row]))
        model += w * float(expected[row])
    assert float(off_policy.self_normalised(ratios, rewards, weights)) == pytest.approx(above / below, abs=1e-9)
    found = off_policy.doubly_robust(ratios, rewards, modelled, expected, weights)
    assert float(found) == pytest.approx(model / float(weights.sum()) + corrected / below, abs=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_bootstrap_over_people(seed: int) -> None:
    """Each draw by hand: the answers of the people drawn, one after the other, and their plain mean."""
    people = torch.tensor([0, 1, 1, 2, 2, 2, 3])
    rewards = _normal(seed, (7,)).double()
    times = off_policy.people_resampled(people, 5, seed)
    found = off_policy.self_normalised(torch.ones(7, dtype=torch.float64), rewards, times)
    drawn = torch.randint(4, (5, 4), generator=torch.Generator().manual_seed(seed)).tolist()
    for draw, names in enumerate(drawn):
        values = [float(rewards[row]) for name in names for row in range(7) if int(people[row]) == name]
        assert float(found[draw]) == pytest.approx(sum(values) / len(values), abs=1e-9)
