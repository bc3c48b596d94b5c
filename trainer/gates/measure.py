"""Measurements on answers sampled fresh from a policy: length, entropy, KL to the frozen base.

Fresh samples, because the logged answers came from older versions and cannot show what the candidate would say.
Knows the learner's model; knows nothing of thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trainer.data import TokenPair
from trainer.gates.sample import sample
from trainer.models.base import SharedBase
from trainer.models.batching import TokenBatch
from trainer.models.forward import log_softmax, pick_tokens


@dataclass(frozen=True)
class PolicyMeasurement:
    """What was seen of one policy on one set of prompts."""

    lengths: tuple[int, ...]
    """Answer tokens, one for each prompt."""
    entropy_nats_per_token: float | None
    """Mean over all sampled tokens; None without prompts."""
    kl_nats_per_sequence: float | None
    """To the frozen base, mean over prompts; None without prompts."""
    fresh: tuple[TokenPair, ...] = ()
    """The prompts and the answers that were sampled for them."""


def measure_policy(
    base: SharedBase,
    role: str | None,
    prompts: Sequence[tuple[int, ...]],
    *,
    max_new_tokens: int,
    batch_size: int,
    token_budget: int,
    seed: int,
) -> PolicyMeasurement:
    """Sample one answer for each prompt at temperature 1 and measure it.

    The KL of a sequence is the sum over its tokens of the exact KL of the next-token distributions: by the chain rule
    its mean over sampled answers is unbiased, with far less variance than the sum of log ratios.

    Args:
        role: the policy measured; None is the frozen base, whose KL is 0 by definition.
        token_budget: positions per forward pass; bounds memory.
    """
    if not prompts:
        return PolicyMeasurement((), None, None)
    answers = sample(base, role, prompts, max_new_tokens=max_new_tokens, greedy=False, seed=seed, batch_size=batch_size)
    pairs: list[TokenPair] = list(zip(prompts, answers, strict=True))
    entropy = kl = 0.0
    with torch.no_grad():
        for batch in base.batches(pairs, range(len(pairs)), token_budget):
            batch_entropy, batch_kl = _batch_sums(base, role, batch)
            entropy, kl = entropy + batch_entropy, kl + batch_kl
    lengths = tuple(len(answer) for answer in answers)
    return PolicyMeasurement(lengths, entropy / sum(lengths), kl / len(pairs), tuple(pairs))


def _batch_sums(base: SharedBase, role: str | None, batch: TokenBatch) -> tuple[float, float]:
    """Entropy and KL to the base, both summed over all answer tokens of the batch, in nats."""
    with base.role(role):
        policy = log_softmax(base.logits(batch), batch)  # [N, V]
    entropy = -(policy.exp() * policy).sum()
    if role is None:
        return float(entropy), 0.0
    with base.role(None):
        reference = log_softmax(base.logits(batch), batch)
    kl = (policy.exp() * (policy - reference)).sum()
    return float(entropy), max(0.0, float(kl))


def answer_logprobs(
    base: SharedBase, role: str | None, pairs: Sequence[TokenPair], *, token_budget: int
) -> list[tuple[float, ...]]:
    """The log-probability (nats, temperature 1) of every answer token, in the order of `pairs`."""
    found: dict[int, tuple[float, ...]] = {}
    with torch.no_grad(), base.role(role):
        for batch in base.batches(pairs, range(len(pairs)), token_budget):
            picked = pick_tokens(log_softmax(base.logits(batch), batch), batch).tolist()
            found |= {row: tuple(picked[line][: batch.lengths[line]]) for line, row in enumerate(batch.rows)}
    return [found[row] for row in range(len(pairs))]
