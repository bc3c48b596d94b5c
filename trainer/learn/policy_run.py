"""The run that every way of training the policy shares: steps, drift measurement, back-off, checkpoints, stops.

Knows a shared base, a plan and a method; the method alone knows what a step learns. Where a measurement of the KL to
the frozen base exceeds the hard budget, the policy backs off towards the weights of the measurement before, until it is
within, and the run ends. Resumed equals uninterrupted, bit for bit on a CPU.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from pydantic import BaseModel
from torch import Tensor

from schemas.errors import Conflict
from trainer.learn.checkpoint import read_checkpoint, write_checkpoint
from trainer.learn.config import LearnerConfig
from trainer.learn.contexts import Contexts
from trainer.learn.drift import Drift, measure_drift
from trainer.learn.optimise import clipped_step, optimiser_tensors, restore_optimiser, set_rates
from trainer.learn.plan import Plan
from trainer.learn.progress import Progress
from trainer.models.adapter import load_role
from trainer.models.base import POLICY, SharedBase
from trainer.models.files import folder_digest

log = logging.getLogger(__name__)

OUT_OF_TOKENS, OVER_BUDGET = "max_tokens", "kl_budget"
_BACK_OFF = (0.5, 0.25, 0.125)
"""Shares of the way from the last safe weights to those beyond the budget that are tried before giving up all of it."""


class Method(Protocol):
    """A way to learn: what a run asks of it, in this order."""

    @property
    def name(self) -> str:
        """Of its stage, for whoever watches."""

    @property
    def plan(self) -> Plan:
        """Its steps."""

    @property
    def rates(self) -> Mapping[str, float]:
        """Learning rate of each role that is trained; the policy comes first."""

    def prepare(self) -> None:
        """Take from the base what does not change while the policy trains. The roles are open."""

    def begin_epoch(self, epoch: int) -> None:
        """Called before the first step of an epoch, and after a resumption in the midst of one."""

    def rate_factor(self, step: int) -> float:
        """Factor on the learning rates at `step` (from 0)."""

    def accumulate(self, rows: Sequence[int]) -> tuple[dict[str, float], str | None]:
        """Add up the gradients of one step; its metrics, and why the run must end instead of making it."""

    def end_epoch(self, epoch: int, kl: float) -> None:
        """Called after the last step of an epoch with the measured KL to the base, nats per sequence."""

    def tensors(self) -> dict[str, Tensor]:
        """What `prepare` found, for a checkpoint."""

    def state(self) -> dict[str, float]:
        """What changes from epoch to epoch; part of each step's metrics and of a checkpoint."""

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, float]) -> None:
        """Undo `tensors` and `state`, in place of `prepare`."""


