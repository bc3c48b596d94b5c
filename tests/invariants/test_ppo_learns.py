"""PPO raises a reward that depends on the answers, and leaves alone one that does not."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from statistics import mean

import pytest

from tests.invariants.worlds import logged, make_world, prompts, sample, taste, tiny_base, train_ppo
from trainer.data import LoggedAnswer
from trainer.learn.config import LearnerConfig, PpoConfig
from trainer.models.base import POLICY, SharedBase

CONFIG = PpoConfig(
    minibatch_answers=64,
    learning_rate=1e-3,
    epochs=2,
    beta=0.02,
    stop_mean_abs_log_ratio=0.5,
    stop_clip_fraction=0.6,
)
LEARNER = LearnerConfig(kl_budget=3.0)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def _expected(base: SharedBase) -> float:
    """Mean taste of fresh answers to prompts that training did not see."""
    drawn = sample(base, prompts(800, seed=99), role=POLICY, seed=5)
    return mean(taste(ids) for ids, _ in drawn)


def _train(model_dir: Path, answers: list[LoggedAnswer], out: Path) -> tuple[SharedBase, float]:
    base = tiny_base(model_dir)
    result = train_ppo(base, answers, None, CONFIG, 0, out, learner=LEARNER)
    assert result.steps > 0
    assert 0 < result.kl_to_reference <= LEARNER.kl_budget
    return base, result.kl_to_reference


def test_reward_rises_within_the_budget_and_shuffled_rewards_do_not_raise_it(model_dir: Path, tmp_path: Path) -> None:
    base = tiny_base(model_dir)
    base.open(POLICY, 0)
    before = _expected(base)
    answers = logged(base, prompts(512, seed=1), taste, seed=2)
    trained, _ = _train(model_dir, answers, tmp_path / "real")
    gain = _expected(trained) - before
    rewards = [answer.reward for answer in answers]
    random.Random(3).shuffle(rewards)
    mixed = [replace(answer, reward=reward) for answer, reward in zip(answers, rewards, strict=True)]
    control, _ = _train(model_dir, mixed, tmp_path / "shuffled")
    nil = _expected(control) - before
    assert gain > 0.15
    assert nil < 0.25 * gain
