"""What is made of the points of a run: gold within a KL budget, areas, and paired intervals over seeds. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

BUDGETS = (0.1, 0.25, 0.5, 1.0)
"""Nats per sequence."""
_RESAMPLES = 10_000

Curve = Sequence[tuple[float, float]]
"""(KL, gold) of a run in the order of its steps, the base's first."""


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


def gold_within(curve: Curve, budget: float) -> float:
    """Gold where the run first reaches `budget`, straight between the points measured; where it never does, its end.

    That is what a hard budget on the KL leaves of a run: it is followed until it would exceed it.
    """
    for (near, before), (far, after) in pairwise(curve):
        if far >= budget:
            share = (budget - near) / (far - near) if far > near else 0.0
            return before + min(1.0, max(0.0, share)) * (after - before)
    return curve[-1][1]


def area(curve: Curve, budgets: Sequence[float] = BUDGETS) -> float:
    """Mean gain in gold over the base within each of the budgets: one figure for a whole trade of gold for KL."""
    return float(np.mean([gold_within(curve, budget) - curve[0][1] for budget in budgets]))


def peak_minus_final(curve: Curve) -> float:
    """How much gold the run had and lost again; at least 0."""
    return max(worth for _, worth in curve) - curve[-1][1]


def paired(differences: Sequence[float], seed: int = 0) -> Interval:
    """Mean difference over seeds, with the 95 % percentile interval of a bootstrap over them.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13. Equal inputs give equal intervals; with
    three seeds it says little more than the range.
    """
    values = np.asarray(differences, dtype=float)
    rows = np.random.default_rng(seed).integers(len(values), size=(_RESAMPLES, len(values)))
    low, high = np.quantile(values[rows].mean(axis=1), (0.025, 0.975))
    return Interval(float(values.mean()), float(low), float(high))
