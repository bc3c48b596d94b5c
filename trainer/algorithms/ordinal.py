"""Ratings as ordered categories: the cumulative-logit (proportional odds) model of McCullagh 1980, equation 2.

P(stars <= k) = sigmoid(threshold_k - location), location = scale x score + the rater's own offset. Thresholds and scale
are shared by all raters; an offset is drawn to 0 by a normal prior, so that a rater of few words is read as the common
one. Only the order of the stars is used, never that 4 were twice 2. Knows scores and stars; knows no people.

The learned numbers of R raters are one vector of 5 + R: log scale, first threshold, logs of the three gaps to the next
thresholds, offsets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

STARS = 5
_SHARED = STARS  # log scale, first threshold, three gaps


class Scale(NamedTuple):
    """How scores become stars."""

    scale: Tensor
    """Scalar > 0, logits per unit of score."""
    thresholds: Tensor
    """[4], rising, logits."""
    offsets: Tensor
    """[R], logits: above 0 for a rater who is kinder than the common one."""


def fresh(raters: int) -> Tensor:
    """Numbers to start from, float32 [5 + raters]: at score 0 each star is as likely, and raters are alike."""
    return packed(1.0, [math.log(k / (STARS - k)) for k in range(1, STARS)], raters)


def packed(scale: float, thresholds: Sequence[float], raters: int) -> Tensor:
    """Numbers of a known scale and known thresholds, every rater's offset 0; float32 [5 + raters]."""
    gaps = [math.log(high - low) for low, high in pairwise(thresholds)]
    return torch.tensor([math.log(scale), thresholds[0], *gaps, *[0.0] * raters])


def read(numbers: Tensor) -> Scale:
    """The numbers' meaning, with gradient."""
    first, gaps = numbers[1:2], numbers[2:_SHARED].exp()
    return Scale(numbers[0].exp(), torch.cat([first, first + gaps.cumsum(0)]), numbers[_SHARED:])


def rating_losses(location: Tensor, stars: Tensor, thresholds: Tensor) -> Tensor:
    """Negative log-likelihood of each rating. [N].

    -log(sigmoid(a) - sigmoid(b)) with a, b the thresholds around the stars, less the location; as
    sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), nothing is lost far from the thresholds.

    Args:
        location: [N], logits.
        stars: int64 [N], 1 to 5.
        thresholds: [4], rising.
    """
    lowest, highest = stars == 1, stars == STARS
    upper = thresholds[(stars - 1).clamp(max=STARS - 2)]
    lower = thresholds[(stars - 2).clamp(min=0)]
    gap = torch.where(lowest | highest, 1.0, upper - lower)
    below = torch.where(highest, 0.0, logsigmoid(upper - location))
    above = torch.where(lowest, 0.0, logsigmoid(location - lower))
    between = torch.where(lowest | highest, 0.0, torch.log(-torch.expm1(-gap)))
    return -(below + above + between)


def offset_losses(offsets: Tensor, deviation: float) -> Tensor:
    """Negative log prior of each offset, normal around 0 with this deviation (logits), up to a constant. [N]."""
    return offsets**2 / (2 * deviation**2)


def concordance(scores: Tensor, stars: Tensor) -> float | None:
    """Share of one rater's pairs of unequal stars that the scores order likewise; equal scores count half.

    None where all stars are equal. O(N log N). `scores` [N], `stars` int64 [N].
    """
    right = total = 0.0
    for level in range(1, STARS):
        fewer, more = scores[stars == level].sort().values, scores[stars > level]
        below = torch.searchsorted(fewer, more, right=False).sum()
        not_above = torch.searchsorted(fewer, more, right=True).sum()
        right += float(below + not_above) / 2
        total += fewer.numel() * more.numel()
    return right / total if total else None
