"""A PPO run is repeatable and resumable to the byte, bound by its KL budget and stopped by its limits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from schemas.errors import Conflict, InvalidInput
from tests.invariants.worlds import logged, make_world, prompts, taste, tiny_base, train_ppo
from trainer.data import LoggedAnswer
from trainer.learn.config import LearnerConfig, PpoConfig
from trainer.learn.policy import PolicyResult
from trainer.models.base import POLICY

CONFIG = PpoConfig(
    minibatch_answers=16,
    epochs=2,
    learning_rate=1e-3,
    stop_mean_abs_log_ratio=2.0,
    stop_clip_fraction=1.0,
)


LEARNER = LearnerConfig(checkpoint_every=3, kl_check_every=2)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def answers(model_dir: Path) -> list[LoggedAnswer]:
    base = tiny_base(model_dir)
    warm = logged(base, prompts(32, seed=1), taste, seed=2, heat=0.7)
    return [*warm, *(replace(a, sample_id=f"t{a.sample_id}") for a in logged(base, prompts(32, 3), taste, seed=4))]


def _run(
    model_dir: Path, answers: list[LoggedAnswer], out: Path, *, kl_budget: float = 10.0, **changes: object
) -> PolicyResult:
    config, learner = CONFIG.model_copy(update=changes), LEARNER.model_copy(update={"kl_budget": kl_budget})
    return train_ppo(tiny_base(model_dir), answers, None, config, 7, out, learner=learner)


class _PowerCut(Exception):
    pass


@pytest.mark.parametrize("critic", ["ridge", "lora"])
def test_resumed_equals_uninterrupted(
    model_dir: Path, answers: list[LoggedAnswer], tmp_path: Path, critic: str
) -> None:
    whole = _run(model_dir, answers, tmp_path / "whole", critic=critic)
    assert whole.steps == 8

    def cut(stage: str, done: int, total: int, metrics: Mapping[str, float]) -> None:
        if (stage, done) == ("ppo", 5):
            raise _PowerCut

    config = CONFIG.model_copy(update={"critic": critic})
    points = tmp_path / "checkpoints"
    with pytest.raises(_PowerCut):
        train_ppo(
            tiny_base(model_dir),
            answers,
            None,
            config,
            7,
            tmp_path / "cut",
            learner=LEARNER,
            checkpoint_dir=points,
            progress=cut,
        )
    assert not (tmp_path / "cut").exists()
    assert [path.name for path in points.iterdir()] == ["step-00000003"]
    resumed = train_ppo(
        tiny_base(model_dir), answers, None, config, 7, tmp_path / "resumed", learner=LEARNER, resume_from=points
    )
    assert resumed.adapter_digest == whole.adapter_digest
    assert resumed.history == whole.history
    assert (resumed.drift, resumed.beta) == (whole.drift, whole.beta)
    if critic == "lora":
        assert whole.critic is not None
        assert resumed.critic is not None
        for file in ("adapter_model.safetensors", "head.safetensors"):
            assert (whole.critic / file).read_bytes() == (resumed.critic / file).read_bytes()


def test_equal_runs_are_equal_to_the_byte_and_other_seeds_are_not(
    model_dir: Path, answers: list[LoggedAnswer], tmp_path: Path
) -> None:
    first, second = (_run(model_dir, answers, tmp_path / name) for name in ("one", "two"))
    assert first.adapter_digest == second.adapter_digest
    assert first.history == second.history
    other = train_ppo(tiny_base(model_dir), answers, None, CONFIG, 8, tmp_path / "three", learner=LEARNER)
    assert other.adapter_digest != first.adapter_digest


def test_a_critic_with_an_adapter_takes_twice_the_tokens_and_changes_nothing_of_the_policy(
    model_dir: Path, answers: list[LoggedAnswer], tmp_path: Path
) -> None:
    plain, trained = (_run(model_dir, answers[:32], tmp_path / critic, critic=critic) for critic in ("ridge", "lora"))
    assert plain.adapter_digest == trained.adapter_digest
    assert (plain.critic, trained.tokens) == (None, 2 * plain.tokens)


def test_a_checkpoint_of_another_run_is_refused(model_dir: Path, answers: list[LoggedAnswer], tmp_path: Path) -> None:
    points = tmp_path / "points"
    train_ppo(tiny_base(model_dir), answers, None, CONFIG, 7, tmp_path / "a", learner=LEARNER, checkpoint_dir=points)
    with pytest.raises(Conflict, match="checkpoint"):
        train_ppo(tiny_base(model_dir), answers[1:], None, CONFIG, 7, tmp_path / "b", resume_from=points)


def test_the_kl_budget_holds_and_progress_up_to_it_is_kept(
    model_dir: Path, answers: list[LoggedAnswer], tmp_path: Path
) -> None:
    fast = {"learning_rate": 5e-3, "stop_effective_sample_size": 0.0}  # nothing but the budget ends it
    free = _run(model_dir, answers, tmp_path / "free", **fast)
    bound = _run(model_dir, answers, tmp_path / "bound", **fast, kl_budget=free.kl_to_reference / 4)
    assert free.stopped is None
    assert bound.stopped == "kl_budget"
    assert 0 < bound.kl_to_reference <= free.kl_to_reference / 4


def test_a_run_that_starts_beyond_the_budget_changes_nothing(
    model_dir: Path, answers: list[LoggedAnswer], tmp_path: Path
) -> None:
    far = _run(model_dir, answers, tmp_path / "far", learning_rate=5e-3)
    learner = LearnerConfig(kl_budget=far.kl_to_reference / 2)
    result = train_ppo(
        tiny_base(model_dir), answers, None, CONFIG, 7, tmp_path / "next", learner=learner, start_from=far.adapter
    )
    assert (result.stopped, result.steps) == ("kl_budget", 0)
    assert result.adapter_digest == far.adapter_digest
    assert result.kl_to_reference == pytest.approx(far.kl_to_reference)  # still measured against the base


def test_going_on_from_an_adapter_and_a_critic_keeps_the_base_as_reference(
    model_dir: Path, answers: list[LoggedAnswer], tmp_path: Path
) -> None:
    first = _run(model_dir, answers, tmp_path / "first", critic="lora")
    still = CONFIG.model_copy(update={"learning_rate": 1e-12, "beta": first.beta, "critic": "lora"})
    second = train_ppo(
        tiny_base(model_dir),
        answers,
        None,
        still,
        7,
        tmp_path / "second",
        start_from=first.adapter,
        critic_from=first.critic,
    )
    assert second.kl_to_reference == pytest.approx(first.kl_to_reference, rel=1e-3)
    assert second.history[0]["value_clip_fraction"] == 0.0
    assert second.figures["behaviour_kl_k1_per_sequence"] == pytest.approx(0, abs=1e-4)  # the base sampled them all


def test_metrics_start_at_the_behaviour_policy_and_are_all_logged(
    model_dir: Path, answers: list[LoggedAnswer], tmp_path: Path
) -> None:
    result = _run(model_dir, answers, tmp_path / "out")
    first = result.history[0]
    assert first["mean_abs_log_ratio"] < 1e-4  # logged at two temperatures, recomputed at the same two
    assert first["effective_sample_size"] == pytest.approx(1, abs=1e-4)
    assert first["mask_fraction"] == 0
    assert all(math.isfinite(value) for entry in result.history for value in entry.values())
    assert {"k3_per_token_v0", "entropy_per_token", "explained_variance", "value_clip_fraction"} <= first.keys()
    assert {"kl_to_base_per_sequence", "beta", "ratio_p99", "approx_kl_k3_per_sequence"} <= first.keys()
    assert result.beta == pytest.approx(CONFIG.beta * (1 - 0.2 * 64 / 10_000) ** 2)  # far under the target, twice


def test_a_batch_that_was_not_sampled_by_this_policy_stops_the_run(
    model_dir: Path, answers: list[LoggedAnswer], tmp_path: Path
) -> None:
    foreign = [replace(a, behaviour_logprobs=tuple(x - 1.0 for x in a.behaviour_logprobs)) for a in answers]
    config = PpoConfig(minibatch_answers=16)
    result = train_ppo(tiny_base(model_dir), foreign, None, config, 7, tmp_path / "out")
    assert (result.stopped, result.steps) == ("mean_abs_log_ratio", 0)
    assert result.kl_to_reference == pytest.approx(0, abs=1e-6)


def test_input_that_cannot_be_trained_on_is_refused(
    model_dir: Path, answers: list[LoggedAnswer], tmp_path: Path
) -> None:
    base = tiny_base(model_dir)
    with pytest.raises(InvalidInput, match="top_p"):
        train_ppo(base, [replace(answers[0], top_p=0.9)], None, CONFIG, 0, tmp_path / "out")
    with pytest.raises(InvalidInput, match="no reward"):
        train_ppo(base, [replace(answers[0], reward=None)], None, CONFIG, 0, tmp_path / "out")
    with pytest.raises(InvalidInput, match="no logged answers"):
        train_ppo(base, [], None, CONFIG, 0, tmp_path / "out")
    with pytest.raises(InvalidInput, match="greedily"):
        replace(answers[0], temperature=0.0)
    with pytest.raises(InvalidInput, match="lacks logprobs"):
        replace(answers[0], behaviour_logprobs=answers[0].behaviour_logprobs[1:])
    assert not (tmp_path / "out").exists()
    assert POLICY == "policy"
