"""How far a judge orders people's preferences as they did, and how sure that is. Knows preferences and scores alone.

Preferences of one person are no independent trials: who likes what the judge likes agrees with it again and again. So
the interval comes from a bootstrap over people. Among few people a bootstrap is too narrow, and of one person it is a
point; so the interval is never narrower than that of independent trials (Wilson), and whoever decides by it asks for a
number of people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.algorithms.off_policy import numbered, people_resampled, percentile_interval
from trainer.gates.couples import Couple
from trainer.gates.statistics import wilson_interval
from trainer.gates.value import DRAWS

_SEED = 0
"""The same preferences have the same interval, whoever asks."""


@dataclass(frozen=True)
class Agreed:
    """How a judge orders preferences."""

    right: tuple[float, ...] = ()
    """Of each preference: 1 as it was said, 0 the other way round, a half where the judge sees no difference."""
    people: tuple[str, ...] = ()
    """Who said each."""

    @classmethod
    def of(cls, said: Sequence[Couple], margins: Tensor) -> Agreed:
        """By the judge's score of each better answer minus that of the worse one, [N]."""
        right = (margins > 0).double() + 0.5 * (margins == 0).double()  # what is no number agrees with nobody
        return cls(tuple(right.tolist()), tuple(couple.person for couple in said))

    @property
    def share(self) -> float | None:
        """Of preferences ordered as they were said, 0..1; None of none."""
        return sum(self.right) / len(self.right) if self.right else None

    @property
    def heads(self) -> int:
        """How many people spoke."""
        return len(set(self.people))

    def interval(self, confidence: float) -> tuple[float, float]:
        """The two-sided interval of the share: the wider ends of a bootstrap over people and of Wilson's.

        Raises:
            InvalidInput: there are no preferences.
        """
        low, high = wilson_interval(sum(self.right), len(self.right), confidence)
        times = people_resampled(numbered(self.people), DRAWS, _SEED)
        drawn = (times @ torch.tensor(self.right, dtype=torch.float64)) / times.sum(1)
        drawn_low, drawn_high = percentile_interval(drawn, confidence)
        return min(low, drawn_low), max(high, drawn_high)

    def surely(self, confidence: float, least_people: int) -> bool:
        """Whether at least so many people spoke, and the judge orders more than half as they did, for sure."""
        return self.heads >= max(1, least_people) and self.interval(confidence)[0] > 0.5
