"""Logged answers made ready for PPO: reference logprobs, scores, values, advantages, in padded tensors.

Knows how to ask a shared base and a reward model for numbers. Updates nothing but a fresh critic's head.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from schemas.errors import InvalidInput
from trainer.algorithms.advantages import gae, shaped_rewards, whiten
from trainer.data import LoggedAnswer, TokenPair
from trainer.learn.config import PpoConfig
from trainer.learn.critic import cross_fitted_values
from trainer.learn.replay import KeptSets
from trainer.models.adapter import load_role
from trainer.models.base import SharedBase
from trainer.models.batching import TokenBatch
from trainer.models.forward import by_row, log_softmax, pick_tokens

Scorer = Callable[[Sequence[TokenPair]], list[float]]


@dataclass(frozen=True)
class Rollouts:
    """N logged answers, right-padded to A tokens, all on the CPU. Nothing here changes while the policy trains."""

    mask: Tensor
    """bool [N, A]."""
    behaviour: Tensor
    """Logged logprobs [N, A]."""
    reference: Tensor
    """Logprobs under the frozen base at the logged temperature, confined to what truncation kept [N, A]."""
    scores: Tensor
    """Standardised, clipped scores [N]."""
    values: Tensor
    """Values for advantages [N, A]; a fresh critic's come from the other half of the answers."""
    old_values: Tensor
    """What the critic itself said before training [N, A], the anchor of the value clip."""
    temperatures: Tensor
    """[N]."""
    versions: Tensor
    """int64 [N], the policy version that sampled."""
    kept: KeptSets | None = None
    """What truncated sampling kept, which confines policy and reference; None where nothing was cut."""

    def advantages(self, beta: float, config: PpoConfig) -> tuple[Tensor, Tensor]:
        """Whitened advantages and returns, both [N, A], at KL coefficient `beta`."""
        rewards = shaped_rewards(self.scores, self.behaviour, self.reference, self.mask, beta)
        advantages, returns = gae(rewards, self.values, self.mask, config.gamma, config.gae_lambda)
        return whiten(advantages, self.mask), returns

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, for a checkpoint; without the kept sets, which are token ids and stay in memory."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "kept"}

    def kept_mask(self, batch: TokenBatch, vocabulary: int) -> Tensor | None:
        """`KeptSets.mask` of a batch of these answers."""
        return None if self.kept is None else self.kept.mask(batch, vocabulary)


def check_replayable(answers: Sequence[LoggedAnswer], kept: KeptSets | None) -> None:
    """Raise unless the sampling distribution of every answer is at hand.

    Raises:
        InvalidInput: no answers, or top_p or top_k was on and what they kept is missing.
    """
    if not answers:
        raise InvalidInput("There are no logged answers", field="answers")
    for row, answer in enumerate(answers):
        if answer.truncated and (kept is None or not kept.counts[row, : len(answer.answer_ids)].all()):
            raise InvalidInput(
                f"Sample {answer.sample_id} was sampled with top_p or top_k, and is not replayed", field="answers"
            )


def prepare(
    base: SharedBase,
    answers: Sequence[LoggedAnswer],
    scorer: Scorer | None,
    config: PpoConfig,
    critic_from: Path | None,
    tick: Callable[[int], None],
    kept: KeptSets | None = None,
    *,
    token_budget: int = 1024,
) -> Rollouts:
    """Score the answers, take the reference's logprobs, warm the critic up (or load it) and take its values.

    Args:
        scorer: standardised scores of answers that bring no reward of their own.
        critic_from: folder of a trained critic; None fits a fresh one (for `lora` the role `critic` must be open).
        tick: called with the number of answers that went through the reference.
        kept: of these answers, where some were sampled with top_p or top_k.
        token_budget: positions per forward pass.

    Raises:
        InvalidInput: an answer is not replayed, or has no reward and there is no scorer.
    """
    check_replayable(answers, kept)
    scores = _scores(answers, scorer, config)
    shape = (len(answers), max(len(answer.answer_ids) for answer in answers))
    mask, behaviour = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape)
    for row, answer in enumerate(answers):
        mask[row, : len(answer.answer_ids)] = True
        behaviour[row, : len(answer.answer_ids)] = torch.tensor(answer.behaviour_logprobs)
    temperatures = torch.tensor([answer.temperature for answer in answers])
    batches = list(base.batches(token_pairs(answers), range(len(answers)), token_budget))
    reference, states = _reference(
        base, answers, batches, temperatures, kept, keep_states=critic_from is None, tick=tick
    )
    if critic_from is None:
        rewards = shaped_rewards(scores, behaviour, reference, mask, config.beta)
        returns, _ = gae(rewards, torch.zeros(shape), mask, config.gamma, 1.0)
        values, old_values = _warm_up(base, answers, states, returns, mask, config)
    else:
        load_role(base, "critic", critic_from)
        values = old_values = _critic_values(base, batches, shape)
    versions = torch.tensor([answer.behaviour_version for answer in answers])
    return Rollouts(mask, behaviour, reference, scores, values, old_values, temperatures, versions, kept)


