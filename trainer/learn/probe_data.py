"""What people said of answers, as the columns that a probe is fitted to, and the folds of voters that judge it.

Knows rows of states and verdicts; knows no loss, no tokens and no model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

FOLDS = 3


class Kept(NamedTuple):
    """Which labels count, bool [P], [T] and [N]."""

    pairs: Tensor
    thumbs: Tensor
    ratings: Tensor | None


@dataclass(frozen=True)
class ProbeRatings:
    """N ratings by R raters."""

    answers: Tensor
    """int64 [N], rows of the states."""
    stars: Tensor
    """int64 [N], 1 to 5."""
    weights: Tensor
    """float [N]."""
    raters: Tensor
    """int64 [N], whose offset a rating is read with, from 0."""
    voters: Tensor
    """int64 [N], fold-stable number of who spoke."""
    count: int
    """R."""


class ProbePair(NamedTuple):
    """One pair; `chosen` and `rejected` are rows of the states."""

    chosen: int
    rejected: int
    tie: bool
    weight: float
    voter: str
    """Who spoke."""


class ProbeThumb(NamedTuple):
    """One thumb; `answer` is a row of the states."""

    answer: int
    liked: bool
    weight: float
    voter: str
    """Who spoke."""
    cohort: int
    """Which scale and bias it is read with."""


@dataclass(frozen=True)
class ProbeData:
    """What people said of N answers; P pairs and T thumbs by V voters."""

    states: Tensor
    """float [N, H]."""
    chosen: Tensor
    """int64 [P], rows of `states`."""
    rejected: Tensor
    """int64 [P]."""
    ties: Tensor
    """bool [P]."""
    pair_weights: Tensor
    """float [P]."""
    pair_voters: Tensor
    """int64 [P], fold-stable number of who spoke."""
    thumbed: Tensor
    """int64 [T], rows of `states`."""
    liked: Tensor
    """bool [T]."""
    thumb_weights: Tensor
    """float [T]."""
    thumb_voters: Tensor
    """int64 [T]."""
    cohorts: Tensor
    """int64 [T], which scale and bias a thumb is read with."""
    ratings: ProbeRatings | None = None

    @classmethod
    def of(
        cls,
        states: Tensor,
        pairs: Sequence[ProbePair],
        thumbs: Sequence[ProbeThumb],
        ratings: ProbeRatings | None = None,
    ) -> ProbeData:
        """Labels one by one, as columns."""
        return cls(
            states=states,
            chosen=_whole([pair.chosen for pair in pairs]),
            rejected=_whole([pair.rejected for pair in pairs]),
            ties=torch.tensor([pair.tie for pair in pairs], dtype=torch.bool),
            pair_weights=torch.tensor([pair.weight for pair in pairs], dtype=torch.float32),
            pair_voters=_whole([voter_number(pair.voter) for pair in pairs]),
            thumbed=_whole([thumb.answer for thumb in thumbs]),
            liked=torch.tensor([thumb.liked for thumb in thumbs], dtype=torch.bool),
            thumb_weights=torch.tensor([thumb.weight for thumb in thumbs], dtype=torch.float32),
            thumb_voters=_whole([voter_number(thumb.voter) for thumb in thumbs]),
            cohorts=_whole([thumb.cohort for thumb in thumbs]),
            ratings=ratings,
        )

    def outside(self, fold: int | None) -> Kept:
        """Which labels are not in a fold; None: all."""
        left_out = FOLDS if fold is None else fold
        return Kept(
            self.pair_voters % FOLDS != left_out,
            self.thumb_voters % FOLDS != left_out,
            None if self.ratings is None else self.ratings.voters % FOLDS != left_out,
        )

    def inside(self, fold: int) -> Kept:
        """Which labels are in a fold."""
        pairs, thumbs, ratings = self.outside(fold)
        return Kept(~pairs, ~thumbs, None if ratings is None else ~ratings)

    def masses(self, cohorts: int, kept: Kept) -> tuple[float, list[float]]:
        """Weight of the decided pairs among `kept`; and of the thumbs of each cohort, then of the ratings if any."""
        decided = float(self.pair_weights[kept.pairs & ~self.ties].sum())
        thumbs = self.thumb_weights[kept.thumbs]
        readers = torch.bincount(self.cohorts[kept.thumbs], weights=thumbs, minlength=cohorts).tolist()
        if self.ratings is not None and kept.ratings is not None:
            readers.append(float(self.ratings.weights[kept.ratings].sum()))
        return decided, readers


def voter_number(name: str) -> int:
    """A voter's number, the same in every process; voters of equal number modulo `FOLDS` share a fold."""
    return int.from_bytes(hashlib.sha256(f"probe {name}".encode()).digest()[:6], "big")


def _whole(numbers: Sequence[int]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int64)
