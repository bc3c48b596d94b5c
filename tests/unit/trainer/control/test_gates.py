"""Every gate with hand-made numbers: just inside, just outside, and with too little data."""

from __future__ import annotations

import math
import random

import pytest
import torch

from trainer.gates import drift, quality
from trainer.gates.agreed import Agreed
from trainer.gates.config import GateSettings
from trainer.gates.couples import Couple
from trainer.gates.judge import Evidence, failures_in_words, judge
from trainer.gates.measure import PolicyMeasurement

SETTINGS = GateSettings()


def test_kl_budget_is_hard_and_inclusive() -> None:
    assert drift.kl_budget(6.0, 6.0, SETTINGS).passed
    over = drift.kl_budget(6.01, 6.0, SETTINGS)
    assert not over.passed
    assert over.value == 6.01
    assert over.threshold == 6.0
    assert "over the budget of 6.00" in over.explanation


@pytest.mark.parametrize("kl", [None, float("nan"), float("inf")])
def test_kl_that_cannot_be_measured_fails_by_default(kl: float | None) -> None:
    result = drift.kl_budget(kl, 6.0, SETTINGS)
    assert not result.passed
    assert result.value is None
    lenient = SETTINGS.model_copy(update={"must_measure": ()})
    assert drift.kl_budget(kl, 6.0, lenient).passed


@pytest.mark.parametrize(("after", "passed"), [(12, True), (13, False), (5, True)])
def test_length_may_grow_by_a_fifth(after: int, passed: bool) -> None:
    result = drift.length_drift([after] * 16, [10] * 16, SETTINGS)
    assert result.passed is passed
    assert result.value == pytest.approx(after / 10 - 1)


def test_length_of_too_few_answers_is_not_judged() -> None:
    result = drift.length_drift([50] * 15, [10] * 15, SETTINGS)
    assert result.passed
    assert result.value is None
    assert "15 sampled answers are too few" in result.explanation
    strict = SETTINGS.model_copy(update={"must_measure": ("length_drift",)})
    assert not drift.length_drift([10] * 15, [10] * 15, strict).passed


@pytest.mark.parametrize(
    ("raw", "partial", "passed"),
    [(0.4, 0.9, True), (0.41, 0.41, False), (-0.6, -0.5, False), (-0.6, -0.1, True), (0.1, 0.6, True)],
)
def test_reward_for_length_fails_unless_verdicts_explain_it(raw: float, partial: float, passed: bool) -> None:
    assert drift.length_correlation(raw, partial, 20, SETTINGS).passed is passed


def test_reward_for_length_says_which_way() -> None:
    assert "pays for longer" in drift.length_correlation(0.5, 0.5, 20, SETTINGS).explanation
    assert "pays for shorter" in drift.length_correlation(-0.5, -0.5, 20, SETTINGS).explanation


def test_correlation_over_too_few_answers_is_not_judged() -> None:
    assert drift.length_correlation(0.9, 0.9, 15, SETTINGS).value is None
    assert drift.length_correlation(None, None, 20, SETTINGS).value is None


@pytest.mark.parametrize(("after", "passed"), [(0.71, True), (0.69, False), (1.5, True)])
def test_entropy_may_fall_by_three_tenths(after: float, passed: bool) -> None:
    assert drift.entropy_drop(after, 1.0, SETTINGS).passed is passed


def test_entropy_without_a_parents_is_not_judged() -> None:
    assert drift.entropy_drop(None, 1.0, SETTINGS).value is None
    assert drift.entropy_drop(1.0, 0.0, SETTINGS).value is None


def _agreed(right: int, pairs: int, people: int | None = None) -> Agreed:
    """So many of so many ordered rightly; each said by someone else, or by `people` in turn, one after the other."""
    per_person = 1 if people is None else pairs // people
    return Agreed(
        (1.0,) * right + (0.0,) * (pairs - right), tuple(f"p{number // per_person}" for number in range(pairs))
    )


def test_accuracy_must_beat_chance() -> None:
    # 20 of 30: Wilson 95 % from 48.8 %; 21 of 30: from 52.1 %.
    assert not quality.heldout_accuracy(_agreed(20, 30), None, SETTINGS).passed
    assert quality.heldout_accuracy(_agreed(21, 30), None, SETTINGS).passed


def test_many_words_of_one_person_are_not_as_many_trials() -> None:
    # 140 of 200: Wilson from 63 %. Of ten people with 20 words each, seven are agreed with always and three never.
    assert quality.heldout_accuracy(_agreed(140, 200), None, SETTINGS).passed
    result = quality.heldout_accuracy(_agreed(140, 200, people=10), None, SETTINGS)
    assert not result.passed
    assert "70.0% of 200 held-out preferences of 10 people rightly" in result.explanation
    assert "cannot be told from chance" in result.explanation


@pytest.mark.parametrize("seed", range(5))
def test_two_of_three_rightly_is_enough_of_thirty_people_and_chance_is_not(seed: int) -> None:
    for right, passed in ((60, True), (45, False)):
        order = [1.0] * right + [0.0] * (90 - right)
        random.Random(seed).shuffle(order)
        heldout = Agreed(tuple(order), tuple(f"p{number % 30}" for number in range(90)))
        assert quality.heldout_accuracy(heldout, None, SETTINGS).passed is passed


