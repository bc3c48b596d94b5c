"""From scores to advantages: reward shaping, generalised advantage estimation, whitening.

All tensors are [B, A] (answers by token, right-padded); `mask` is bool and True on answer tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor


def shaped_rewards(scores: Tensor, log_p: Tensor, log_reference: Tensor, mask: Tensor, beta: float) -> Tensor:
    """Reward of each token: -beta * k1 everywhere, plus the answer's score at its last token. Detached.

    Args:
        scores: [B], standardised.
        log_p: logprobs of the policy that sampled.
        log_reference: logprobs of the frozen base.
        beta: reward units per nat.

    Source: Ziegler et al. 2019, equation 2. k1 in the reward has the unbiased gradient (arXiv 2512.21852).
    """
    penalty = torch.where(mask, log_p - log_reference, 0.0)
    rewards = -beta * penalty
    last = mask.sum(dim=1) - 1
    rows = torch.arange(mask.shape[0], device=mask.device)
    rewards[rows, last] += scores.to(rewards.dtype)
    return rewards.detach()


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95) -> tuple[Tensor, Tensor]:
    """Advantages and returns, both 0 where masked.

    delta_t = r_t + gamma V_{t+1} - V_t, A_t = delta_t + gamma lam A_{t+1}, R_t = A_t + V_t; after the last token,
    V and A are 0. Source: Schulman et al. 2016, equation 16.
    """
    rewards = torch.where(mask, rewards, 0.0)
    values = torch.where(mask, values, 0.0)
    advantages = torch.zeros_like(rewards)
    carried = torch.zeros_like(rewards[:, 0])
    following = torch.zeros_like(carried)
    for t in range(rewards.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * following - values[:, t]
        # Right padding: at masked positions all three terms are 0, so what is carried into the last token is 0.
        carried = delta + gamma * lam * carried
        advantages[:, t] = carried
        following = values[:, t]
    return torch.where(mask, advantages, 0.0), torch.where(mask, advantages + values, 0.0)


def whiten(values: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    """Shift and scale to mean 0 and (population) variance 1 over the mask; 0 where masked."""
    count = mask.sum()
    mean = torch.where(mask, values, 0.0).sum() / count
    centred = torch.where(mask, values - mean, 0.0)
    return centred * torch.rsqrt((centred**2).sum() / count + eps)
