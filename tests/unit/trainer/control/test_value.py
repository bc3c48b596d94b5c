"""A candidate's value on logged, judged answers: what is measured, which answers count, and what the gate says."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from tests.invariants.worlds import logged, prompts, tiny_base
from tests.tiny_models import make_tiny_model
from trainer.data import JudgedAnswer, LoggedAnswer, RatedAnswer, ThumbedAnswer, TokenPair
from trainer.gates.config import GateSettings
from trainer.gates.off_policy import off_policy_value
from trainer.gates.slices import slice_values
from trainer.gates.value import PolicyOnLog, ValueComparison, compare_on_log, measure_on_log
from trainer.models.base import SharedBase
from trainer.snapshots.corpus import training_data
from trainer.snapshots.dataset import Dataset, Split

SETTINGS = GateSettings()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> SharedBase:
    return tiny_base(make_tiny_model(tmp_path_factory.mktemp("model")))


def _judged(answer: LoggedAnswer, *, liked: bool = True, group: str = "u") -> JudgedAnswer:
    return JudgedAnswer(answer, liked, "user", 1.0, group)


@pytest.mark.parametrize(("heat", "top_k", "top_p"), [(1.0, 0, 1.0), (0.7, 0, 1.0), (0.9, 5, 0.8)])
def test_the_behaviour_itself_has_ratios_of_1(base: SharedBase, heat: float, top_k: int, top_p: float) -> None:
    answers = logged(base, prompts(6, 1), None, seed=2, heat=heat, top_k=top_k, top_p=top_p)
    asked: list[str] = []

    def like(pairs: Sequence[TokenPair], cohorts: Sequence[str]) -> torch.Tensor:
        asked.extend(cohorts)
        return torch.full((6,), 0.25)

    judged = [_judged(answer) for answer in answers]
    found = measure_on_log(base, None, judged, like, max_new_tokens=4, batch_size=4, token_budget=64, seed=0)
    assert found.log_ratios.tolist() == pytest.approx([0.0] * 6, abs=1e-4)
    assert found.expected.tolist() == [0.25] * 6
    assert asked == ["user"] * 6


def test_what_the_policy_would_not_say_under_top_k_weighs_nothing(base: SharedBase) -> None:
    (answer,) = logged(base, prompts(1, 1), None, seed=5)
    greedy_only = replace(answer, top_k=1)

    def like(pairs: Sequence[TokenPair], cohorts: Sequence[str]) -> torch.Tensor:
        return torch.zeros(len(pairs))

    found = measure_on_log(
        base, None, [_judged(greedy_only)], like, max_new_tokens=2, batch_size=1, token_budget=64, seed=0
    )
    assert float(found.log_ratios) < -1e6


def test_answers_of_held_out_people_count_and_no_others() -> None:
    def answer(name: str) -> LoggedAnswer:
        return LoggedAnswer(name, "c", 0, (1,), (2,), (-1.0,), 1.0, 1.0, 0, 0, None, "ann")

    def thumb(name: str, cohort: str = "user") -> ThumbedAnswer:
        return ThumbedAnswer((1,), (2,), True, cohort, 2.0, "ann", name)

    heldout = Split((answer("a/0"), answer("b/0")), (), (thumb("a/0"), thumb("late/0"), thumb("b/0", "ai")), ())
    train = Split((answer("late/0"),), (), (thumb("late/0"),), ())
    (one,) = training_data(Dataset(train, heldout, {}), 0.5).judged
    assert (one.answer.sample_id, one.liked, one.cohort, one.weight, one.group) == ("a/0", True, "user", 2.0, "ann")


def test_judged_answers_to_one_prompt_count_for_the_tenant_that_each_was_given_to() -> None:
    """Two tenants ask the same; the candidate says what the second one's people dislike."""
    judged, candidate = [], []
    for row in range(120):
        tenant, liked = ("tenant acme", "tenant bolt")[row % 2], row % 4 < 2
        answer = LoggedAnswer(f"s{row}", "c", 0, (1,), (2,), (-1.0,), 1.0, 1.0, 0, 0, None, "u", (tenant,))
        judged.append(_judged(answer, liked=liked, group=f"u{row % 24}"))
        candidate.append(0.0 if tenant == "tenant acme" else -0.7 if liked else 0.7)
    ratios = torch.tensor(candidate, dtype=torch.float64)
    modelled = torch.full((120,), 0.5, dtype=torch.float64)
    policies = PolicyOnLog(ratios, modelled), PolicyOnLog(torch.zeros_like(ratios), modelled)
    acme, bolt = slice_values(judged, modelled, *policies, SETTINGS, 0)
    assert (acme.name, acme.answers, acme.gain.value) == ("tenant acme", 60, pytest.approx(0))
    assert (bolt.name, bolt.answers) == ("tenant bolt", 60)
    assert bolt.gain.high < 0


