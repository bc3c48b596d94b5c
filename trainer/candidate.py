"""From a dataset to a candidate: replay of truncated answers, reward model, training of the policy.

Each step leaves a folder or file in the turn's folder when it is done and is skipped when that is there, so an
interrupted turn goes on where it stopped and ends with the same bytes. Knows the learner;
knows no log, no journal and no gates.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from pydantic import Field, ValidationError
from torch import Tensor

from exchange.durable import write_whole
from schemas.base import Record
from schemas.errors import Conflict, IntegrityError
from schemas.manifests import canonical_json
from schemas.reports import Curves
from trainer.before import Before
from trainer.data import TokenPair
from trainer.joining.exclusions import Reason
from trainer.learn.aspects import Aspects, aspects_beside
from trainer.learn.config import PolicyRecipe
from trainer.learn.policy import PolicyResult, train_policy
from trainer.learn.replay import replay
from trainer.learn.reward import train_reward_model
from trainer.learn.reward_model import RewardModel
from trainer.learn.reward_report import RecordedSteps
from trainer.learn.rollouts import token_pairs
from trainer.learn.states import pooled_states
from trainer.models.base import SharedBase
from trainer.progress import Reporter
from trainer.settings import TrainerSettings
from trainer.training_data import TrainingData

REWARD_CURVES = "reward-curves.json"
_R = TypeVar("_R", bound=Record)


class Learned(Record):
    """What training the policy did, kept beside its adapter."""

    steps: int = Field(description="optimiser steps made")
    stopped: str | None = Field(description="why it ended before its last step")
    kl: float = Field(description="to the frozen base on logged answers, nats per sequence")
    metrics: dict[str, float]
    curves: Curves | None = Field(default=None, description="metrics of each step")


class Workshop:
    """One turn's learning on one base model in memory.

    Args:
        work: the turn's folder.
        progress: called at every step; may raise to stop.
    """

    def __init__(
        self,
        base: SharedBase,
        settings: TrainerSettings,
        work: Path,
        progress: Reporter,
    ) -> None:
        self.base = base
        self.settings = settings
        self.work = work
        self.progress = progress

    @property
    def adapter(self) -> Path:
        """Where the candidate's files lie once it is trained."""
        return self.work / "policy" / "adapter"

    @property
    def reward_folder(self) -> Path:
        """Where the reward model lies once it is trained."""
        return self.work / "reward"

    def replay(self, data: TrainingData, before: Before) -> tuple[TrainingData, Mapping[str, Reason]]:
        """The data with what top_p and top_k kept, without the answers where that cannot be found; why, by sample id.

        Done anew after an interruption: its result are token ids, which must not lie on a disk unsealed.
        """
        tick = lambda done, total: self.progress("replay", done, total, {})  # noqa: E731 a callback of one line
        settings = self.settings
        found = replay(
            self.base,
            data.answers,
            before.behaviours,
            settings.ppo,
            tick,
            token_budget=settings.learner.micro_batch_tokens,
        )
        return replace(data, answers=found.answers, kept=found.kept), found.left_out

    def states(self, answers: Sequence[TokenPair]) -> Tensor:
        """What the frozen base makes of answers, float [N, H]."""
        config = self.settings.reward_model
        return pooled_states(
            self.base, answers, config.pooling, config.micro_batch_tokens, stage="raters", progress=self.progress
        )

    def train_reward(self, data: TrainingData) -> RewardModel:
        """The turn's reward model, fresh on all labels so far; its report is laid beside it by `trainer.judging`."""
        reference = token_pairs(data.answers)
        if self.reward_folder.is_dir():
            # Scored all together as at first, so that an interrupted turn ends with the same bytes.
            return RewardModel.load(self.base, self.reward_folder).remembering(reference)
        steps = RecordedSteps(self.progress)
        model = train_reward_model(
            self.base,
            data.pairs,
            data.thumbs,
            self.settings.reward_model,
            self.settings.seed,
            ratings=data.ratings,
            reference=reference,
            progress=steps,
        )
        write_whole(self.work / REWARD_CURVES, canonical_json(Curves.of(steps.history)))
        model.save(self.reward_folder)
        return model

    def train_policy(self, data: TrainingData, reward: RewardModel, before: Before) -> Learned:
        """The method of the settings, from the parent's adapter, with the frozen base as reference."""
        kept, checkpoints = self.work / "learned.json", self.work / "checkpoints"
        if self.adapter.is_dir() and kept.exists():
            return read_record(kept, Learned)
        recipe = self.settings.policy_recipe
        if before.beta is not None:
            recipe = recipe.model_copy(update={"ppo": recipe.ppo.model_copy(update={"beta": before.beta})})
        try:
            result = self._train(data, reward, recipe, before, checkpoints if any(checkpoints.glob("step-*")) else None)
        except Conflict:
            # Someone's data was erased since, so the checkpoint is of answers that may not be used any more.
            shutil.rmtree(checkpoints)
            result = self._train(data, reward, recipe, before, None)
        last = dict(result.history[-1]) if result.history else {}
        figures = {**last, **result.figures, "steps": float(result.steps), "tokens": float(result.tokens)}
        if result.beta is not None:
            figures["beta_next"] = result.beta
        learned = Learned(
            steps=result.steps,
            stopped=result.stopped,
            kl=result.kl_to_reference,
            metrics=finite(figures),
            curves=Curves.of(result.history),
        )
        write_whole(kept, canonical_json(learned))
        return learned

    def _train(
        self, data: TrainingData, reward: RewardModel, recipe: PolicyRecipe, before: Before, resume_from: Path | None
    ) -> PolicyResult:
        return train_policy(
            self.base,
            data.for_policy(),
            self.aspects(data, reward).scorer(),
            recipe,
            self.settings.seed,
            _fresh(self.work / "policy"),
            start_from=before.parent,
            resume_from=resume_from,
            checkpoint_dir=self.work / "checkpoints",
            progress=self.progress,
        )

    def aspects(self, data: TrainingData, reward: RewardModel) -> Aspects:
        """The reward model with its aspects: what PPO is paid by."""
        rules, answers = self.settings.reward_model.aspects, token_pairs(data.answers)
        return aspects_beside(self.reward_folder, reward, data.aspects, rules, answers)


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Without what is no number: manifests hold none."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _fresh(folder: Path) -> Path:
    """The path of a folder that does not exist: what a crash left half noted is removed."""
    if folder.exists():
        shutil.rmtree(folder)
    return folder


def read_record(path: Path, model: type[_R]) -> _R:
    """A finished step's record. Raises IntegrityError where the file is damaged."""
    try:
        return model.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise IntegrityError(f"{path} is damaged", remedy="Remove it; the step is done anew.") from error
