"""Estimators of the KL divergence from samples, and the controller of its coefficient.

Convention: the samples come from p, and an estimator estimates KL(p || q) in nats. All shapes are [B, A] (answers by
token) unless said otherwise. Source of k1, k2, k3: Schulman, "Approximating KL divergence" (2020).
"""

from __future__ import annotations

import torch
from torch import Tensor


def k1(log_p: Tensor, log_q: Tensor) -> Tensor:
    """log p - log q: unbiased, high variance, may be negative."""
    return log_p - log_q


def k2(log_p: Tensor, log_q: Tensor) -> Tensor:
    """(log p - log q)^2 / 2: biased, low variance; its gradient is that of the KL."""
    return 0.5 * (log_p - log_q) ** 2


def k3(log_p: Tensor, log_q: Tensor) -> Tensor:
    """q/p - 1 - log(q/p): unbiased, never negative, heavy-tailed where q is much larger than p."""
    log_ratio = log_q - log_p
    return torch.expm1(log_ratio) - log_ratio


def per_token(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over all tokens under `mask`: nats per token. Scalar."""
    return torch.where(mask, values, 0.0).sum() / mask.sum()


def per_sequence(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over answers of the sum over their tokens: nats per sequence. Scalar."""
    return torch.where(mask, values, 0.0).sum() / mask.shape[0]


def full_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Exact KL(p || q) of whole distributions, nats: log-probabilities [..., V] in, [...] out."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def entropy(log_p: Tensor) -> Tensor:
    """Entropy of whole distributions, nats: log-probabilities [..., V] in, [...] out."""
    return -(log_p.exp() * log_p).sum(-1)


def adaptive_beta(
    beta: float, observed: float, *, target: float, horizon: float, sequences: int, clip: float = 0.2
) -> float:
    """The next KL coefficient, pulled so that the observed KL meets the target.

    beta * (1 + clip(observed / target - 1, -clip, clip) * sequences / horizon); `observed` and `target` in nats per
    sequence, `horizon` in sequences, `clip` below 1. Source: Ziegler et al. 2019, section 2.2 (lm-human-preferences).

    Departure: sequences beyond a horizon do not count. The paper updates after each small batch; here all answers of an
    epoch may be one update, and a line drawn over several horizons leads to 0 and below, whence nothing comes back.
    """
    error = min(max(observed / target - 1.0, -clip), clip)
    return beta * (1.0 + error * min(sequences / horizon, 1.0))


def importance_weighted_kl(values: Tensor, log_ratio: Tensor, mask: Tensor, *, cap: float) -> Tensor:
    """KL per sequence (nats) of the present policy, from answers that an older policy sampled.

    Sum over tokens t of the self-normalised mean over answers of w_t * values_t, where w_t is the probability ratio
    of the prefix before t (so that contexts are weighted as the present policy visits them), cut at `cap`. Answers
    that ended before t count as zeros, with the weight of their whole.

    Args:
        values: [B, A] KL of the next-token distribution at each position.
        log_ratio: [B, A] log pi_now - log pi_behaviour of each sampled token.
        mask: [B, A] bool.
        cap: largest prefix ratio, bounding the variance at the price of bias.

    Source: per-decision importance sampling (Precup et al. 2000), self-normalised, truncated (Ionides 2008).
    """
    clean = torch.where(mask, log_ratio, 0.0).double()
    prefix = torch.cumsum(clean, dim=1) - clean
    weights = prefix.exp().clamp(max=cap)
    weights = weights / weights.sum(dim=0, keepdim=True)
    return (weights * torch.where(mask, values, 0.0).double()).sum()
