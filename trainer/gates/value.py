"""What a policy is worth on answers that people judged, before anybody meets it: the measuring for `off_policy_value`.

Knows the learner's model, and how candidate and parent are compared. Knows nothing of thresholds. The answers are those
of held-out people with held-out verdicts: neither the policy nor the reward model has learnt from them. The rewards are
thumbs (1 liked, 0 not), so a value is the share of answers that would be liked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.algorithms.off_policy import (
    doubly_robust,
    numbered,
    people_resampled,
    percentile_interval,
    self_normalised,
    sequence_ratios,
)
from trainer.algorithms.ppo import effective_sample_size
from trainer.algorithms.truncation import confine, kept_set
from trainer.data import JudgedAnswer, LoggedAnswer, TokenPair
from trainer.gates.sample import sample
from trainer.models.base import SharedBase
from trainer.models.forward import by_row

Like = Callable[[Sequence[TokenPair], Sequence[str]], Tensor]
"""The reward model's calibrated probability [N] that answers are liked, by the cohorts of their voters."""
DRAWS = 1000
_CHUNK = 256
"""Tokens whose whole distributions are sorted at once."""


@dataclass(frozen=True)
class PolicyOnLog:
    """How one policy stands to the judged answers."""

    log_ratios: Tensor
    """float64 [N], log pi - log mu of each answer, nats."""
    expected: Tensor
    """float64 [N], probability that its own answer to the same prompt is liked, as the reward model has it."""
    own: tuple[TokenPair, ...] = ()
    """The prompts with these answers of its own."""


@dataclass(frozen=True)
class Estimate:
    """A share of liked answers, or a difference of two, with its interval."""

    value: float
    low: float
    high: float


def mean_estimate(values: Tensor, confidence: float, seed: int) -> Estimate:
    """The mean of independent values [N], with its interval by a bootstrap over them."""
    draws = people_resampled(torch.arange(len(values)), DRAWS, seed) @ values / len(values)
    return Estimate(float(values.mean()), *percentile_interval(draws, confidence))


@dataclass(frozen=True)
class PolicyValue:
    """One policy's value, estimated twice."""

    importance: Estimate
    """Self-normalised importance sampling."""
    robust: Estimate
    """Doubly robust."""
    effective_answers: float
    """Kish's effective sample size."""
    capped: float
    """Share of ratios at the cap."""


@dataclass(frozen=True)
class ValueComparison:
    """Candidate and parent on the same judged answers, resampled together."""

    answers: int
    people: int
    logged: float
    """Share liked as logged, by all behaviours."""
    candidate: PolicyValue
    parent: PolicyValue
    importance_gain: Estimate
    """Candidate minus parent."""
    robust_gain: Estimate

    def figures(self) -> dict[str, float]:
        """For a version's metrics, by name."""
        return {
            "value_logged": self.logged,
            "value_candidate": self.candidate.robust.value,
            "value_parent": self.parent.robust.value,
            "value_gain": self.robust_gain.value,
            "value_gain_low": self.robust_gain.low,
            "value_gain_high": self.robust_gain.high,
            "value_gain_importance": self.importance_gain.value,
            "value_effective_answers": self.candidate.effective_answers,
        }

    @property
    def finite(self) -> bool:
        """Whether every number that decides is one."""
        gains = (self.importance_gain, self.robust_gain)
        return all(math.isfinite(number) for gain in gains for number in (gain.value, gain.low, gain.high))


def measure_on_log(
    base: SharedBase,
    role: str | None,
    judged: Sequence[JudgedAnswer],
    like: Like,
    *,
    max_new_tokens: int,
    batch_size: int,
    token_budget: int,
    seed: int,
) -> PolicyOnLog:
    """The policy's ratios on the judged answers, and what it would be expected to be liked for its own.

    Its own answers are sampled once for each prompt, under the sampling settings of the logged answer.

    Args:
        role: the policy; None is the frozen base.
        judged: not empty.
        token_budget: padded tokens per forward pass.
    """
    answers = [one.answer for one in judged]
    settings = [(answer.temperature, answer.top_p, answer.top_k) for answer in answers]
    found: dict[int, TokenPair] = {}
    for wanted in sorted(set(settings)):
        rows = [row for row, one in enumerate(settings) if one == wanted]
        said = sample(
            base,
            role,
            [answers[row].prompt_ids for row in rows],
            max_new_tokens=max_new_tokens,
            greedy=False,
            seed=seed,
            batch_size=batch_size,
            temperature=wanted[0],
            top_p=wanted[1],
            top_k=wanted[2],
        )
        found |= {row: (answers[row].prompt_ids, answer) for row, answer in zip(rows, said, strict=True)}
    own = [found[row] for row in range(len(answers))]
    ratios = _log_ratios(base, role, answers, token_budget)
    return PolicyOnLog(ratios, like(own, [one.cohort for one in judged]).double().cpu(), tuple(own))