def test_judged_answers_come_in_the_order_of_their_verdicts_whatever_their_kind() -> None:
    answers = tuple(
        LoggedAnswer(f"{name}/0", name, 0, (1,), (2,), (-1.0,), 1.0, 1.0, 0, 0, None, "ann") for name in "abc"
    )
    thumbs = tuple(
        ThumbedAnswer((1,), (2,), True, "user", 1.0, "ann", f"{name}/0", at=at) for name, at in (("a", 1), ("c", 3))
    )
    rating = RatedAnswer((1,), (2,), 5, "user", 1.0, "ann", "b/0", at=2)
    heldout = Split(answers, (), thumbs, (), (rating,))
    found = training_data(Dataset(Split((), (), (), ()), heldout, {}), 0.5).judged
    assert [one.answer.completion_id for one in found] == ["a", "b", "c"]


def _comparison(shift: float, *, people: int = 24, seed: int = 0) -> ValueComparison:
    """120 answers, half liked; the candidate gives liked ones the log ratio `shift`, disliked ones -`shift`."""
    rng = random.Random(seed)
    judged, candidate = [], []
    for row in range(120):
        answer = LoggedAnswer(f"s{row}", "c", 0, (1,), (2,), (-1.0,), 1.0, 1.0, 0, 0, None, "u")
        liked = rng.random() < 0.5
        judged.append(_judged(answer, liked=liked, group=f"u{row % people}"))
        candidate.append(shift if liked else -shift)
    ratios = torch.tensor(candidate, dtype=torch.float64)
    modelled = torch.full((120,), 0.5, dtype=torch.float64)
    return compare_on_log(
        judged,
        modelled,
        PolicyOnLog(ratios, modelled),
        PolicyOnLog(torch.zeros_like(ratios), modelled),
        cap=10.0,
        confidence=0.95,
        seed=0,
    )


def test_a_candidate_that_says_what_was_disliked_fails_in_words() -> None:
    found = _comparison(-0.7)
    result = off_policy_value(found, 120, 24, SETTINGS)
    assert not result.passed
    assert result.value == pytest.approx(found.robust_gain.value)
    assert found.robust_gain.high < 0
    assert found.importance_gain.high < 0
    assert "120 judged answers of 24 held-out people" in result.explanation
    assert "both say that it is worse" in result.explanation


@pytest.mark.parametrize(("shift", "words"), [(0.7, "better, as far as"), (0.0, "not shown to be worse")])
def test_a_better_or_equal_candidate_passes(shift: float, words: str) -> None:
    result = off_policy_value(_comparison(shift), 120, 24, SETTINGS)
    assert result.passed
    assert words in result.explanation


def test_noise_refuses_nobody_more_often_than_the_confidence_allows() -> None:
    """A candidate as good as its parent: ratios that know nothing of the verdicts."""
    refused = 0
    for seed in range(40):
        noise = torch.randn(120, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) / 2
        rng = random.Random(seed)
        judged = [
            _judged(
                LoggedAnswer("s", "c", 0, (1,), (2,), (-1.0,), 1.0, 1.0, 0, 0, None, "u"),
                liked=rng.random() < 0.5,
                group=f"u{row % 24}",
            )
            for row in range(120)
        ]
        half = torch.full((120,), 0.5, dtype=torch.float64)
        found = compare_on_log(
            judged, half, PolicyOnLog(noise, half), PolicyOnLog(noise * 0, half), cap=10.0, confidence=0.95, seed=seed
        )
        refused += not off_policy_value(found, 120, 24, SETTINGS).passed
    assert refused <= 4


def test_estimates_that_disagree_refuse_nobody() -> None:
    found = _comparison(-0.7)
    doubtful = replace(found, robust_gain=replace(found.robust_gain, value=-0.1, low=-0.4, high=0.2))
    assert off_policy_value(doubtful, 120, 24, SETTINGS).passed
    assert not off_policy_value(found, 120, 24, SETTINGS).passed


def test_an_allowed_loss_is_allowed() -> None:
    opened = SETTINGS.model_copy(update={"max_value_drop": 1.0})
    assert off_policy_value(_comparison(-0.7), 120, 24, opened).passed


def test_too_little_is_not_judged_and_says_why() -> None:
    few = off_policy_value(None, 7, 3, SETTINGS)
    assert few.passed
    assert few.value is None
    assert few.explanation.startswith("7 judged answers of 3 held-out people are too few")
    far = _comparison(-9.0)
    assert far.candidate.effective_answers < 120
    narrow = SETTINGS.model_copy(update={"min_judged_answers": 100})
    result = off_policy_value(far, 120, 24, narrow)
    assert result.value is None
    assert "count effectively" in result.explanation
    strict = SETTINGS.model_copy(update={"must_measure": ("off_policy_value",)})
    assert not off_policy_value(None, 7, 3, strict).passed


def test_probabilities_that_are_no_numbers_are_not_a_value() -> None:
    found = _comparison(0.0)
    broken = replace(found, robust_gain=replace(found.robust_gain, value=float("nan")))
    result = off_policy_value(broken, 120, 24, SETTINGS)
    assert result.value is None
    assert "no numbers" in result.explanation


def test_equal_seeds_give_equal_intervals() -> None:
    assert _comparison(0.3) == _comparison(0.3)