def _scores(answers: Sequence[LoggedAnswer], scorer: Scorer | None, config: PpoConfig) -> Tensor:
    missing = [row for row, answer in enumerate(answers) if answer.reward is None]
    scores = torch.tensor([0.0 if answer.reward is None else answer.reward for answer in answers])
    scores = scores.clamp(-config.score_clip, config.score_clip)
    if missing:
        if scorer is None:
            raise InvalidInput("An answer has no reward and there is no reward model", field="answers")
        found = scorer([(answers[row].prompt_ids, answers[row].answer_ids) for row in missing])
        scores[missing] = torch.tensor(found, dtype=scores.dtype)
    return scores


def token_pairs(answers: Sequence[LoggedAnswer]) -> list[TokenPair]:
    """The (prompt, answer) token ids of logged answers."""
    return [(answer.prompt_ids, answer.answer_ids) for answer in answers]


@torch.no_grad()
def _reference(
    base: SharedBase,
    answers: Sequence[LoggedAnswer],
    batches: Sequence[TokenBatch],
    temperatures: Tensor,
    kept: KeptSets | None,
    *,
    keep_states: bool,
    tick: Callable[[int], None],
) -> tuple[Tensor, list[Tensor]]:
    """Reference logprobs [N, A], and each answer's states [length, H] if wanted (N x A x H numbers of host memory)."""
    logprobs = torch.zeros(len(answers), max(len(answer.answer_ids) for answer in answers))
    states: list[Tensor] = [torch.empty(0)] * len(answers)
    done = 0
    with base.role(None):
        for batch in batches:
            logits, hidden = base.logits_and_states(batch)
            open_tokens = None if kept is None else kept.mask(batch, logits.shape[1])
            log_probs = log_softmax(logits, batch, temperatures[list(batch.rows)], open_tokens)
            logprobs[list(batch.rows), : batch.mask.shape[1]] = pick_tokens(log_probs, batch).cpu()
            if keep_states:
                for row, own in zip(batch.rows, by_row(hidden.cpu(), batch), strict=True):
                    states[row] = own
            done += len(batch.rows)
            tick(done)
    return logprobs, states


def _warm_up(
    base: SharedBase,
    answers: Sequence[LoggedAnswer],
    states: Sequence[Tensor],
    returns: Tensor,
    mask: Tensor,
    config: PpoConfig,
) -> tuple[Tensor, Tensor]:
    """Fit the critic's head; returns cross-fitted values and the head's own, both [N, A]."""
    flat = torch.cat(list(states))
    owner = torch.arange(len(answers)).repeat_interleave(mask.sum(1))
    halves = torch.tensor([_half(answer.prompt_ids) for answer in answers])
    crossed, head = cross_fitted_values(flat, returns[mask], owner, halves, config.critic_penalties)
    values, own = torch.zeros_like(returns), torch.zeros_like(returns)
    values[mask], own[mask] = crossed, head(flat)
    if config.critic == "lora":
        weights = base.snapshot("critic")
        weights["head.weight"], weights["head.bias"] = head.weight[None], torch.tensor([head.bias])
        base.restore("critic", weights)
    return values, own


def _half(prompt_ids: Sequence[int]) -> bool:
    """A coin that lands the same for the same prompt, in every process."""
    return hashlib.sha256(repr(tuple(prompt_ids)).encode()).digest()[0] >= 128


@torch.no_grad()
def _critic_values(base: SharedBase, batches: Sequence[TokenBatch], shape: tuple[int, int]) -> Tensor:
    values = torch.zeros(shape)
    with base.role("critic"):
        for batch in batches:
            found = base.scalars("critic", batch).cpu()
            values[list(batch.rows), : found.shape[1]] = found
    return values
