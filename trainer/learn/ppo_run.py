"""The state and the steps of one PPO run.

Knows a shared base, logged answers and their scores; decides each step, each measurement and when to stop. What a run
is given and what it leaves behind is `learn.ppo`'s.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from schemas.errors import Conflict
from trainer.algorithms.kl import adaptive_beta, entropy
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
from trainer.learn.checkpoint import read_checkpoint, write_checkpoint
from trainer.learn.config import PpoConfig
from trainer.learn.drift import Drift, measure_drift
from trainer.learn.optimise import clipped_step, optimiser_tensors, restore_optimiser
from trainer.learn.progress import Progress
from trainer.learn.replay import KeptSets
from trainer.learn.reward_model import RewardModel
from trainer.learn.rollouts import Rollouts, prepare, token_pairs
from trainer.models.adapter import load_role
from trainer.models.base import POLICY, SharedBase
from trainer.models.batching import TokenBatch, micro_batches
from trainer.models.files import folder_digest
from trainer.models.forward import pick_columns, pick_tokens, span_log_softmax

log = logging.getLogger(__name__)

CRITIC = "critic"
_BACK_OFF = (0.5, 0.25, 0.125)
"""Shares of the way from the last safe weights to those beyond the budget that are tried before giving up all of it."""


class PPORun:
    """The state of one run, all of which a checkpoint holds."""

    def __init__(
        self,
        base: SharedBase,
        answers: Sequence[LoggedAnswer],
        reward_model: RewardModel | None,
        config: PpoConfig,
        seed: int,
        start_from: Path | None,
        critic_from: Path | None,
        resume_from: Path | None,
        progress: Progress,
        kept: KeptSets | None,
    ) -> None:
        self.base, self.answers, self.config, self.seed, self.progress = base, answers, config, seed, progress
        self.pairs = token_pairs(answers)
        self.limits, self.stops = _limits(config), _stops(config)
        self.per_epoch = -(-len(answers) // config.minibatch_answers)
        self.total = self.per_epoch * config.epochs
        self.identity = _identity(answers, config, seed, start_from, critic_from, kept)
        self.step, self.beta, self.stopped = 0, config.beta, None
        self.history: list[dict[str, float]] = []
        if start_from is None:
            base.open(POLICY, seed)
        else:
            load_role(base, POLICY, start_from)
        self.roles = [POLICY, CRITIC] if config.critic == "lora" else [POLICY]
        if CRITIC in self.roles:
            base.open(CRITIC, seed + 1)
        rates = {POLICY: config.learning_rate, CRITIC: config.critic_learning_rate}
        self.optimisers = {
            role: torch.optim.AdamW(base.parameters(role).values(), lr=rates[role], weight_decay=0.0)
            for role in self.roles
        }
        if resume_from is None:
            scorer = None if reward_model is None else reward_model.score
            critic_from = critic_from if CRITIC in self.roles else None
            tick = lambda done: progress("ppo_prepare", done, len(answers), {})  # noqa: E731 a callback of one line
            self.rollouts = prepare(base, answers, scorer, config, critic_from, tick, kept)
            self.drift = self._measure()
            self.safe = base.snapshot(POLICY)
            if self.drift.kl > config.kl_budget:
                self.stopped = "kl_budget"
        else:
            self._resume(resume_from, kept)

    def learn(self, checkpoint_dir: Path | None) -> None:
        """Make all remaining steps, or stop where a limit says so; the policy ends within the KL budget."""
        advantages = returns = torch.empty(0)
        prepared = -1
        while self.step < self.total and self.stopped is None:
            epoch, place = divmod(self.step, self.per_epoch)
            if epoch != prepared:
                advantages, returns = self.rollouts.advantages(self.beta, self.config)
                order = self._order(epoch)
                prepared = epoch
            size = self.config.minibatch_answers
            metrics = self._update(order[place * size : (place + 1) * size], advantages, returns)
            if self.stopped is not None:
                break
            self.step += 1
            last = place + 1 == self.per_epoch
            if last or self.step % self.config.kl_check_every == 0:
                self._check_budget()
            if last and self.stopped is None:
                self.beta = adaptive_beta(
                    self.beta,
                    self.drift.kl,
                    target=self.config.kl_target,
                    horizon=self.config.kl_horizon,
                    sequences=len(self.answers),
                    clip=self.config.kl_error_clip,
                )
            metrics |= {"kl_to_base_per_sequence": self.drift.kl, "beta": self.beta}
            self.history.append(metrics)
            self.progress("ppo", self.step, self.total, metrics)
            if checkpoint_dir is not None and self.step % self.config.checkpoint_every == 0:
                self._checkpoint(checkpoint_dir)
        if self.stopped not in (None, "kl_budget"):
            reason = self.stopped
            self._check_budget()  # steps since the last measurement were not judged yet
            self.stopped = self.stopped if self.stopped == "kl_budget" else reason
        log.info(
            "ppo: %d of %d steps, stopped by %s, KL to base %.2f", self.step, self.total, self.stopped, self.drift.kl
        )

    def _order(self, epoch: int) -> list[int]:
        """The epoch's shuffle: a function of seed and epoch, so a checkpoint has no generator to keep."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return [int(row) for row in torch.randperm(len(self.answers), generator=generator)]

    def _update(self, rows: list[int], advantages: torch.Tensor, returns: torch.Tensor) -> dict[str, float]:
        """One optimiser step on the answers at `rows`, unless its metrics say stop."""
        data, tokens = self.rollouts, int(self.rollouts.mask[rows].sum())
        log_p, spread = torch.zeros(data.mask.shape), torch.zeros(data.mask.shape)
        values = torch.zeros(data.mask.shape)
        total = {"policy_loss": 0.0, "value_loss": 0.0}
        for batch in micro_batches(self.pairs, rows, self.config.micro_batch_tokens, self.base.device):
            inside, width = list(batch.rows), batch.mask.shape[1]
            gain, target, behaviour, old = (
                tensor[inside, :width].to(self.base.device)
                for tensor in (advantages, returns, data.behaviour, data.old_values)
            )
            now, disorder = self._log_probs(batch)
            loss = policy_loss(now, behaviour, gain, batch.mask, tokens=tokens, limits=self.limits)
            torch.autograd.backward(loss)
            total["policy_loss"] += float(loss.detach())
            log_p[inside, :width], spread[inside, :width] = now.detach().cpu(), disorder.cpu()
            if CRITIC in self.roles:
                with self.base.role(CRITIC):
                    seen = self.base.scalars(CRITIC, batch)
                loss = value_loss(seen, old, target, batch.mask, tokens=tokens, clip=self.config.value_clip)
                torch.autograd.backward(self.config.value_coefficient * loss)
                total["value_loss"] += float(loss.detach())
                values[inside, :width] = seen.detach().cpu()
        mask = data.mask[rows]
        judged = values if CRITIC in self.roles else data.values
        metrics = total | update_metrics(
            log_p[rows], data.behaviour[rows], advantages[rows], mask, data.versions[rows], self.limits
        )
        metrics |= value_metrics(judged[rows], data.old_values[rows], returns[rows], mask, self.config.value_clip)
        metrics["entropy_per_token"] = float(spread[rows].sum()) / tokens
        metrics["reward_mean"] = float(data.scores[rows].mean())
        self.stopped = stop_reason(metrics, self.stops)
        for role, optimiser in self.optimisers.items():
            if self.stopped is None:
                metrics[f"grad_norm_{role}"] = clipped_step(optimiser, self.config.max_grad_norm)
                if not math.isfinite(metrics[f"grad_norm_{role}"]):
                    self.stopped = f"non-finite grad_norm_{role}"
            optimiser.zero_grad(set_to_none=True)
        return metrics

    def _log_probs(self, batch: TokenBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """The policy's logprobs of the answer tokens, with gradient, and its entropy, without; both [B, A]."""
        heat = self.rollouts.temperatures[list(batch.rows)].to(self.base.device)
        with self.base.role(POLICY):
            logits, index = self.base.logits(batch)
        log_probs = span_log_softmax(logits, heat, self.rollouts.kept_mask(batch, index, logits.shape))
        with torch.no_grad():
            disorder = pick_columns(entropy(log_probs), index, batch)
        return pick_tokens(log_probs, index, batch), disorder

    def _measure(self) -> Drift:
        generator = torch.Generator().manual_seed(self.seed)
        rows = torch.randperm(len(self.answers), generator=generator)[: self.config.kl_check_answers].tolist()
        return measure_drift(
            self.base,
            [self.answers[row] for row in rows],
            prefix_cap=self.config.kl_prefix_cap,
            micro_batch_tokens=self.config.micro_batch_tokens,
            kept=None if self.rollouts.kept is None else self.rollouts.kept.select(rows),
        )

    def _check_budget(self) -> None:
        """Measure; beyond the budget the run ends, with the weights backed off towards the last safe ones."""
        found = self._measure()
        if found.kl > self.config.kl_budget:
            log.warning("ppo: KL to base %.2f exceeds the budget of %.2f", found.kl, self.config.kl_budget)
            self.stopped = "kl_budget"
            beyond = self.base.snapshot(POLICY)
            for share in _BACK_OFF:
                between = {name: torch.lerp(self.safe[name], beyond[name], share) for name in beyond}
                self.base.restore(POLICY, between)
                found = self._measure()
                if found.kl <= self.config.kl_budget:
                    break
            else:
                self.base.restore(POLICY, self.safe)
                found = self.drift
        self.drift, self.safe = found, self.base.snapshot(POLICY)

    def _checkpoint(self, folder: Path) -> None:
        parts = {"rollouts": self.rollouts.tensors(), "safe": self.safe}
        for role, optimiser in self.optimisers.items():
            parts[role] = self.base.snapshot(role)
            parts[f"optimiser-{role}"] = optimiser_tensors(optimiser, self.base.parameters(role))
        state = {
            "identity": self.identity,
            "step": self.step,
            "beta": self.beta,
            "stopped": self.stopped,
            "drift": dataclasses.asdict(self.drift),
            "history": self.history,
        }
        write_checkpoint(folder, self.step, parts, state)

    def _resume(self, folder: Path, kept: KeptSets | None) -> None:
        stored = read_checkpoint(folder)
        if stored.state["identity"] != self.identity:
            raise Conflict("The checkpoint is of a run with other answers, settings or start", field="resume_from")
        self.rollouts, self.safe = Rollouts(**stored.part("rollouts"), kept=kept), stored.part("safe")
        for role, optimiser in self.optimisers.items():
            self.base.restore(role, stored.part(role))
            restore_optimiser(optimiser, self.base.parameters(role), stored.part(f"optimiser-{role}"))
        state = stored.state
        self.step, self.beta, self.stopped = state["step"], state["beta"], state["stopped"]
        self.drift, self.history = Drift(**state["drift"]), list(state["history"])


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


def _identity(
    answers: Sequence[LoggedAnswer],
    config: PpoConfig,
    seed: int,
    start_from: Path | None,
    critic_from: Path | None,
    kept: KeptSets | None,
) -> str:
    """sha-256 of all that decides a run's course but the base and the reward model."""
    parts = [config.model_dump_json(), str(seed)]
    parts += ["" if folder is None else folder_digest(folder) for folder in (start_from, critic_from)]
    parts += [repr(answer) for answer in answers]
    parts += [] if kept is None else [kept.digest()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