class PolicyRun:
    """The state of one run, all of which a checkpoint holds. The base must have the method's roles open."""

    def __init__(
        self,
        base: SharedBase,
        method: Method,
        contexts: Contexts,
        learner: LearnerConfig,
        identity: str,
        resume_from: Path | None,
        progress: Progress,
    ) -> None:
        self.base, self.method, self.learner, self.progress = base, method, learner, progress
        self.contexts, self.identity, self.total = contexts, identity, len(method.plan.steps)
        self.step, self.stopped = 0, None if self.total else OUT_OF_TOKENS
        self.history: list[dict[str, float]] = []
        self.optimisers = {
            role: torch.optim.AdamW(base.parameters(role).values(), lr=rate, weight_decay=0.0)
            for role, rate in method.rates.items()
        }
        if resume_from is None:
            method.prepare()
            self.drift = self._measure()
            self.safe = base.snapshot(POLICY)
            if self.drift.kl > learner.kl_budget:
                self.stopped = OVER_BUDGET
        else:
            self._resume(resume_from)

    def learn(self, checkpoint_dir: Path | None) -> None:
        """Make all remaining steps, or stop where a limit says so; the policy ends within the KL budget."""
        plan, begun = self.method.plan, -1
        while self.step < self.total and self.stopped is None:
            epoch = plan.epochs[self.step]
            if epoch != begun:
                self.method.begin_epoch(epoch)
                begun = epoch
            metrics = self._update(plan.steps[self.step])
            if self.stopped is not None:
                break
            last = plan.ends_epoch(self.step)
            self.step += 1
            if last or self.step % self.learner.kl_check_every == 0:
                self._check_budget()
            if last and self.stopped is None:
                self.method.end_epoch(epoch, self.drift.kl)
            metrics |= {"kl_to_base_per_sequence": self.drift.kl} | self.method.state()
            self.history.append(metrics)
            self.progress(self.method.name, self.step, self.total, metrics)
            if checkpoint_dir is not None and self.step % self.learner.checkpoint_every == 0:
                self._checkpoint(checkpoint_dir)
        if self.stopped not in (None, OVER_BUDGET, OUT_OF_TOKENS):
            reason = self.stopped
            self._check_budget()  # steps since the last measurement were not judged yet
            self.stopped = self.stopped if self.stopped == OVER_BUDGET else reason
        if self.stopped is None and plan.cut:
            self.stopped = OUT_OF_TOKENS
        log.info(
            "%s: %d of %d steps, stopped by %s, KL to base %.2f",
            self.method.name, self.step, self.total, self.stopped, self.drift.kl,
        )  # fmt: skip

    def _update(self, rows: Sequence[int]) -> dict[str, float]:
        """One optimiser step on the examples at `rows`, unless its metrics say stop."""
        metrics, self.stopped = self.method.accumulate(rows)
        factor = self.method.rate_factor(self.step)
        for role, optimiser in self.optimisers.items():
            if self.stopped is None:
                set_rates(optimiser, [self.method.rates[role] * factor])
                metrics[f"grad_norm_{role}"] = clipped_step(optimiser, self.learner.max_grad_norm)
                if not math.isfinite(metrics[f"grad_norm_{role}"]):
                    self.stopped = f"non-finite grad_norm_{role}"
            optimiser.zero_grad(set_to_none=True)
        return metrics

    def _measure(self) -> Drift:
        return measure_drift(
            self.base,
            self.contexts.answers,
            prefix_cap=self.learner.kl_prefix_cap,
            micro_batch_tokens=self.learner.micro_batch_tokens,
            kept=self.contexts.kept,
        )

    def _check_budget(self) -> None:
        """Measure; beyond the budget the run ends, with the weights backed off towards the last safe ones."""
        found = self._measure()
        if found.kl > self.learner.kl_budget:
            log.warning("KL to base %.2f exceeds the budget of %.2f", found.kl, self.learner.kl_budget)
            self.stopped = OVER_BUDGET
            beyond = self.base.snapshot(POLICY)
            for share in _BACK_OFF:
                between = {name: torch.lerp(self.safe[name], beyond[name], share) for name in beyond}
                self.base.restore(POLICY, between)
                found = self._measure()
                if found.kl <= self.learner.kl_budget:
                    break
            else:
                self.base.restore(POLICY, self.safe)
                found = self.drift
        self.drift, self.safe = found, self.base.snapshot(POLICY)

    def _checkpoint(self, folder: Path) -> None:
        parts = {"prepared": self.method.tensors(), "safe": self.safe}
        for role, optimiser in self.optimisers.items():
            parts[role] = self.base.snapshot(role)
            parts[f"optimiser-{role}"] = optimiser_tensors(optimiser, self.base.parameters(role))
        state = {
            "identity": self.identity,
            "step": self.step,
            "stopped": self.stopped,
            "drift": dataclasses.asdict(self.drift),
            "history": self.history,
            "method": self.method.state(),
        }
        write_checkpoint(folder, self.step, parts, state)

    def _resume(self, folder: Path) -> None:
        stored = read_checkpoint(folder)
        state = stored.state
        if state["identity"] != self.identity:
            raise Conflict("The checkpoint is of a run with other answers, settings or start", field="resume_from")
        self.method.restore(stored.part("prepared"), state["method"])
        self.safe = stored.part("safe")
        for role, optimiser in self.optimisers.items():
            self.base.restore(role, stored.part(role))
            restore_optimiser(optimiser, self.base.parameters(role), stored.part(f"optimiser-{role}"))
        self.step, self.stopped = state["step"], state["stopped"]
        self.drift, self.history = Drift(**state["drift"]), list(state["history"])


def open_policy(base: SharedBase, start_from: Path | None, seed: int) -> None:
    """The policy as the run begins: that of `start_from`, or the base itself. The reference is the base either way."""
    if start_from is None:
        base.open(POLICY, seed)
    else:
        load_role(base, POLICY, start_from)


def run_identity(
    settings: Sequence[BaseModel], seed: int, folders: Sequence[Path | None], data: Sequence[object]
) -> str:
    """sha-256 of all that decides a run's course but the base and the reward model."""
    parts = [section.model_dump_json() for section in settings] + [str(seed)]
    parts += ["" if folder is None else folder_digest(folder) for folder in folders]
    parts += [repr(item) for item in data]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
