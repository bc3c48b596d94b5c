"""Learned numbers beside the reward model's score: how its readers put it into words.

Scale and bias of each cohort of thumbs, the tie threshold of pairs, and of ratings the scale, the thresholds and each
rater's offset. Offsets serve training alone and are stored nowhere: they are of persons.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from trainer.algorithms import ordinal
from trainer.algorithms.preference import thumb_losses
from trainer.learn.anchor import held_scale, hold
from trainer.learn.reward_model import Cohort, RatingScale
from trainer.learn.reward_units import Share, Unit, first_rows


class Extras(nn.Module):
    """Log-scale and bias per cohort, tie threshold eta = exp(log_eta), and `ordinal`'s numbers where there are raters.

    Args:
        known: scale of ratings to go on from; None: a fresh one.
    """

    def __init__(
        self, cohorts: dict[str, Cohort], eta: float, raters: Iterable[str] = (), known: RatingScale | None = None
    ) -> None:
        super().__init__()
        self.names = sorted(cohorts)
        self.log_scale = nn.Parameter(torch.tensor([cohorts[name].scale for name in self.names]).log())
        self.bias = nn.Parameter(torch.tensor([cohorts[name].bias for name in self.names]))
        self.log_eta = nn.Parameter(torch.tensor(eta).log())
        self.raters = {name: number for number, name in enumerate(sorted(set(raters)))}
        if self.raters:
            count = len(self.raters)
            start = ordinal.fresh(count) if known is None else ordinal.packed(known.scale, known.thresholds, count)
            self.ratings = nn.Parameter(start)

    def hold(self, units: Sequence[Unit]) -> None:
        """Keep what these units cannot tell where it is: without decided pairs one scale, and the tie threshold."""
        decided = sum(weight for unit in units for *_, tie, weight in unit.pairs if not tie)
        readers = dict.fromkeys(self.names, 0.0)
        for thumb in (unit.thumb for unit in units if unit.thumb):
            readers[thumb.cohort] += thumb.weight
        rated = sum(unit.rating.weight for unit in units if unit.rating)
        held = held_scale(decided, [*readers.values(), rated])
        if held is not None and held < len(self.names):
            hold(self.log_scale, held)
        elif held is not None:
            hold(self.ratings, 0)
        if not decided:
            self.log_eta.requires_grad_(False)

    def cohorts(self) -> dict[str, Cohort]:
        """What was learnt of the cohorts."""
        scales, biases = self.log_scale.exp().tolist(), self.bias.tolist()
        return {name: Cohort(scales[i], biases[i]) for i, name in enumerate(self.names)}

    def rating_scale(self) -> RatingScale | None:
        """What was learnt of ratings; None where there are none."""
        if not self.raters:
            return None
        scale, thresholds, _ = ordinal.read(self.ratings.detach())
        return RatingScale(float(scale), tuple(thresholds.tolist()))

    def thumbs_loss(self, group: Sequence[Unit], scores: Tensor) -> Tensor:
        """Weighted sum of the thumbs' losses in a group, whose answers have these scores; scalar."""
        found = [
            (row, unit.thumb) for row, unit in zip(first_rows(group), group, strict=True) if unit.thumb is not None
        ]
        if not found:
            return scores.new_zeros(())
        rows, thumbs = [row for row, _ in found], [thumb for _, thumb in found]
        cohort = torch.tensor([self.names.index(item.cohort) for item in thumbs], device=scores.device)
        liked = torch.tensor([item.liked for item in thumbs], device=scores.device)
        weights = torch.tensor([item.weight for item in thumbs], device=scores.device)
        return (weights * thumb_losses(scores[rows], liked, self.log_scale.exp()[cohort], self.bias[cohort])).sum()

    def ratings_loss(self, group: Sequence[Unit], scores: Tensor, share: Share, deviation: float) -> Tensor:
        """Weighted sum of the ratings' losses in a group, each with its part of the prior on its rater; scalar."""
        found = [(row, unit.rating) for row, unit in zip(first_rows(group), group, strict=True) if unit.rating]
        rows, ratings = [row for row, _ in found], [rating for _, rating in found]
        scale, thresholds, offsets = ordinal.read(self.ratings)
        rater = offsets[[self.raters[item.group] for item in ratings]]
        stars = torch.tensor([item.stars for item in ratings], device=scores.device)
        weights = torch.tensor([item.weight for item in ratings], device=scores.device)
        parts = torch.tensor([1 / share.ratings_of[item.group] for item in ratings], device=scores.device)
        losses = ordinal.rating_losses(scale * scores[rows] + rater, stars, thresholds)
        return (weights * losses).sum() + (parts * ordinal.offset_losses(rater, deviation)).sum()
