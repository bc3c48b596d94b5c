"""The critic's warm-up: a linear value head fitted in closed form on the frozen base's states.

A fresh critic's adapter starts as the base itself, so the states come with the reference's forward pass for free, and
the least-squares head is where its training would take long to arrive. Knows states and returns, no tokens.

Values of one half of the answers are predicted by a head fitted on the other half: a head's own answers would look
better predicted than they are, and their advantages would shrink. The same halves choose the ridge penalty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LinearHead:
    """value = states @ weight + bias; weight float32 [H], bias a number."""

    weight: Tensor
    bias: float

    def __call__(self, states: Tensor) -> Tensor:
        """Values [...] of states [..., H]."""
        return states.float() @ self.weight + self.bias


def fit_heads(states: Tensor, returns: Tensor, penalties: Sequence[float]) -> list[LinearHead]:
    """Ridge regressions of returns [N] on states [N, H], one for each penalty; features standardised, intercept free.

    Solves (X'X / N + penalty I) w = X'y / N in float64 by one eigendecomposition.
    """
    states, returns = states.double(), returns.double()
    mean, deviation = states.mean(0), states.std(0, unbiased=False).clamp(min=1e-6)
    features, target = (states - mean) / deviation, returns - returns.mean()
    values, vectors = torch.linalg.eigh(features.T @ features / states.shape[0])
    projected = vectors.T @ (features.T @ target / states.shape[0])
    heads = []
    for penalty in penalties:
        weight = vectors @ (projected / (values.clamp(min=0) + penalty)) / deviation
        heads.append(LinearHead(weight.float(), float(returns.mean() - mean @ weight)))
    return heads


def cross_fitted_values(
    states: Tensor, returns: Tensor, owner: Tensor, halves: Tensor, penalties: Sequence[float]
) -> tuple[Tensor, LinearHead]:
    """Values [N] of token states [N, H], each predicted from answers of the other half, and the head of all answers.

    Args:
        returns: [N] Monte Carlo returns.
        owner: int64 [N], the answer each token belongs to.
        halves: bool by answer; answers to one prompt must lie in one half. With one half empty, all of them share one
            head at the largest penalty.
        penalties: candidates; the one with the least squared error across the halves is used.
    """
    second = halves[owner]
    if bool(second.all()) or not bool(second.any()):
        head = fit_heads(states, returns, [max(penalties)])[0]
        return head(states), head
    found = torch.zeros(len(penalties), returns.shape[0])
    for part in (second, ~second):
        for place, head in enumerate(fit_heads(states[~part], returns[~part], penalties)):
            found[place, part] = head(states[part])
    best = int(((found - returns) ** 2).mean(1).argmin())
    return found[best], fit_heads(states, returns, [penalties[best]])[0]
