"""Losses and figures of the reward model: pairs, ties, rankings, thumbs, calibration, length.

Scores are real numbers; only their differences speak in pairs. Tensors are [N] unless said otherwise.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid, softplus


@dataclass(frozen=True)
class RankedPair:
    """Two places of a ranking: indices of its items, and their weight in the loss."""

    chosen: int
    rejected: int
    tie: bool
    weight: float


def ranking_pairs(ranks: Sequence[int]) -> list[RankedPair]:
    """All pairs of a ranking of k items, each weighted 1/C(k,2), so that every ranking weighs the same.

    `ranks[i]` is the place of item i, 1 = best; equal places tie. Source: InstructGPT, section 3.5.
    """
    count = len(ranks) * (len(ranks) - 1) // 2
    pairs = []
    for first, second in itertools.combinations(range(len(ranks)), 2):
        better, worse = (first, second) if ranks[first] <= ranks[second] else (second, first)
        pairs.append(RankedPair(better, worse, ranks[first] == ranks[second], 1 / count))
    return pairs


def pair_losses(margin: Tensor, tie: Tensor, threshold: Tensor) -> Tensor:
    """Negative log-likelihood of each verdict under Rao-Kupper, which is Bradley-Terry at threshold 0. [N].

    P(win) = sigmoid(margin - threshold); P(tie) = 1 - sigmoid(margin - threshold) - sigmoid(-margin - threshold).

    Args:
        margin: score of the chosen minus that of the rejected answer.
        tie: bool.
        threshold: eta = log theta >= 0, scalar; must be > 0 where there are ties.

    Source: Rao and Kupper 1967; Bradley and Terry 1952.
    """
    win = -logsigmoid(margin - threshold)
    if not bool(tie.any()):
        return win
    drawn = softplus(threshold - margin) + softplus(threshold + margin) - torch.log(torch.expm1(2 * threshold))
    return torch.where(tie, drawn, win)


def thumb_losses(scores: Tensor, liked: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Binary cross-entropy of each thumb at logit scale * score + bias, both of the voter's cohort. [N]."""
    return binary_cross_entropy_with_logits(scale * scores + bias, liked.to(scores.dtype), reduction="none")


def centring(scores: Tensor) -> Tensor:
    """mean(score^2): keeps the free offset of the scores near 0 (Eisenstein et al. 2023; TRL). Scalar."""
    return (scores**2).mean()


def accuracy(margins: Tensor) -> float:
    """Share of untied pairs ordered as the rater did; equal scores count half."""
    return float(((margins > 0).double() + 0.5 * (margins == 0).double()).mean())


def expected_calibration_error(probabilities: Tensor, outcomes: Tensor, bins: int = 10) -> float:
    """Mean gap between stated probability and observed share, over equal-width bins weighted by their size.

    `probabilities` in [0, 1], `outcomes` 0 or 1. Source: Naeini et al. 2015.
    """
    place = (probabilities.double() * bins).long().clamp(0, bins - 1)
    total = 0.0
    for number in range(bins):
        inside = place == number
        if bool(inside.any()):
            gap = probabilities[inside].double().mean() - outcomes[inside].double().mean()
            total += float(gap.abs()) * int(inside.sum())
    return total / probabilities.numel()


def correlation(x: Tensor, y: Tensor) -> float:
    """Pearson's r; 0 where either does not vary."""
    a, b = x.double() - x.double().mean(), y.double() - y.double().mean()
    scale = float((a**2).sum() * (b**2).sum()) ** 0.5
    return float((a * b).sum()) / scale if scale > 0 else 0.0


def partial_correlation(x: Tensor, y: Tensor, given: Tensor) -> float:
    """Pearson's r of x and y after taking out what a straight line in `given` explains of each.

    (r_xy - r_xz r_yz) / sqrt((1 - r_xz^2)(1 - r_yz^2)); 0 where nothing is left. With `given` = the human verdict,
    this is the reward model's taste for length beyond that of the raters.
    """
    xy, xz, yz = correlation(x, y), correlation(x, given), correlation(y, given)
    left = (1 - xz**2) * (1 - yz**2)
    return (xy - xz * yz) / left**0.5 if left > 1e-12 else 0.0
