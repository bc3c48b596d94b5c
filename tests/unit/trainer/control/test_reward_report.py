"""The report of a reward model: bins, slices and probabilities on labels whose right answers are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import Tensor

from schemas.reports import Curves
from trainer.algorithms.preference import expected_calibration_error
from trainer.data import PreferencePair, RatedAnswer, ThumbedAnswer, TokenPair
from trainer.learn.reward_model import Cohort, RatingScale, RewardModel
from trainer.learn.reward_report import RecordedSteps, liked_probability, reliability, reward_report

NONE = Curves(steps=(), series={})


def _model() -> RewardModel:
    """Scores an answer by its first token; kind voters like nearly all."""

    def raw_scores(answers: Sequence[TokenPair]) -> Tensor:
        return torch.tensor([float(answer[0]) for _, answer in answers])

    cohorts = {"user": Cohort(1.0, 0.0), "rater": Cohort(2.0, -1.0)}
    return cast("RewardModel", SimpleNamespace(raw_scores=raw_scores, cohorts=cohorts))


def _pair(
    chosen: int, rejected: int, *, tie: bool = False, speaker: str = "user", heldout: str = "user"
) -> PreferencePair:
    return PreferencePair((9,), (chosen,), (rejected,), tie, 1.0, "u", "comparison", "s", speaker, heldout)


def test_bins_by_hand() -> None:
    stated, happened = torch.tensor([0.05, 0.07, 0.5, 1.0]), torch.tensor([0, 1, 1, 1])
    low, middle, high = reliability(stated, happened)
    assert (low.stated, low.observed, low.count) == (pytest.approx(0.06), 0.5, 2)
    assert (middle.stated, middle.observed, middle.count) == (0.5, 1.0, 1)
    assert (high.stated, high.count) == (1.0, 1)


def test_the_bins_gaps_are_the_calibration_error() -> None:
    generator = torch.Generator().manual_seed(0)
    stated = torch.rand(200, generator=generator)
    happened = torch.bernoulli(stated**2, generator=generator)
    gaps = sum(abs(one.stated - one.observed) * one.count for one in reliability(stated, happened)) / 200
    assert gaps == pytest.approx(expected_calibration_error(stated, happened), abs=1e-6)


def test_probabilities_are_those_of_the_voter_s_cohort() -> None:
    answers: list[TokenPair] = [((9,), (1,))] * 3
    found = liked_probability(_model(), answers, ["user", "rater", "nobody known"])
    one = 1 / (1 + math.exp(-1))
    assert found.tolist() == pytest.approx([one, one, one])
    assert float(liked_probability(_model(), [((9,), (2,))], ["rater"])) == pytest.approx(1 / (1 + math.exp(-3)))


def test_slices_count_what_they_are_about() -> None:
    pairs = [
        _pair(3, 1),
        _pair(1, 3, heldout="time"),
        _pair(2, 2, speaker="rater"),  # an exact tie of scores is half right
        _pair(5, 1, tie=True),
    ]
    thumbs = [
        ThumbedAnswer((9,), (3,), True, "user", 1.0, "u", heldout="user"),
        ThumbedAnswer((9,), (3,), False, "user", 1.0, "u", heldout="time"),
    ]
    # One rater's stars go with the scores, the other's against them but once; a single rating orders nothing.
    stars = [("a", 1, 2), ("a", 2, 4), ("b", 1, 3), ("b", 2, 1), ("b", 3, 5), ("c", 1, 5)]
    ratings = [
        RatedAnswer((9,), (score,), given, "rater" if who == "c" else "user", 1.0, who, heldout="user")
        for who, score, given in stars
    ]
    report = reward_report(
        _model(), pairs, thumbs, ratings, learnt_from={"pairs": 8}, figures={"margin": 0.5}, curves=NONE
    )
    found = {(one.by, one.name, one.labels): (one.count, one.accuracy) for one in report.slices}
    assert found == {
        ("kind", "comparison", "pairs"): (3, 0.5),
        ("source", "rater", "pairs"): (1, 0.5),
        ("source", "user", "pairs"): (2, 0.5),
        ("heldout", "time", "pairs"): (1, 0.0),
        ("heldout", "user", "pairs"): (2, 0.75),
        ("source", "user", "thumbs"): (2, 0.5),
        ("heldout", "time", "thumbs"): (1, 0.0),
        ("heldout", "user", "thumbs"): (1, 1.0),
        ("source", "user", "ratings"): (5, pytest.approx((1 + 2 / 3) / 2)),
        ("heldout", "user", "ratings"): (6, pytest.approx((1 + 2 / 3) / 2)),
    }
    assert sum(one.count for one in report.reliability_pairs) == 6, "each pair both ways"
    assert sum(one.count for one in report.reliability_thumbs) == 2
    assert (report.learnt_from, report.figures) == ({"pairs": 8}, {"margin": 0.5})


def test_without_labels_a_report_is_empty_and_whole() -> None:
    report = reward_report(_model(), [], [], learnt_from={}, figures={}, curves=NONE)
    assert (report.slices, report.reliability_pairs, report.reliability_thumbs) == ((), (), ())


def test_steps_of_the_reward_model_alone_are_kept_and_all_are_handed_on() -> None:
    seen: list[str] = []
    steps = RecordedSteps(lambda stage, done, total, metrics: seen.append(stage))
    steps("reward_probe", 1, 1, {})
    steps("reward_model", 1, 2, {"loss": 0.7})
    assert seen == ["reward_probe", "reward_model"]
    assert steps.history == [{"loss": 0.7}]


def test_stars_say_how_a_thumb_would_be_pressed() -> None:
    """Four and five stars against one and two: even where the two are as likely, and as steep there."""
    scale = RatingScale(1.5, (-2.0, -0.5, 0.9, 2.2))

    def log_odds(score: float) -> float:
        at_most = [1 / (1 + math.exp(1.5 * score - threshold)) for threshold in scale.thresholds]
        return math.log((1 - at_most[2]) / at_most[1])

    cohort = scale.cohort()
    even = -cohort.bias / cohort.scale
    assert log_odds(even) == pytest.approx(0, abs=1e-9)
    assert (log_odds(even + 1e-4) - log_odds(even - 1e-4)) / 2e-4 == pytest.approx(cohort.scale, rel=1e-6)
