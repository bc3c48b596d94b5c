"""How a step is computed changes nothing of it: micro-batches, padding, checkpointing; bfloat16 changes little.

Micro-batches add their gradients up in another order, so they agree to 1e-5 of the largest entry and not bit for bit;
gradient checkpointing computes the same numbers twice and agrees bit for bit. The reward model goes on from an earlier
one here: a fresh one starts from a linear probe, and where that one's optimiser stops, rounding decides.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.invariants.worlds import logged, make_world, prompts, sample, tiny_base
from trainer.data import LoggedAnswer, PreferencePair, RatedAnswer, ThumbedAnswer
from trainer.learn import policy_run, reward
from trainer.learn.config import (
    DpoConfig,
    KtoConfig,
    LearnerConfig,
    LikedConfig,
    PolicyRecipe,
    PpoConfig,
    RewardConfig,
)
from trainer.learn.policy import PolicyData, train_policy
from trainer.learn.reward import train_reward_model
from trainer.models.adapter import save_role
from trainer.models.base import POLICY

POLICIES = ("ppo", "dpo", "kto", "sft")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def start(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter in which no weight is zero, so that every weight has a gradient."""
    base, folder = tiny_base(model_dir), tmp_path_factory.mktemp("start")
    base.open(POLICY, 0)
    generator = torch.Generator().manual_seed(1)
    noisy = {name: w + 0.01 * torch.randn(w.shape, generator=generator) for name, w in base.snapshot(POLICY).items()}
    base.restore(POLICY, noisy)
    save_role(base, POLICY, folder)
    return folder


@pytest.fixture(scope="module")
def data(model_dir: Path) -> PolicyData:
    """Eight of each kind, of eight lengths: what one optimiser step of every learner takes."""
    base = tiny_base(model_dir)
    answers: list[LoggedAnswer] = []
    for row, question in enumerate(prompts(8, seed=1)):
        (one,) = logged(base, [(question * 2)[: 2 + row % 4]], None, seed=row)
        keep = 1 + row % 5
        answers.append(
            LoggedAnswer(
                f"s{row}", f"c{row}", 0, one.prompt_ids, one.answer_ids[:keep], one.behaviour_logprobs[:keep],
                1.0, 1.0, 0, 0, (-1.0) ** row, "u",
            )
        )  # fmt: skip
    pairs = []
    for row, answer in enumerate(answers):
        ((other, _),) = sample(base, [answer.prompt_ids], role=None, seed=50 + row)
        pairs.append(
            PreferencePair(answer.prompt_ids, answer.answer_ids, other, False, 1.0, "u", "comparison", f"{row}")
        )
    thumbs = [
        ThumbedAnswer(answer.prompt_ids, answer.answer_ids, bool(row % 2), "user", 1.0 + row / 8, f"u{row}")
        for row, answer in enumerate(answers)
    ]
    return PolicyData(answers=answers, pairs=pairs, thumbs=thumbs)


@pytest.fixture(scope="module")
def earlier_reward(model_dir: Path, data: PolicyData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model whose adapter is not zero either."""
    folder = tmp_path_factory.mktemp("reward") / "model"
    config = RewardConfig(batch_sets=8, learning_rate=1e-2)
    train_reward_model(tiny_base(model_dir), data.pairs, data.thumbs, config, 0).save(folder)
    return folder


class _Caught(Exception):
    pass


def _recipe(method: str, **learner: Any) -> PolicyRecipe:
    return PolicyRecipe(
        learner=LearnerConfig(method=method, **learner),  # type: ignore[arg-type]
        ppo=PpoConfig(minibatch_answers=8),
        dpo=DpoConfig(minibatch_pairs=8),
        kto=KtoConfig(minibatch_answers=24),
        sft=LikedConfig(minibatch_answers=16),
    )


@pytest.fixture
def gradients(
    monkeypatch: pytest.MonkeyPatch,
    model_dir: Path,
    data: PolicyData,
    start: Path,
    earlier_reward: Path,
    tmp_path: Path,
) -> Callable[..., dict[str, Tensor]]:
    """The gradients with which a learner makes its first step."""
    caught: list[list[Tensor | None]] = []

    def catch(optimiser: torch.optim.Optimizer, max_norm: float) -> float:
        caught.append([parameter.grad for group in optimiser.param_groups for parameter in group["params"]])
        raise _Caught

    monkeypatch.setattr(policy_run, "clipped_step", catch)
    monkeypatch.setattr(reward, "clipped_step", catch)

    def of(learner: str, micro_batch_tokens: int, **settings: Any) -> dict[str, Tensor]:
        base = tiny_base(model_dir)
        if learner == "reward":
            config = RewardConfig(batch_sets=24, micro_batch_tokens=micro_batch_tokens)
            ratings = [
                RatedAnswer(answer.prompt_ids, answer.answer_ids, 1 + row % 5, "user", 1.0, f"u{row % 3}")
                for row, answer in enumerate(data.answers)
            ]
            with pytest.raises(_Caught):
                train_reward_model(base, data.pairs, data.thumbs, config, 0, ratings=ratings, start_from=earlier_reward)
        else:
            recipe = _recipe(learner, micro_batch_tokens=micro_batch_tokens, **settings)
            with pytest.raises(_Caught):
                train_policy(base, data, None, recipe, 7, tmp_path / "out", start_from=start)
        return {str(place): grad.clone() for place, grad in enumerate(caught.pop()) if grad is not None}

    return of


@pytest.mark.parametrize("learner", [*POLICIES, "reward"])
def test_one_at_a_time_unpadded_equals_bucketed_equals_all_at_once(
    gradients: Callable[..., dict[str, Tensor]], learner: str
) -> None:
    alone = gradients(learner, 1)
    assert len(alone) > 20
    largest = max(float(grad.abs().max()) for grad in alone.values())
    assert largest > 0
    for micro_batch_tokens in (32, 4096):
        together = gradients(learner, micro_batch_tokens)
        assert together.keys() == alone.keys()
        for name, grad in together.items():
            assert float((grad - alone[name]).abs().max()) <= 1e-5 * largest


@pytest.mark.parametrize("learner", POLICIES)
def test_gradient_checkpointing_keeps_less_and_gives_the_same_bits(
    gradients: Callable[..., dict[str, Tensor]], learner: str
) -> None:
    def measured(on: bool) -> tuple[dict[str, Tensor], int]:
        kept = [0, 0]  # numbers held for backward now, and at most

        def pack(tensor: Tensor) -> Tensor:
            kept[0] += tensor.numel()
            kept[1] = max(kept)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            return gradients(learner, 4096, gradient_checkpointing=on), kept[1]

    plain, much = measured(False)
    checkpointed, little = measured(True)
    assert little < 0.6 * much
    assert all(torch.equal(checkpointed[name], grad) for name, grad in plain.items())


def test_bfloat16_moves_a_logprob_by_hundredths_of_a_nat(model_dir: Path, data: PolicyData, tmp_path: Path) -> None:
    """At the first step the policy is the one that sampled: what differs from the log is rounding alone."""
    first = {}
    for autocast in ("off", "bfloat16"):
        result = train_policy(
            tiny_base(model_dir), data, None, _recipe("ppo", autocast=autocast), 7, tmp_path / autocast
        )
        assert result.steps == 1
        first[autocast] = result.history[0]["mean_abs_log_ratio"]
    assert first["off"] < 1e-5
    assert 1e-5 < first["bfloat16"] < 0.03
