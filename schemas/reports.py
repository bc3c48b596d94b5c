"""What is kept beside a version and a reward model for whoever wants to know how they came out: curves and figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pydantic import Field

from schemas.base import Record

CURVES_FILE = "curves.json"
"""In a gate report's artifact: the policy's `Curves`."""
REWARD_REPORT_FILE = "report.json"
"""In a reward model's artifact: its `RewardReport`."""
_POINTS = 500


class Curves(Record):
    """Metrics over a training run, thinned to some hundred points; the last step is always there."""

    steps: tuple[int, ...] = Field(description="optimiser steps made, ascending")
    series: dict[str, tuple[float | None, ...]] = Field(
        description="metric -> its value at each of `steps`; null where it was not measured or not finite"
    )

    @classmethod
    def of(cls, history: Sequence[Mapping[str, float]], most: int = _POINTS) -> Curves:
        """The curves of a run whose metrics at step i + 1 are `history[i]`; six significant digits."""
        stride = max(1, math.ceil(len(history) / most))
        rows = [row for row in range(len(history)) if (len(history) - 1 - row) % stride == 0]
        names = sorted({name for row in rows for name in history[row]})
        return cls(
            steps=tuple(row + 1 for row in rows),
            series={name: tuple(_short(history[row].get(name)) for row in rows) for name in names},
        )


class ReliabilityBin(Record):
    """One bar of a reliability diagram: what was stated, and how often it came true."""

    stated: float = Field(description="mean probability")
    observed: float = Field(description="share that happened")
    count: int = Field(ge=1)


class LabelSlice(Record):
    """The reward model on one part of the held-out labels."""

    by: str = Field(description="kind (of feedback), source (who speaks) or heldout (user: new people; time: newest)")
    name: str
    labels: str = Field(description="pairs (without ties), thumbs or ratings")
    count: int = Field(ge=1)
    accuracy: float = Field(description="share ordered or told as people did; of ratings, as `accuracy_ratings`")


class AspectReport(Record):
    """How well one aspect is told on held-out values, and what it counts for."""

    name: str
    values: int = Field(ge=0, description="values learnt from")
    heldout: int = Field(ge=0, description="values judged on")
    correlation: float | None = Field(description="Pearson's r of told and given; None: too few values, or all equal")
    r2: float | None = Field(description="share of the variance told; below 0 where the mean would tell more")
    weight: float = Field(description="reward for one standard deviation; 0: counts for nothing")
    floor: float | None = Field(description="least acceptable value, -1 to 1")
    below_floor: float | None = Field(description="share of the turn's answers told to lie below it")


class RewardReport(Record):
    """How a reward model came out, on labels it was not trained on."""

    learnt_from: dict[str, int] = Field(description="labels by kind of data: pairs, thumbs, ratings")
    figures: dict[str, float] = Field(description="as `RewardModel.evaluate` names them")
    slices: tuple[LabelSlice, ...] = ()
    reliability_pairs: tuple[ReliabilityBin, ...] = Field(
        default=(), description="of P(first answer wins), each pair read both ways"
    )
    reliability_thumbs: tuple[ReliabilityBin, ...] = Field(default=(), description="of P(liked), by cohort")
    curves: Curves = Field(description="of its training; no steps where it was solved in closed form")
    aspects: tuple[AspectReport, ...] = Field(default=(), description="by name")


def _short(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")
