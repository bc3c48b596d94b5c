"""A world for the learner's tests: a tiny base that samples its own answers, and rewards computed from tokens.

Knows torch and the learner's data. The sampler is a plain loop over full forward passes, apart from the code it tests.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from tests.tiny_models import make_tiny_model
from trainer.data import Demonstration, LoggedAnswer
from trainer.learn.config import LearnerConfig, LoraSettings, PolicyRecipe, PpoConfig, SftConfig
from trainer.learn.policy import PolicyData, PolicyResult, train_policy
from trainer.learn.replay import KeptSets
from trainer.learn.reward_model import RewardModel
from trainer.learn.sft import train_sft
from trainer.models.base import POLICY, SharedBase

LORA = LoraSettings(rank=4, alpha=8)
FRIENDLY, GRUFF = (10, 12), (11, 13)
"""(opening token, closing token) of the two ways in which the base answers, each equally often."""
LENGTH = 5
"""Tokens of an answer: opening, the three tokens of the prompt, closing."""


def make_world(folder: Path) -> Path:
    """Write a tiny base that has learned to repeat three tokens between an opening and a closing, and return it."""
    rng = random.Random(0)
    fresh = make_tiny_model(folder / "fresh")
    demonstrations = [
        Demonstration(question, (rng.choice((10, 11)), *question, rng.choice((12, 13))))
        for question in prompts(1500, 7)
    ]
    config = SftConfig(epochs=1, learning_rate=3e-3, batch_tokens=256)
    return train_sft(fresh, demonstrations, config, folder / "base")


def tiny_base(model_dir: Path) -> SharedBase:
    """The base of the tiny world, float32 on the CPU, adapters of rank 4."""
    return SharedBase.load(model_dir, LORA)


def train_ppo(
    base: SharedBase,
    answers: Sequence[LoggedAnswer],
    reward_model: RewardModel | None,
    config: PpoConfig,
    seed: int,
    out: Path,
    *,
    learner: LearnerConfig | None = None,
    kept: KeptSets | None = None,
    **how: Any,
) -> PolicyResult:
    """`train_policy` by PPO on logged answers alone."""
    recipe = PolicyRecipe(learner=learner or LearnerConfig(), ppo=config)
    return train_policy(base, PolicyData(answers=answers, kept=kept), reward_model, recipe, seed, out, **how)


def prompts(count: int, seed: int) -> list[tuple[int, ...]]:
    """Random prompts of three tokens out of sixteen."""
    rng = random.Random(seed)
    return [tuple(rng.randrange(20, 36) for _ in range(3)) for _ in range(count)]


def naive_kept(logits: Sequence[float], top_k: int, top_p: float) -> set[int]:
    """What truncated sampling keeps of one distribution, by the words of vLLM's documentation, in double precision."""
    order = sorted(range(len(logits)), key=lambda token: -logits[token])
    if 0 < top_k < len(order):
        order = [token for token in order if logits[token] >= logits[order[top_k - 1]]]
    weights = [math.exp(logits[token] - logits[order[0]]) for token in order]
    kept, mass = [order[0]], weights[0]
    for token, weight in zip(order[1:], weights[1:], strict=True):
        if mass >= top_p * sum(weights):
            break
        kept.append(token)
        mass += weight
    return set(kept)


@torch.no_grad()
def sample(
    base: SharedBase,
    questions: Sequence[tuple[int, ...]],
    *,
    role: str | None,
    seed: int,
    heat: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
    """Answers of `LENGTH` tokens with the logprob of each token, drawn at temperature `heat` by the role.

    With truncation, the logprobs are those of what was kept, as an engine logs them.
    """
    generator = torch.Generator().manual_seed(seed)
    ids = torch.tensor(questions)
    logprobs = []
    with base.role(role):
        for _ in range(LENGTH):
            logits = base.module(input_ids=ids, use_cache=False).logits[:, -1].float() / heat
            if top_k or top_p < 1:
                for row in logits:
                    kept = naive_kept(row.tolist(), top_k, top_p)
                    row[[token for token in range(len(row)) if token not in kept]] = -torch.inf
            log_p = torch.log_softmax(logits, -1)
            tokens = torch.multinomial(log_p.exp(), 1, generator=generator)
            ids = torch.cat([ids, tokens], 1)
            logprobs.append(log_p.gather(1, tokens))
    chances = torch.cat(logprobs, 1).tolist()
    return [(tuple(row[-LENGTH:]), tuple(chance)) for row, chance in zip(ids.tolist(), chances, strict=True)]


def logged(
    base: SharedBase,
    questions: Sequence[tuple[int, ...]],
    reward: Callable[[Sequence[int]], float] | None,
    *,
    seed: int,
    heat: float = 1.0,
    version: int = 0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> list[LoggedAnswer]:
    """Answers of the base (version 0) or of the policy, as the log would hold them, with standardised rewards."""
    role = None if version == 0 else POLICY
    drawn = sample(base, questions, role=role, seed=seed, heat=heat, top_k=top_k, top_p=top_p)
    rewards = torch.tensor([0.0 if reward is None else reward(ids) for ids, _ in drawn])
    if reward is not None:
        rewards = (rewards - rewards.mean()) / rewards.std().clamp(min=1e-6)
    return [
        LoggedAnswer(
            sample_id=f"s{row}",
            completion_id=f"c{row}",
            choice=0,
            prompt_ids=prompt,
            answer_ids=ids,
            behaviour_logprobs=logprobs,
            temperature=heat,
            top_p=top_p,
            top_k=top_k,
            behaviour_version=version,
            reward=None if reward is None else float(rewards[row]),
            group=f"u{row % 7}",
        )
        for row, (prompt, (ids, logprobs)) in enumerate(zip(questions, drawn, strict=True))
    ]


def taste(ids: Sequence[int]) -> float:
    """The tiny world's taste: a friendly opening, and half as much a friendly end."""
    return 1.0 * (ids[0] == FRIENDLY[0]) + 0.5 * (ids[-1] == FRIENDLY[1])
