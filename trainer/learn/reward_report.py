"""What a reward model's probabilities are worth: the calibrated chance that an answer is liked.

Knows a reward model and labels; never trains.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.data import TokenPair
from trainer.learn.reward_model import Cohort, RewardModel

_UNKNOWN = Cohort(1.0, 0.0)


def liked_probability(model: RewardModel, answers: Sequence[TokenPair], cohorts: Sequence[str]) -> Tensor:
    """The probability [N] that a voter of each cohort likes each answer: sigmoid(scale x raw score + bias), float64."""
    known = [model.cohorts.get(name, _UNKNOWN) for name in cohorts]
    scale = torch.tensor([cohort.scale for cohort in known], dtype=torch.float64)
    bias = torch.tensor([cohort.bias for cohort in known], dtype=torch.float64)
    return torch.sigmoid(scale * model.raw_scores(answers).double() + bias)
