"""The model card of a reward model: how well it tells what held-out people prefer, and what its numbers are worth.

Knows the report that the trainer lays beside a reward model; draws nothing itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from schemas.reports import AspectReport, ReliabilityBin, RewardReport
from trainer.cards.markdown import counts, figure, front_matter, table, text
from trainer.cards.pictures import REWARD_PANELS, has_curves

RELIABILITY_PICTURE = "reliability.png"
REWARD_CURVES_PICTURE = "reward-curves.png"
_FIGURES = {
    "accuracy_pairs": "share of held-out pairs ordered as people did",
    "margin": "mean score of chosen minus rejected, standard deviations",
    "ece_pairs": "expected calibration error of P(chosen wins), 10 bins",
    "accuracy_thumbs": "share of held-out thumbs told rightly",
    "accuracy_ratings": "share of a held-out rater's pairs of unequal stars ordered as by their stars",
    "ece_thumbs": "expected calibration error of P(liked), 10 bins",
    "corr_reward_length": "Pearson's r of score and answer length",
    "corr_reward_length_partial": "the same given people's verdicts",
}


def reward_card(report: RewardReport, *, digest: str, version: str, base_model: str | None = None) -> str:
    """README.md of the reward model `digest` that taught `version`."""
    parts = [
        front_matter(base_model=base_model, tags=("lora", "attune", "reward-model"), relation="adapter"),
        f"# Reward model of {version}\n",
        f"A LoRA adapter with a scalar head that tells which answers people like. Digest `{digest}`. It taught "
        f"{version} and was evidence for its gates; it serves nobody.\n",
        f"Learnt from: {counts(report.learnt_from)}. All figures below are on labels of people, or of a time, that it "
        "has not seen.\n",
        "## How often it is right\n",
        table(
            ("figure", "value", ""),
            (
                (text(name), figure(value), text(_FIGURES.get(name, "")))
                for name, value in sorted(report.figures.items())
            ),
        ),
        "## By kind, source and what was held out\n",
        table(
            ("by", "", "labels", "count", "accuracy"),
            (
                (text(one.by), text(one.name), text(one.labels), str(one.count), f"{one.accuracy:.1%}")
                for one in report.slices
            ),
        ),
        "## Are its probabilities what they say?\n",
    ]
    if report.reliability_pairs or report.reliability_thumbs:
        parts.append(f"![Reliability diagram]({RELIABILITY_PICTURE})\n")
    for name, bins in (("pairs", report.reliability_pairs), ("thumbs", report.reliability_thumbs)):
        if bins:
            parts += [f"{name.capitalize()}:\n", _bins(bins)]
    if report.aspects:
        parts += [
            "## Aspects\n",
            "What people said of single aspects, told on held-out values (r: Pearson's; R2: share of their variance). "
            "A weight is the operator's; an answer below a floor got the lowest reward.\n",
            _aspects(report.aspects),
        ]
    if has_curves(report.curves, REWARD_PANELS):
        parts += ["## Training\n", f"![Curves of its training]({REWARD_CURVES_PICTURE})\n"]
    return "\n".join(parts)


def _aspects(aspects: Sequence[AspectReport]) -> str:
    header = ("aspect", "learnt from", "held out", "r", "R2", "weight in the reward", "floor", "answers below it")
    rows = (
        (
            text(one.name),
            str(one.values),
            str(one.heldout),
            figure(one.correlation),
            figure(one.r2),
            figure(one.weight),
            figure(one.floor),
            figure(one.below_floor),
        )
        for one in aspects
    )
    return table(header, rows)


def _bins(bins: Sequence[ReliabilityBin]) -> str:
    rows = ((f"{one.stated:.1%}", f"{one.observed:.1%}", str(one.count)) for one in bins)
    return table(("stated", "observed", "count"), rows)
