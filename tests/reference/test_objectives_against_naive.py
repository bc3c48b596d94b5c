"""The reward of several objectives against a plain loop in double precision."""

from __future__ import annotations

import random

import pytest
import torch

from trainer.algorithms.objectives import Objective, combined_reward, determination


@pytest.mark.parametrize("seed", range(3))
def test_combined_reward(seed: int) -> None:
    rng = random.Random(seed)
    count, clip = 50, 2.0
    score = [rng.gauss(0, 2) for _ in range(count)]
    rules = [(0.7, None), (-0.4, -0.5), (0.0, 0.1)]
    values = [[rng.uniform(-1, 1) for _ in range(count)] for _ in rules]
    mean, deviation = 0.1, 0.4
    expected = []
    for row in range(count):
        acceptable = all(floor is None or said[row] >= floor for said, (_, floor) in zip(values, rules, strict=True))
        total = max(-clip, min(clip, score[row]))
        for said, (weight, _) in zip(values, rules, strict=True):
            total += weight * max(-clip, min(clip, (said[row] - mean) / deviation))
        expected.append(total if acceptable else -clip * (1 + 0.7 + 0.4))
    objectives = [
        Objective(torch.tensor(said), (torch.tensor(said) - mean) / deviation, weight, floor)
        for said, (weight, floor) in zip(values, rules, strict=True)
    ]
    found = combined_reward(torch.tensor(score), objectives, clip).tolist()
    assert found == pytest.approx(expected, abs=1e-4)
    worst = min(found)
    assert all(one > worst or one == pytest.approx(-clip * 2.1) for one in found)


def test_determination() -> None:
    rng = random.Random(1)
    observed = [rng.gauss(0, 1) for _ in range(40)]
    predicted = [value + rng.gauss(0, 0.5) for value in observed]
    mean = sum(observed) / 40
    missed = sum((a - b) ** 2 for a, b in zip(observed, predicted, strict=True))
    expected = 1 - missed / sum((a - mean) ** 2 for a in observed)
    found = determination(torch.tensor(predicted), torch.tensor(observed))
    assert found == pytest.approx(expected, abs=1e-4)
