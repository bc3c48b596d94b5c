"""What top_k and top_p keep, and policies confined to it: on numbers worked by hand, and against loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.invariants.worlds import naive_kept
from trainer.algorithms.kl import entropy, full_kl
from trainer.algorithms.truncation import confine, kept_set

FOUR = torch.tensor([0.15, 0.5, 0.05, 0.3]).log()


def _kept(logits: Tensor, top_k: int = 0, top_p: float = 1.0) -> set[int]:
    found = kept_set(logits[None], torch.tensor([top_k]), torch.tensor([top_p]))
    return set(found[0].nonzero().flatten().tolist())


@pytest.mark.parametrize(
    ("top_k", "top_p", "expected"),
    [
        (0, 1.0, {0, 1, 2, 3}),
        (9, 1.0, {0, 1, 2, 3}),  # more than there are: off
        (1, 1.0, {1}),
        (2, 1.0, {1, 3}),
        (0, 0.81, {0, 1, 3}),  # the token that crosses p is kept: 0.5 + 0.3 < 0.81
        (0, 0.79, {1, 3}),
        (0, 0.4, {1}),
        (0, 1e-6, {1}),  # never nothing
        (2, 0.6, {1}),  # top_k first: of 0.625 and 0.375 the first alone reaches 0.6, of 0.5 and 0.3 it would not
        (3, 0.9, {0, 1, 3}),
    ],
)
def test_what_is_kept_of_four(top_k: int, top_p: float, expected: set[int]) -> None:
    assert _kept(FOUR, top_k, top_p) == expected


def test_a_tie_with_the_kth_is_kept() -> None:
    assert _kept(torch.tensor([1.0, 2.0, 1.0, 0.0]), top_k=2) == {0, 1, 2}


def test_each_row_has_its_own_parameters() -> None:
    found = kept_set(FOUR.expand(3, 4), torch.tensor([0, 2, 0]), torch.tensor([1.0, 1.0, 0.4]))
    assert found.sum(1).tolist() == [4, 2, 1]


def test_a_confined_policy_by_hand() -> None:
    kept = torch.tensor([False, True, False, True])
    log_p = torch.log_softmax(confine(FOUR, kept), -1)
    assert log_p[[1, 3]].tolist() == pytest.approx([math.log(5 / 8), math.log(3 / 8)])
    assert log_p.exp()[[0, 2]].tolist() == [0, 0]
    assert float(entropy(log_p)) == pytest.approx(-(5 / 8) * math.log(5 / 8) - (3 / 8) * math.log(3 / 8))
    other = torch.log_softmax(confine(torch.zeros(4), kept), -1)
    assert float(full_kl(log_p, other)) == pytest.approx(5 / 8 * math.log(5 / 4) + 3 / 8 * math.log(3 / 4))


def test_what_was_cut_gets_no_gradient() -> None:
    logits = FOUR.clone().requires_grad_()
    kept = torch.tensor([False, True, False, True])
    torch.autograd.backward(torch.log_softmax(confine(logits, kept), -1)[1])
    assert logits.grad is not None
    assert logits.grad.tolist() == pytest.approx([0, 3 / 8, 0, -3 / 8])


_LOGITS = st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=40)


@settings(deadline=None, max_examples=300)
@given(_LOGITS, st.integers(0, 45), st.floats(0.01, 1.0))
def test_kept_sets_against_a_loop(logits: list[float], top_k: int, top_p: float) -> None:
    sure = {top_p - 1e-5, top_p, min(1.0, top_p + 1e-5)}
    naive = {tuple(sorted(logits[token] for token in naive_kept(logits, top_k, p))) for p in sure}
    assume(len(naive) == 1)  # else a mass meets p, and rounding decides
    found = _kept(torch.tensor(logits), top_k, top_p)
    assert tuple(sorted(logits[token] for token in found)) in naive  # which of a tie is kept, nothing says


@settings(deadline=None, max_examples=200)
@given(_LOGITS, st.integers(0, 1000), st.integers(1, 40), st.floats(0.05, 1.0))
def test_the_ratio_of_confined_policies_has_mean_one(logits: list[float], seed: int, top_k: int, top_p: float) -> None:
    """E_mu[rho] = 1 for any policy, and of whole policies it is the mass that they keep."""
    behaviour = torch.tensor(logits, dtype=torch.float64)
    now = behaviour + torch.randn(len(logits), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    kept = kept_set(behaviour[None], torch.tensor([top_k]), torch.tensor([top_p]))[0]
    mu = torch.softmax(confine(behaviour, kept), -1)
    confined = torch.softmax(confine(now, kept), -1)
    whole = torch.softmax(now, -1)
    inside = mu > 0
    assert float((mu * (confined / mu))[inside].sum()) == pytest.approx(1)
    assert float((mu * (whole / mu))[inside].sum()) == pytest.approx(float(whole[kept].sum()))
    same = torch.softmax(confine(behaviour, kept), -1)
    assert torch.equal(same, mu)
