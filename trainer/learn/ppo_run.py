"""Offline PPO as a run's method: from logged answers and their scores to gradients of policy and critic.

Departures from Schulman et al. 2017 and Ziegler et al. 2019: the data are logged, so each token's own logged logprob is
the ratio's denominator (`algorithms.ppo`); advantages are computed once an epoch, with values of a critic that did not
see the answers (`learn.critic`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from trainer.algorithms.kl import adaptive_beta, entropy, k1, per_sequence
from trainer.algorithms.ppo import (
    Limits,
    StopLimits,
    policy_loss,
    stop_reason,
    update_metrics,
    value_loss,
    value_metrics,
)
from trainer.data import LoggedAnswer
from trainer.learn.config import LearnerConfig, PpoConfig
from trainer.learn.plan import make_plan
from trainer.learn.progress import Progress
from trainer.learn.replay import KeptSets
from trainer.learn.reward_model import Scorer
from trainer.learn.rollouts import Rollouts, check_replayable, prepare, token_pairs
from trainer.models.base import POLICY, SharedBase
from trainer.models.batching import TokenBatch
from trainer.models.forward import align, log_softmax, pick_tokens

CRITIC = "critic"


class PPOMethod:
    """PPO on those of `answers` that the plan has room for."""

    name = "ppo"

    def __init__(
        self,
        base: SharedBase,
        answers: Sequence[LoggedAnswer],
        kept: KeptSets | None,
        reward_model: Scorer | None,
        learner: LearnerConfig,
        config: PpoConfig,
        seed: int,
        critic_from: Path | None,
        progress: Progress,
    ) -> None:
        check_replayable(answers, kept)
        self.base, self.config, self.progress = base, config, progress
        self.token_budget = learner.micro_batch_tokens
        self.rates = {POLICY: config.learning_rate}
        if config.critic == "lora":
            self.rates[CRITIC] = config.critic_learning_rate
            base.open(CRITIC, seed + 1)
        rows, self.plan = make_plan(
            [len(self.rates) * (len(answer.prompt_ids) + len(answer.answer_ids)) for answer in answers],
            per_step=config.minibatch_answers,
            epochs=config.epochs,
            seed=seed,
            max_tokens=learner.max_tokens,
        ).compact()
        self.answers = [answers[row] for row in rows]
        self.kept = None if kept is None else kept.select(rows)
        self.pairs = token_pairs(self.answers)
        self.scorer = None if reward_model is None else reward_model.score
        self.critic_from = critic_from if CRITIC in self.rates else None
        self.limits, self.stops, self.beta = _limits(config), _stops(config), config.beta

    def prepare(self) -> None:
        """Scores, reference logprobs and values of the answers."""
        if not self.answers:
            return

        def tick(done: int) -> None:
            self.progress("ppo_prepare", done, len(self.answers), {})

        self.rollouts = prepare(
            self.base,
            self.answers,
            self.scorer,
            self.config,
            self.critic_from,
            tick,
            self.kept,
            token_budget=self.token_budget,
        )

    def begin_epoch(self, epoch: int) -> None:
        """Advantages at the present KL coefficient."""
        self.advantages, self.returns = self.rollouts.advantages(self.beta, self.config)

    def rate_factor(self, step: int) -> float:
        """1: PPO's rate is constant."""
        return 1.0

    def end_epoch(self, epoch: int, kl: float) -> None:
        """Adapt the KL coefficient."""
        self.beta = adaptive_beta(
            self.beta,
            kl,
            target=self.config.kl_target,
            horizon=self.config.kl_horizon,
            sequences=self.plan.size(epoch),
            clip=self.config.kl_error_clip,
        )

    def tensors(self) -> dict[str, Tensor]:
        """The rollouts."""
        return self.rollouts.tensors()

    def state(self) -> dict[str, float]:
        """The KL coefficient."""
        return {"beta": self.beta}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, float]) -> None:
        """Rollouts and KL coefficient of a checkpoint."""
        self.rollouts, self.beta = Rollouts(**tensors, kept=self.kept), state["beta"]

    def figures(self) -> dict[str, float]:
        """reward_mean, reward_std (of the scores), answers, behaviour_kl_k1_per_sequence (logged policy to base)."""
        if not self.answers:
            return {"answers": 0.0}
        data = self.rollouts
        return {
            "answers": float(len(self.answers)),
            "reward_mean": float(data.scores.mean()),
            "reward_std": float(data.scores.std(unbiased=False)),
            "behaviour_kl_k1_per_sequence": float(per_sequence(k1(data.behaviour, data.reference), data.mask)),
        }

    def accumulate(self, rows: Sequence[int]) -> tuple[dict[str, float], str | None]:
        """Gradients of policy and critic on the answers at `rows`, micro-batch by micro-batch."""
        data, chosen = self.rollouts, list(rows)
        tokens = int(data.mask[chosen].sum())
        log_p, spread = torch.zeros(data.mask.shape), torch.zeros(data.mask.shape)
        values = torch.zeros(data.mask.shape)
        total = {"policy_loss": 0.0, "value_loss": 0.0}
        for batch in self.base.batches(self.pairs, chosen, self.token_budget):
            inside, width = list(batch.rows), batch.mask.shape[1]
            gain, target, behaviour, old = (
                tensor[inside, :width].to(self.base.device)
                for tensor in (self.advantages, self.returns, data.behaviour, data.old_values)
            )
            now, disorder = self._log_probs(batch)
            loss = policy_loss(now, behaviour, gain, batch.mask, tokens=tokens, limits=self.limits)
            torch.autograd.backward(loss)
            total["policy_loss"] += float(loss.detach())
            log_p[inside, :width], spread[inside, :width] = now.detach().cpu(), disorder.cpu()
            if CRITIC in self.rates:
                with self.base.role(CRITIC):
                    seen = self.base.scalars(CRITIC, batch)
                loss = value_loss(seen, old, target, batch.mask, tokens=tokens, clip=self.config.value_clip)
                torch.autograd.backward(self.config.value_coefficient * loss)
                total["value_loss"] += float(loss.detach())
                values[inside, :width] = seen.detach().cpu()
        mask = data.mask[chosen]
        judged = values if CRITIC in self.rates else data.values
        metrics = total | update_metrics(
            log_p[chosen], data.behaviour[chosen], self.advantages[chosen], mask, data.versions[chosen], self.limits
        )
        metrics |= value_metrics(
            judged[chosen], data.old_values[chosen], self.returns[chosen], mask, self.config.value_clip
        )
        metrics["entropy_per_token"] = float(spread[chosen].sum()) / tokens
        metrics["reward_mean"] = float(data.scores[chosen].mean())
        return metrics, stop_reason(metrics, self.stops)

    def _log_probs(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """The policy's logprobs of the answer tokens, with gradient, and its entropy, without; both [B, A]."""
        with self.base.role(POLICY):
            logits = self.base.logits(batch)
        heat = self.rollouts.temperatures[list(batch.rows)]
        log_probs = log_softmax(logits, batch, heat, self.rollouts.kept_mask(batch, logits.shape[1]))
        with torch.no_grad():
            disorder = align(entropy(log_probs), batch)
        return pick_tokens(log_probs, batch), disorder


def _limits(config: PpoConfig) -> Limits:
    return Limits(
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        dual_clip=config.dual_clip,
        weight_cap=config.weight_cap,
        ratio_low=config.ratio_low,
        ratio_high=config.ratio_high,
        sequence_k3=config.sequence_k3,
    )


def _stops(config: PpoConfig) -> StopLimits:
    return StopLimits(
        mean_abs_log_ratio=config.stop_mean_abs_log_ratio,
        clip_fraction=config.stop_clip_fraction,
        effective_sample_size=config.stop_effective_sample_size,
    )
