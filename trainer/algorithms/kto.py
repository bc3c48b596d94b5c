"""Kahneman-Tversky optimisation (Ethayarajh et al. 2024): single answers, each liked or not.

Tensors are [N] answers; a log ratio is log pi(y|x) - log pi_ref(y|x) of a whole answer, nats.
"""

from __future__ import annotations

import torch
from torch import Tensor


def reference_point(mismatched: Tensor) -> Tensor:
    """z0, what a gain is measured against: max(0, mean log ratio of answers to *other* prompts). Scalar, detached.

    A biased estimate of KL(pi || pi_ref) without sampling: each prompt with the answer of another one in the same
    optimiser step. Args: `mismatched` [N], the log ratios of those.
    """
    return mismatched.mean().clamp(min=0).detach()


def kto_losses(log_ratios: Tensor, liked: Tensor, z0: Tensor, *, beta: float) -> Tensor:
    """1 - sigmoid(beta (r - z0)) for liked answers, 1 - sigmoid(beta (z0 - r)) for others. [N], with gradient.

    Equation 7 with the weights lambda left to the caller (`class_weights`); `liked` is bool.
    """
    gain = log_ratios - z0
    return torch.sigmoid(-beta * torch.where(liked, gain, -gain))


def class_weights(liked: float, disliked: float, ratio: float) -> tuple[float, float]:
    """(lambda_D, lambda_U) with lambda_D n_D / (lambda_U n_U) = `ratio`, and the total weight as it was (equation 8).

    Args:
        liked: n_D, sum of the weights of liked answers.
        disliked: n_U, of the others.

    Where there is only one kind, both are 1.
    """
    if liked == 0 or disliked == 0:
        return 1.0, 1.0
    share = (liked + disliked) / (1 + ratio)
    return ratio * share / liked, share / disliked
