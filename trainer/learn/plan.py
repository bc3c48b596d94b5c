"""Which examples make up each optimiser step, within the turn's compute budget. A pure function of lengths and seed.

Knows no model: a budget in tokens is kept before anything is computed, so equal data give equal runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class Plan:
    """The steps of a run."""

    steps: tuple[tuple[int, ...], ...]
    """Rows of each optimiser step."""
    epochs: tuple[int, ...]
    """The epoch of each step."""
    costs: tuple[int, ...]
    """Tokens of each step."""
    cut: bool
    """Whether the budget left steps out."""

    def ends_epoch(self, step: int) -> bool:
        """Whether `step` (from 0) is the last of its epoch in this plan."""
        return step + 1 == len(self.steps) or self.epochs[step + 1] != self.epochs[step]

    def size(self, epoch: int) -> int:
        """How many rows that epoch has."""
        return sum(len(rows) for rows, its in zip(self.steps, self.epochs, strict=True) if its == epoch)

    def compact(self) -> tuple[list[int], Plan]:
        """The rows that take part, sorted, and the plan over these alone: what is left out need not be prepared."""
        rows = sorted({row for step in self.steps for row in step})
        place = {row: number for number, row in enumerate(rows)}
        return rows, replace(self, steps=tuple(tuple(place[row] for row in step) for step in self.steps))


def make_plan(costs: Sequence[int], *, per_step: int, epochs: int, seed: int, max_tokens: int | None) -> Plan:
    """Each epoch a new shuffle, cut into steps of `per_step` rows; whole steps only, until the budget is spent.

    Args:
        costs: tokens that training on each row takes, once.
        max_tokens: of all steps together; None is no bound.
    """
    steps: list[tuple[int, ...]] = []
    of: list[int] = []
    spent: list[int] = []
    for epoch in range(epochs):
        # A function of seed and epoch, so a checkpoint has no generator to keep.
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(len(costs), generator=generator).tolist()
        for first in range(0, len(order), per_step):
            rows = tuple(order[first : first + per_step])
            cost = sum(costs[row] for row in rows)
            if max_tokens is not None and sum(spent) + cost > max_tokens:
                return Plan(tuple(steps), tuple(of), tuple(spent), cut=True)
            steps.append(rows)
            of.append(epoch)
            spent.append(cost)
    return Plan(tuple(steps), tuple(of), tuple(spent), cut=False)