@torch.no_grad()
def _log_ratios(base: SharedBase, role: str | None, answers: Sequence[LoggedAnswer], token_budget: int) -> Tensor:
    ratios = torch.zeros(len(answers), dtype=torch.float64)
    pairs = [(answer.prompt_ids, answer.answer_ids) for answer in answers]
    with base.role(role):
        for batch in base.batches(pairs, range(len(pairs)), token_budget):
            for row, logits in zip(batch.rows, by_row(base.logits(batch), batch), strict=True):
                own = _sampling_logprobs(logits, answers[row])
                ratios[row] = float(own.sum()) - math.fsum(answers[row].behaviour_logprobs)
    return ratios


def _sampling_logprobs(logits: Tensor, answer: LoggedAnswer) -> Tensor:
    """Log-probability of each token under the answer's own sampling settings, float64 [length], from [length, V].

    With top_p or top_k it is the policy's own kept set that counts: what it would really say. A token outside has
    probability 0; what it keeps beyond the behaviour's set was never tried, and nothing here can see it.
    """
    scaled = logits / answer.temperature
    tokens = torch.tensor(answer.answer_ids, device=logits.device)[:, None]
    parts = []
    for first in range(0, len(tokens), _CHUNK):
        part = scaled[first : first + _CHUNK]
        if answer.truncated:
            top_k = torch.full(part.shape[:1], answer.top_k, device=part.device)
            part = confine(part, kept_set(part, top_k, torch.full(part.shape[:1], answer.top_p, device=part.device)))
        parts.append(torch.log_softmax(part, dim=-1).gather(-1, tokens[first : first + _CHUNK]).squeeze(-1))
    return torch.cat(parts).double()


def compare_on_log(
    judged: Sequence[JudgedAnswer],
    modelled: Tensor,
    candidate: PolicyOnLog,
    parent: PolicyOnLog,
    *,
    cap: float,
    confidence: float,
    seed: int,
) -> ValueComparison:
    """Both policies' values and their difference, with intervals by a bootstrap over people.

    Args:
        modelled: float64 [N], probability that each logged answer is liked, as the reward model has it.
        cap: largest ratio of a sequence.
        confidence: of the intervals, two-sided.
    """
    rewards = torch.tensor([float(one.liked) for one in judged], dtype=torch.float64)
    weights = torch.tensor([one.weight for one in judged], dtype=torch.float64)
    drawn = people_resampled(numbered([one.group for one in judged]), DRAWS, seed) * weights

    def values(policy: PolicyOnLog, times: Tensor) -> tuple[Tensor, Tensor]:
        ratios = sequence_ratios(policy.log_ratios, cap)
        importance = self_normalised(ratios, rewards, times)
        return importance, doubly_robust(ratios, rewards, modelled, policy.expected, times)

    def estimate(value: Tensor, draws: Tensor) -> Estimate:
        return Estimate(float(value), *percentile_interval(draws, confidence))

    found, both = [], []
    for policy in (candidate, parent):
        now, resampled = values(policy, weights), values(policy, drawn)
        both.append((now, resampled))
        ratios = sequence_ratios(policy.log_ratios, cap)
        found.append(
            PolicyValue(
                importance=estimate(now[0], resampled[0]),
                robust=estimate(now[1], resampled[1]),
                effective_answers=float(effective_sample_size(ratios * weights)) * len(judged),
                capped=float((ratios >= cap).double().mean()),
            )
        )
    (now, resampled), (now_parent, resampled_parent) = both
    return ValueComparison(
        answers=len(judged),
        people=len({one.group for one in judged}),
        logged=float((weights * rewards).sum() / weights.sum()),
        candidate=found[0],
        parent=found[1],
        importance_gain=estimate(now[0] - now_parent[0], resampled[0] - resampled_parent[0]),
        robust_gain=estimate(now[1] - now_parent[1], resampled[1] - resampled_parent[1]),
    )
