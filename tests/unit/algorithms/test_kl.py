"""KL estimators and the controller of beta, on numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from trainer.algorithms import kl


def test_estimators_on_one_token() -> None:
    log_p, log_q = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])
    assert kl.k1(log_p, log_q).item() == pytest.approx(math.log(2))
    assert kl.k2(log_p, log_q).item() == pytest.approx(0.5 * math.log(2) ** 2)
    assert kl.k3(log_p, log_q).item() == pytest.approx(0.5 - 1 + math.log(2))


def test_k1_and_k3_are_unbiased_under_p() -> None:
    p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.3, 0.3, 0.4])
    exact = float((p * (p / q).log()).sum())
    for estimator in (kl.k1, kl.k3):
        assert float((p * estimator(p.log(), q.log())).sum()) == pytest.approx(exact, abs=1e-6)
    assert float(kl.full_kl(p.log(), q.log())) == pytest.approx(exact, abs=1e-6)


def test_k3_is_never_negative_and_zero_only_at_equality() -> None:
    log_q = torch.linspace(-8, 0, 33)
    values = kl.k3(torch.full_like(log_q, -2.0), log_q)
    assert bool((values >= 0).all())
    assert values.argmin().item() == 24  # log q = -2
    assert values[24].item() == 0


def test_means_per_token_and_per_sequence_ignore_what_is_masked() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, float("nan"), 100.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    assert kl.per_token(values, mask).item() == pytest.approx(10 / 4)
    assert kl.per_sequence(values, mask).item() == pytest.approx(10 / 2)


def test_entropy_of_a_coin_and_of_certainty() -> None:
    assert kl.entropy(torch.tensor([0.5, 0.5]).log()).item() == pytest.approx(math.log(2))
    assert kl.entropy(torch.log_softmax(torch.tensor([80.0, 0.0]), 0)).item() == pytest.approx(0)


@pytest.mark.parametrize(
    ("observed", "expected"),
    [(6.0, 0.05), (6.6, 0.05 * 1.01), (60.0, 0.05 * 1.02), (0.0, 0.05 * 0.98)],
    ids=["on target", "10 % over", "clipped above", "clipped below"],
)
def test_adaptive_beta(observed: float, expected: float) -> None:
    found = kl.adaptive_beta(0.05, observed, target=6.0, horizon=10_000, sequences=1000)
    assert found == pytest.approx(expected)


def test_beta_stays_above_zero_however_many_sequences_an_update_speaks_for() -> None:
    one, many = (
        kl.adaptive_beta(0.05, 0.0, target=6.0, horizon=1_000, sequences=count, clip=0.2) for count in (1_000, 50_000)
    )
    assert one == pytest.approx(0.05 * 0.8)
    assert many == one
    assert kl.adaptive_beta(0.05, 60.0, target=6.0, horizon=1_000, sequences=50_000) == pytest.approx(0.05 * 1.2)


def test_weighted_kl_without_drift_is_the_plain_mean() -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    mask = torch.tensor([[True, True], [True, False]])
    found = kl.importance_weighted_kl(values, torch.zeros(2, 2), mask, cap=5)
    assert found.item() == pytest.approx(3.0)


def test_weighted_kl_weights_a_position_by_its_prefix_only() -> None:
    values = torch.tensor([[1.0, 2.0], [1.0, 10.0]])
    log_ratio = torch.tensor([[math.log(3.0), 9.0], [0.0, -9.0]])  # prefix ratios before token 2: 3 and 1
    found = kl.importance_weighted_kl(values, log_ratio, torch.ones(2, 2, dtype=torch.bool), cap=5)
    assert found.item() == pytest.approx(1 + 0.75 * 2 + 0.25 * 10)
    capped = kl.importance_weighted_kl(values, log_ratio, torch.ones(2, 2, dtype=torch.bool), cap=1)
    assert capped.item() == pytest.approx(1 + 6)
