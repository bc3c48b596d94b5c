"""Several objectives as one reward: a score, aspects weighed by the operator, and floors that no merit buys back.

Departs from learnt or averaged multi-objective rewards (Wu et al. 2023, "Fine-grained human feedback", weigh as here):
a floor is lexicographic, so an answer below one gets less than any answer above all of them can. Knows numbers alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Objective(NamedTuple):
    """One aspect of N answers and what it counts for."""

    values: Tensor
    """[N], as people value the aspect: -1 to 1."""
    standard: Tensor
    """[N], the same in standard deviations of the reference answers."""
    weight: float
    """Reward for one standard deviation."""
    floor: float | None
    """Least value that is acceptable."""


def combined_reward(score: Tensor, objectives: Sequence[Objective], clip: float) -> Tensor:
    """score + sum_k weight_k x standard_k, each clipped at +-clip; where a value is below its floor, the least that
    this sum can be: -clip x (1 + sum_k |weight_k|). [N].

    Args:
        score: [N], in standard deviations of the reference answers.
    """
    total = score.clamp(-clip, clip)
    for one in objectives:
        total = total + one.weight * one.standard.clamp(-clip, clip)
    least = -clip * (1 + sum(abs(one.weight) for one in objectives))
    for one in objectives:
        if one.floor is not None:
            total = torch.where(one.values < one.floor, least, total)
    return total


def determination(predicted: Tensor, observed: Tensor) -> float:
    """R2 = 1 - sum (observed - predicted)^2 / sum (observed - mean)^2; below 0 where the mean would do better. Needs
    observations that differ."""
    residual = ((observed - predicted) ** 2).sum()
    return float(1 - residual / ((observed - observed.mean()) ** 2).sum())