def test_accuracy_on_too_few_people_is_not_judged_and_not_passed() -> None:
    result = quality.heldout_accuracy(_agreed(90, 90, people=9), None, SETTINGS)
    assert not result.passed
    assert result.value is None
    assert "90 held-out preferences of 9 people are too few" in result.explanation
    assert quality.heldout_accuracy(_agreed(90, 90, people=10), None, SETTINGS).passed


def test_an_interval_is_never_narrower_than_that_of_independent_trials() -> None:
    low, high = _agreed(30, 30, people=1).interval(0.95)
    assert low == pytest.approx(0.886, abs=1e-3)  # Wilson: 1 / (1 + 1.96^2 / 30)
    assert high == 1.0
    assert Agreed().share is None
    assert not Agreed().surely(0.95, 0)


def test_equal_scores_count_half_and_what_is_no_number_agrees_with_nobody() -> None:
    said = [Couple(((1,), (2,)), ((1,), (3,)), person) for person in "abcd"]
    assert Agreed.of(said, torch.tensor([0.1, -0.1, 0.0, math.nan])).right == (1.0, 0.0, 0.5, 0.0)


def test_accuracy_of_too_few_pairs_is_not_judged_and_not_passed() -> None:
    result = quality.heldout_accuracy(_agreed(0, 29), 0.9, SETTINGS)
    assert not result.passed
    assert result.value is None
    assert "29 held-out preferences of 29 people are too few" in result.explanation
    lenient = SETTINGS.model_copy(update={"must_measure": ("kl_budget",)})
    assert quality.heldout_accuracy(_agreed(0, 29), 0.9, lenient).passed


def test_accuracy_may_not_fall_beyond_three_points_and_noise() -> None:
    # 700 of 1,000: interval 67.1 % to 72.8 %.
    assert quality.heldout_accuracy(_agreed(700, 1000), 0.72, SETTINGS).passed  # 2 points
    assert not quality.heldout_accuracy(_agreed(700, 1000), 0.76, SETTINGS).passed  # 6 points, outside
    # 70 of 100: interval 60.4 % to 78.1 %: a fall from 76 % is inside it.
    assert quality.heldout_accuracy(_agreed(70, 100), 0.76, SETTINGS).passed
    assert not quality.heldout_accuracy(_agreed(70, 100), 0.8, SETTINGS).passed


def test_abilities_may_be_swapped_but_not_lost_beyond_the_share() -> None:
    parent = {f"case-{number}": number != 0 for number in range(20)}
    one_lost = {**parent, "case-5": False}
    assert quality.retained_ability(one_lost, parent, SETTINGS).passed  # 1 of 20 = 5 %
    swapped = {**one_lost, "case-0": True, "case-6": False}
    result = quality.retained_ability(swapped, parent, SETTINGS)
    assert result.passed
    assert "Lost: case-5, case-6." in result.explanation
    assert not quality.retained_ability({**one_lost, "case-6": False}, parent, SETTINGS).passed


def test_one_newly_lost_attack_fails_and_a_gain_does_not_pay_for_it() -> None:
    parent = {"email": True, "phone": False}
    assert quality.red_team({"email": True, "phone": False}, parent, SETTINGS).passed
    swapped = quality.red_team({"email": False, "phone": True}, parent, SETTINGS)
    assert not swapped.passed
    assert swapped.value == 1
    assert "Newly gives way to: email." in swapped.explanation


def test_a_case_that_was_not_run_counts_as_lost() -> None:
    assert not quality.red_team({}, {"email": True}, SETTINGS).passed


def test_no_suite_says_so() -> None:
    assert quality.red_team({}, {}, SETTINGS).explanation.startswith("There is no red-team suite")
    assert quality.retained_ability({}, {}, SETTINGS).passed


def _evidence(kl: float, length: int) -> Evidence:
    return Evidence(
        candidate=PolicyMeasurement((length,) * 16, 1.0, kl),
        parent=PolicyMeasurement((10,) * 16, 1.0, 0.0),
        kl_nats_per_sequence=kl,
        kl_budget=6.0,
        length_correlation=0.1,
        length_correlation_partial=0.1,
        heldout_answers=20,
        heldout=_agreed(80, 100),
        previous_accuracy=None,
    )


def test_judge_runs_every_gate_and_one_failure_fails_the_report() -> None:
    good = judge(_evidence(1.0, 10), SETTINGS)
    assert good.passed
    assert failures_in_words(good) == ""
    assert [result.name for result in good.results] == [
        "kl_budget",
        "heldout_accuracy",
        "length_drift",
        "length_correlation",
        "entropy_drop",
        "retained_ability",
        "red_team",
        "off_policy_value",
        "audit_reward",
        "slices",
        "padding",
        "flattery",
    ]
    bad = judge(_evidence(7.0, 13), SETTINGS)
    assert not bad.passed
    assert [result.name for result in bad.results if not result.passed] == ["kl_budget", "length_drift"]
    assert "7.000 nats per sequence" in failures_in_words(bad)
    assert "+30.0%" in failures_in_words(bad)
