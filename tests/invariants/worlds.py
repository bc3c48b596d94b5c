"""A world for the learner's tests: a tiny base that samples its own answers, and rewards computed from tokens.

Knows torch and the learner's data. The sampler is a plain loop over full forward passes, kept apart from the code it tests.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from trainer.data import LoggedAnswer
from trainer.learn.config import LoraSettings
from trainer.models.base import POLICY, SharedBase

LORA = LoraSettings(rank=4, alpha=8)
VOCAB = 300


def tiny_base(model_dir: Path) -> SharedBase:
    """The base of the tiny world, float32 on the CPU, adapters of rank 4."""
    return SharedBase.load(model_dir, LORA)


def prompts(count: int, seed: int) -> list[tuple[int, ...]]:
    """Random prompts of 2 to 6 tokens."""
    rng = random.Random(seed)
    return [tuple(rng.randrange(6, VOCAB) for _ in range(rng.randint(2, 6))) for _ in range(count)]


@torch.no_grad()
def sample(
    base: SharedBase, questions: Sequence[tuple[int, ...]], *, role: str | None, length: int, seed: int, heat: float = 1.0
) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
    """Answers of `length` tokens with the logprob of each token, drawn at temperature `heat` by the role."""
    generator = torch.Generator().manual_seed(seed)
    answers = []
    with base.role(role):
        for prompt in questions:
            ids = list(prompt)
            logprobs = []
            for _ in range(length):
                logits = base.module(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].float() / heat
                log_p = torch.log_softmax(logits, -1)
                token = int(torch.multinomial(log_p.exp(), 1, generator=generator))
                ids.append(token)
                logprobs.append(float(log_p[token]))
            answers.append((tuple(ids[len(prompt) :]), tuple(logprobs)))
    return answers


def logged(
    base: SharedBase,
    questions: Sequence[tuple[int, ...]],
    reward: Callable[[Sequence[int]], float] | None,
    *,
    seed: int,
    length: int = 6,
    heat: float = 1.0,
    version: int = 0,
) -> list[LoggedAnswer]:
    """Answers of the base (version 0) or of the policy, as the log would hold them, with standardised rewards."""
    role = None if version == 0 else POLICY
    drawn = sample(base, questions, role=role, length=length, seed=seed, heat=heat)
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
            top_p=1.0,
            top_k=0,
            behaviour_version=version,
            reward=None if reward is None else float(rewards[row]),
            group=f"u{row % 7}",
        )
        for row, (prompt, (ids, logprobs)) in enumerate(zip(questions, drawn, strict=True))
    ]


def share_even(ids: Sequence[int]) -> float:
    """The tiny world's taste: the share of even token ids."""
    return sum(token % 2 == 0 for token in ids) / len(ids)
