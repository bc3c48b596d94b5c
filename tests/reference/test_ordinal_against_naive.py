"""The likelihood of ratings against plain double-precision loops."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import Tensor

from trainer.algorithms import ordinal


def _naive(score: float, stars: int, numbers: list[float], rater: int) -> float:
    """McCullagh 1980 by its words: the chance of at most k stars is logistic in threshold k less the location."""
    location = math.exp(numbers[0]) * score + numbers[5 + rater]
    thresholds = [numbers[1] + sum(math.exp(gap) for gap in numbers[2 : 2 + k]) for k in range(4)]
    at_most = [0.0, *(1 / (1 + math.exp(location - threshold)) for threshold in thresholds), 1.0]
    return -math.log(at_most[stars] - at_most[stars - 1])


def _case(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rng = random.Random(seed)
    numbers = [rng.uniform(-1, 1) for _ in range(5 + 3)]
    scores = [rng.uniform(-3, 3) for _ in range(10)]
    stars, raters = [n % 5 + 1 for n in range(10)], [rng.randrange(3) for _ in range(10)]
    return torch.tensor(numbers), torch.tensor(scores), torch.tensor(stars), torch.tensor(raters)


def _losses(numbers: Tensor, scores: Tensor, stars: Tensor, raters: Tensor) -> Tensor:
    scale, thresholds, offsets = ordinal.read(numbers)
    return ordinal.rating_losses(scale * scores + offsets[raters], stars, thresholds)


@pytest.mark.parametrize("seed", range(3))
def test_ratings(seed: int) -> None:
    numbers, scores, stars, raters = _case(seed)
    expected = [
        _naive(score, star, numbers.tolist(), rater)
        for score, star, rater in zip(scores.tolist(), stars.tolist(), raters.tolist(), strict=True)
    ]
    assert _losses(numbers, scores, stars, raters).tolist() == pytest.approx(expected, abs=1e-4)
