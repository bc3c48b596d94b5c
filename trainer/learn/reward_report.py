"""How a reward model came out: calibrated probabilities, reliability diagrams, accuracy by slice of held-out labels.

Knows a reward model and labels; never trains. The figures over all labels are `RewardModel.evaluate`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from schemas.reports import AspectReport, Curves, LabelSlice, ReliabilityBin, RewardReport
from trainer.data import PreferencePair, RatedAnswer, ThumbedAnswer, TokenPair
from trainer.learn.progress import Progress
from trainer.learn.reward_model import Cohort, RewardModel, rating_accuracy

_UNKNOWN = Cohort(1.0, 0.0)
_STAGE = "reward_model"


class RecordedSteps:
    """A `Progress` that keeps the metrics of the reward model's training steps and hands everything on."""

    def __init__(self, then: Progress) -> None:
        self._then = then
        self.history: list[dict[str, float]] = []

    def __call__(self, stage: str, done: int, total: int, metrics: Mapping[str, float]) -> None:
        if stage == _STAGE:
            self.history.append(dict(metrics))
        self._then(stage, done, total, metrics)


def liked_probability(model: RewardModel, answers: Sequence[TokenPair], cohorts: Sequence[str]) -> Tensor:
    """The probability [N] that a voter of each cohort likes each answer: sigmoid(scale x raw score + bias), float64."""
    known = [model.cohorts.get(name, _UNKNOWN) for name in cohorts]
    scale = torch.tensor([cohort.scale for cohort in known], dtype=torch.float64)
    bias = torch.tensor([cohort.bias for cohort in known], dtype=torch.float64)
    return torch.sigmoid(scale * model.raw_scores(answers).double() + bias)


def reward_report(
    model: RewardModel,
    pairs: Sequence[PreferencePair],
    thumbs: Sequence[ThumbedAnswer],
    ratings: Sequence[RatedAnswer] = (),
    *,
    learnt_from: Mapping[str, int],
    figures: Mapping[str, float],
    curves: Curves,
    aspects: Sequence[AspectReport] = (),
) -> RewardReport:
    """The report on held-out labels; ties say nothing of which answer is better and are left out of slices and bins.

    Args:
        learnt_from: how many labels of each kind it was trained on.
        figures: of `RewardModel.evaluate`, finite.
        curves: of its training.
        aspects: of its heads.
    """
    untied = [pair for pair in pairs if not pair.tie]
    slices: list[LabelSlice] = []
    of_pairs: tuple[ReliabilityBin, ...] = ()
    of_thumbs: tuple[ReliabilityBin, ...] = ()
    if untied:
        better = model.raw_scores([(pair.prompt_ids, pair.chosen_ids) for pair in untied])
        worse = model.raw_scores([(pair.prompt_ids, pair.rejected_ids) for pair in untied])
        margins = (better - worse).double()
        won = torch.sigmoid(margins)
        # Chosen always comes first, so each pair is read both ways: otherwise every outcome would be 1.
        of_pairs = reliability(torch.cat([won, 1 - won]), torch.cat([torch.ones_like(won), torch.zeros_like(won)]))
        right = (margins > 0).double() + 0.5 * (margins == 0).double()
        for by, names in (
            ("kind", [pair.source for pair in untied]),
            ("source", [pair.speaker for pair in untied]),
            ("heldout", [pair.heldout for pair in untied]),
        ):
            slices += _slices(by, names, "pairs", right)
    if thumbs:
        stated = liked_probability(
            model, [(item.prompt_ids, item.answer_ids) for item in thumbs], [item.cohort for item in thumbs]
        )
        liked = torch.tensor([item.liked for item in thumbs])
        of_thumbs = reliability(stated, liked.double())
        right = ((stated > 0.5) == liked).double()
        slices += _slices("source", [item.cohort for item in thumbs], "thumbs", right)
        slices += _slices("heldout", [item.heldout for item in thumbs], "thumbs", right)
    if ratings:
        scores = model.raw_scores([(item.prompt_ids, item.answer_ids) for item in ratings])
        slices += _slices_of_ratings("source", [item.cohort for item in ratings], scores, ratings)
        slices += _slices_of_ratings("heldout", [item.heldout for item in ratings], scores, ratings)
    return RewardReport(
        learnt_from=dict(learnt_from),
        figures=dict(figures),
        slices=tuple(slices),
        reliability_pairs=of_pairs,
        reliability_thumbs=of_thumbs,
        curves=curves,
        aspects=tuple(aspects),
    )


def reliability(stated: Tensor, happened: Tensor, bins: int = 10) -> tuple[ReliabilityBin, ...]:
    """The bins of a reliability diagram (equal width, empty ones left out), ascending.

    Their gaps weighted by their counts add up to `preference.expected_calibration_error` with as many bins.

    Args:
        stated: probabilities [N]; happened: 0 or 1, [N].

    Source: Niculescu-Mizil and Caruana 2005.
    """
    place = (stated.double() * bins).long().clamp(0, bins - 1)
    return tuple(
        ReliabilityBin(
            stated=float(stated[place == number].double().mean()),
            observed=float(happened[place == number].double().mean()),
            count=int((place == number).sum()),
        )
        for number in range(bins)
        if bool((place == number).any())
    )


def _slices_of_ratings(
    by: str, names: Sequence[str], scores: Tensor, ratings: Sequence[RatedAnswer]
) -> Iterator[LabelSlice]:
    for name in sorted(set(names) - {""}):
        rows = [row for row, one in enumerate(names) if one == name]
        told = rating_accuracy(scores[rows], [ratings[row] for row in rows])
        if told is not None:
            yield LabelSlice(by=by, name=name, labels="ratings", count=len(rows), accuracy=told)


def _slices(by: str, names: Sequence[str], labels: str, right: Tensor) -> Iterator[LabelSlice]:
    for name in sorted(set(names) - {""}):
        rows = torch.tensor([one == name for one in names])
        yield LabelSlice(by=by, name=name, labels=labels, count=int(rows.sum()), accuracy=float(right[rows].mean()))
