"""DPO, KTO and SFT on the tiny world: they learn what people liked, keep to their budgets, and can be resumed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import pytest

from schemas.errors import InvalidInput
from tests.invariants.worlds import logged, make_world, prompts, sample, taste, tiny_base
from trainer.data import PreferencePair, ThumbedAnswer
from trainer.learn.config import DpoConfig, KtoConfig, LearnerConfig, LikedConfig, PolicyRecipe
from trainer.learn.policy import PolicyData, PolicyResult, train_policy
from trainer.models.adapter import load_role
from trainer.models.base import POLICY

Name = Literal["dpo", "kto", "sft"]
METHODS: tuple[Name, ...] = ("dpo", "kto", "sft")
CONFIGS = {
    "dpo": DpoConfig(epochs=2, minibatch_pairs=16, learning_rate=3e-3, warmup_fraction=0.0),
    "kto": KtoConfig(epochs=2, minibatch_answers=32, learning_rate=3e-3, warmup_fraction=0.0),
    "sft": LikedConfig(epochs=2, minibatch_answers=16, learning_rate=3e-3, warmup_fraction=0.0),
}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def data(model_dir: Path) -> PolicyData:
    """Pairs and thumbs of people with one taste, on answers of the base."""
    base = tiny_base(model_dir)
    questions = prompts(96, seed=1)
    left, right = (sample(base, questions, role=None, seed=seed) for seed in (2, 3))
    pairs = []
    for row, (prompt, (a, _), (b, _)) in enumerate(zip(questions, left, right, strict=True)):
        better, worse = (a, b) if taste(a) >= taste(b) else (b, a)
        pairs.append(PreferencePair(prompt, better, worse, taste(a) == taste(b), 1.0, f"u{row % 7}", "x", f"{row}"))
    thumbs = [
        ThumbedAnswer(prompt, answer, taste(answer) > 1, "user", 1.0, "u")
        for prompt, (answer, _) in zip(questions, left, strict=True)
    ]
    return PolicyData(answers=logged(base, prompts(24, seed=5), None, seed=6), pairs=pairs, thumbs=thumbs)


def _train(
    model_dir: Path, data: PolicyData, method: Name, out: Path, *, learner: dict[str, Any] | None = None, **how: Any
) -> PolicyResult:
    settings = LearnerConfig(method=method, kl_check_answers=16, **(learner or {}))
    recipe = PolicyRecipe(learner=settings, **{method: CONFIGS[method]})
    return train_policy(tiny_base(model_dir), data, None, recipe, 7, out, **how)


@pytest.mark.parametrize("method", METHODS)
def test_it_learns_what_people_like_within_the_kl_budget(
    model_dir: Path, data: PolicyData, tmp_path: Path, method: Name
) -> None:
    result = _train(model_dir, data, method, tmp_path / "out", learner={"kl_budget": 5.0, "kl_check_every": 2})
    assert result.steps > 0
    assert 0 < result.kl_to_reference <= 5.0
    base = tiny_base(model_dir)
    base.open(POLICY, 0)
    before = mean(taste(ids) for ids, _ in sample(base, prompts(300, seed=99), role=POLICY, seed=5))
    load_role(base, POLICY, result.adapter)
    after = mean(taste(ids) for ids, _ in sample(base, prompts(300, seed=99), role=POLICY, seed=5))
    assert after - before > 0.1


@pytest.mark.parametrize("method", METHODS)
def test_a_token_budget_is_kept_and_a_cut_run_resumes_to_the_same_bytes(
    model_dir: Path, data: PolicyData, tmp_path: Path, method: Name
) -> None:
    limits = {"max_tokens": 700, "checkpoint_every": 1, "kl_check_every": 2}
    whole = _train(model_dir, data, method, tmp_path / "whole", learner=limits)
    assert whole.stopped == "max_tokens"
    assert whole.steps >= 2
    assert 350 < whole.tokens <= 700

    class PowerCut(Exception):
        pass

    def cut(stage: str, done: int, total: int, metrics: Mapping[str, float]) -> None:
        if (stage, done) == (method, 2):
            raise PowerCut

    points = tmp_path / "points"
    with pytest.raises(PowerCut):
        _train(model_dir, data, method, tmp_path / "cut", learner=limits, checkpoint_dir=points, progress=cut)
    resumed = _train(model_dir, data, method, tmp_path / "resumed", learner=limits, resume_from=points)
    assert resumed.adapter_digest == whole.adapter_digest
    assert resumed.history == whole.history
    assert resumed.drift == whole.drift


def test_without_logged_answers_the_drift_is_measured_on_the_labelled_ones(
    model_dir: Path, data: PolicyData, tmp_path: Path
) -> None:
    bare = PolicyData(pairs=data.pairs)
    result = _train(model_dir, bare, "dpo", tmp_path / "out", learner={"max_tokens": 600})
    assert result.steps > 0
    assert result.drift.logged > 0
    assert result.drift.weighted > 0


def test_the_first_step_starts_at_the_reference(model_dir: Path, data: PolicyData, tmp_path: Path) -> None:
    first = _train(model_dir, data, "dpo", tmp_path / "dpo", learner={"max_tokens": 600}).history[0]
    assert first["implied_margin"] == pytest.approx(0, abs=1e-5)
    first = _train(model_dir, data, "kto", tmp_path / "kto", learner={"max_tokens": 600}).history[0]
    assert first["reference_point"] == pytest.approx(0, abs=1e-5)
    assert first["liked_log_ratio"] == pytest.approx(0, abs=1e-5)


def test_nothing_to_learn_from_and_a_budget_too_small_for_a_step(
    model_dir: Path, data: PolicyData, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match="nothing that dpo could learn from"):
        _train(model_dir, PolicyData(thumbs=data.thumbs), "dpo", tmp_path / "out")
    none = _train(model_dir, data, "kto", tmp_path / "none", learner={"max_tokens": 10})
    assert (none.steps, none.tokens, none.stopped) == (0, 0, "max_tokens")
