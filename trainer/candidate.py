"""From a dataset to a judged candidate: reward model, training of the policy, measurements, gates, probes.

Each step leaves a folder or file in the turn's folder when it is done and is skipped when that is there, so an
interrupted turn goes on where it stopped and ends with the same bytes. Knows the learner; knows no log and no journal.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from pydantic import Field, ValidationError
from transformers import PreTrainedTokenizerBase

from exchange.durable import write_whole
from schemas.base import Record
from schemas.errors import Conflict, IntegrityError
from schemas.manifests import AnswerExample, GateReport, Probe, canonical_json
from schemas.reports import REWARD_REPORT_FILE, Curves
from trainer.data import PreferencePair
from trainer.examine import Examiner
from trainer.gates.judge import Evidence, judge
from trainer.gates.measure import PolicyMeasurement, answer_logprobs
from trainer.gates.sample import render_chat, sample
from trainer.joining.exclusions import Reason
from trainer.learn.aspects import Aspects, aspects_beside
from trainer.learn.config import PolicyRecipe
from trainer.learn.policy import PolicyResult, train_policy
from trainer.learn.replay import replay
from trainer.learn.reward import train_reward_model
from trainer.learn.reward_model import RewardModel
from trainer.learn.reward_report import RecordedSteps, liked_probability, reward_report
from trainer.learn.rollouts import token_pairs
from trainer.models.base import POLICY, SharedBase
from trainer.progress import Reporter
from trainer.settings import TrainerSettings
from trainer.suites.cases import Suites
from trainer.suites.run import changed_examples, judged
from trainer.training_data import TrainingData

_REWARD_CURVES = "reward-curves.json"
_PROBES = 3
_PROBE_TOKENS = 16
_R = TypeVar("_R", bound=Record)


@dataclass(frozen=True)
class Before:
    """What a candidate is compared with."""

    parent: Path | None
    """Folder of the parent's adapter; None where the parent is the base."""
    beta: float | None
    """KL coefficient that the parent's run ended with; None: the settings'."""
    reward_model: Path | None
    """Folder of the reward model before; None for the first."""
    behaviours: Mapping[int, Path] = field(default_factory=dict)
    """Adapter folders of the versions whose truncated answers are to be replayed, as far as they are still there."""


class Learned(Record):
    """What training the policy did, kept beside its adapter."""

    steps: int = Field(description="optimiser steps made")
    stopped: str | None = Field(description="why it ended before its last step")
    kl: float = Field(description="to the frozen base on logged answers, nats per sequence")
    metrics: dict[str, float]
    curves: Curves | None = Field(default=None, description="metrics of each step")


class Judgement(Record):
    """What the gates said of a candidate, and what the server will check."""

    gates: GateReport
    kl_nats_per_sequence: float
    accuracy: float | None
    metrics: dict[str, float]
    probes: tuple[Probe, ...]
    examples: tuple[AnswerExample, ...] = ()


class Workshop:
    """One turn's learning on one base model in memory.

    Args:
        work: the turn's folder.
        progress: called at every step; may raise to stop.
    """

    def __init__(
        self,
        base: SharedBase,
        tokenizer: PreTrainedTokenizerBase,
        settings: TrainerSettings,
        work: Path,
        progress: Reporter,
    ) -> None:
        self._base = base
        self._tokenizer = tokenizer
        self._settings = settings
        self._work = work
        self._progress = progress

    @property
    def adapter(self) -> Path:
        """Where the candidate's files lie once it is trained."""
        return self._work / "policy" / "adapter"

    @property
    def reward_folder(self) -> Path:
        """Where the reward model lies once it is trained."""
        return self._work / "reward"

    def replay(self, data: TrainingData, before: Before) -> tuple[TrainingData, Mapping[str, Reason]]:
        """The data with what top_p and top_k kept, without the answers where that cannot be found; why, by sample id.

        Done anew after an interruption: its result are token ids, which must not lie on a disk unsealed.
        """
        tick = lambda done, total: self._progress("replay", done, total, {})  # noqa: E731 a callback of one line
        settings = self._settings
        found = replay(
            self._base,
            data.answers,
            before.behaviours,
            settings.ppo,
            tick,
            token_budget=settings.learner.micro_batch_tokens,
        )
        return replace(data, answers=found.answers, kept=found.kept), found.left_out

    def train_reward(self, data: TrainingData) -> RewardModel:
        """The turn's reward model, fresh on all labels so far; `judge` lays its report beside it."""
        reference = token_pairs(data.answers)
        if self.reward_folder.is_dir():
            # Scored all together as at first, so that an interrupted turn ends with the same bytes.
            return RewardModel.load(self._base, self.reward_folder).remembering(reference)
        steps = RecordedSteps(self._progress)
        model = train_reward_model(
            self._base,
            data.pairs,
            data.thumbs,
            self._settings.reward_model,
            self._settings.seed,
            ratings=data.ratings,
            reference=reference,
            progress=steps,
        )
        write_whole(self._work / _REWARD_CURVES, canonical_json(Curves.of(steps.history)))
        model.save(self.reward_folder)
        return model

    def train_policy(self, data: TrainingData, reward: RewardModel, before: Before) -> Learned:
        """The method of the settings, from the parent's adapter, with the frozen base as reference."""
        kept, checkpoints = self._work / "learned.json", self._work / "checkpoints"
        if self.adapter.is_dir() and kept.exists():
            return _read(kept, Learned)
        recipe = self._settings.policy_recipe
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
            metrics=_finite(figures),
            curves=Curves.of(result.history),
        )
        write_whole(kept, canonical_json(learned))
        return learned

    def _train(
        self, data: TrainingData, reward: RewardModel, recipe: PolicyRecipe, before: Before, resume_from: Path | None
    ) -> PolicyResult:
        return train_policy(
            self._base,
            data.for_policy(),
            self._aspects(data, reward).scorer(),
            recipe,
            self._settings.seed,
            _fresh(self._work / "policy"),
            start_from=before.parent,
            resume_from=resume_from,
            checkpoint_dir=self._work / "checkpoints",
            progress=self._progress,
        )

    def _aspects(self, data: TrainingData, reward: RewardModel) -> Aspects:
        rules, answers = self._settings.reward_model.aspects, token_pairs(data.answers)
        return aspects_beside(self.reward_folder, reward, data.aspects, rules, answers)

    def judge(
        self, data: TrainingData, reward: RewardModel, learned: Learned, before: Before, suites: Suites
    ) -> Judgement:
        """Measure candidate and parent on the same prompts and cases, and put them to the gates."""
        kept = self._work / "judgement.json"
        if kept.exists():
            return _read(kept, Judgement)
        untied = [pair for pair in data.heldout_pairs if not pair.tie]
        figures = reward.evaluate(data.heldout_pairs, data.heldout_thumbs, data.heldout_ratings)
        self._report_reward(data, reward, figures)
        previous = self._previous_accuracy(untied, before)
        self._progress("measure parent", 0, 1, {})
        like = partial(liked_probability, reward)
        examiner = Examiner(self._base, self._tokenizer, self._settings, suites, data.prompts, data.judged, like)
        parent = examiner.examine(before.parent)
        self._progress("measure parent", 1, 1, {})
        self._progress("measure candidate", 0, 1, {})
        candidate = examiner.examine(self.adapter)
        value = examiner.value(candidate, parent)
        self._progress("measure candidate", 1, 1, {})
        accuracy = figures.get("accuracy_pairs")
        # Two measurements of one quantity, on logged and on fresh answers: the hard budget is held to the larger.
        kl = max(learned.kl, candidate.measurement.kl_nats_per_sequence or 0.0)
        evidence = Evidence(
            candidate=candidate.measurement,
            parent=parent.measurement,
            kl_nats_per_sequence=kl,
            kl_budget=self._settings.learner.kl_budget,
            length_correlation=figures.get("corr_reward_length"),
            length_correlation_partial=figures.get("corr_reward_length_partial"),
            heldout_answers=2 * len(data.heldout_pairs) + len(data.heldout_thumbs) + len(data.heldout_ratings),
            heldout_right=(accuracy or 0.0) * len(untied),
            heldout_pairs=len(untied),
            previous_accuracy=previous,
            ability=judged(suites.ability, candidate.answers.ability),
            ability_parent=judged(suites.ability, parent.answers.ability),
            attacks=judged(suites.red_team, candidate.answers.red_team),
            attacks_parent=judged(suites.red_team, parent.answers.red_team),
            value=value,
            judged_answers=len(data.judged),
            judging_people=len({one.group for one in data.judged}),
        )
        judgement = Judgement(
            gates=judge(evidence, self._settings.gates),
            kl_nats_per_sequence=kl,
            accuracy=accuracy,
            metrics=_finite(
                {
                    **{f"reward_{name}": x for name, x in figures.items()},
                    **_figures(candidate.measurement, parent.measurement),
                    **({} if value is None else value.figures()),
                }
            ),
            probes=self._probes(suites),
            examples=changed_examples(suites, parent.answers, candidate.answers),
        )
        write_whole(kept, canonical_json(judgement))
        return judgement

    def _report_reward(self, data: TrainingData, reward: RewardModel, figures: Mapping[str, float]) -> None:
        """Lay the reward model's report beside it, with what else is published of it."""
        report = reward_report(
            reward,
            data.heldout_pairs,
            data.heldout_thumbs,
            data.heldout_ratings,
            learnt_from=data.labels(),
            figures=_finite(figures),
            curves=_read(self._work / _REWARD_CURVES, Curves),
            aspects=self._aspects(data, reward).reports(data.heldout_aspects, token_pairs(data.answers)),
        )
        write_whole(self.reward_folder / REWARD_REPORT_FILE, canonical_json(report))

    def _previous_accuracy(self, untied: Sequence[PreferencePair], before: Before) -> float | None:
        """The reward model before, on the same fresh labels: a harder batch of labels then blames nobody."""
        if before.reward_model is None or not untied:
            return None
        previous = RewardModel.load(self._base, before.reward_model, role="reward-before")
        return previous.evaluate(untied, ()).get("accuracy_pairs")

    def _probes(self, suites: Suites) -> tuple[Probe, ...]:
        """The candidate's own logprobs of its greedy answers to a few curated prompts. It must be loaded."""
        prompts = [render_chat(self._tokenizer, case.chat()) for case in [*suites.ability, *suites.red_team][:_PROBES]]
        answers = sample(self._base, POLICY, prompts, max_new_tokens=_PROBE_TOKENS, greedy=True, seed=0)
        pairs = list(zip(prompts, answers, strict=True))
        logprobs = answer_logprobs(self._base, POLICY, pairs, token_budget=self._settings.learner.micro_batch_tokens)
        return tuple(
            Probe(prompt_token_ids=prompt, answer_token_ids=answer, logprobs=found)
            for (prompt, answer), found in zip(pairs, logprobs, strict=True)
        )


def _figures(candidate: PolicyMeasurement, parent: PolicyMeasurement) -> dict[str, float]:
    named = {
        "candidate_kl_fresh_nats_per_sequence": candidate.kl_nats_per_sequence,
        "candidate_entropy_nats_per_token": candidate.entropy_nats_per_token,
        "parent_entropy_nats_per_token": parent.entropy_nats_per_token,
    }
    return {name: value for name, value in named.items() if value is not None}


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _fresh(folder: Path) -> Path:
    """The path of a folder that does not exist: what a crash left half noted is removed."""
    if folder.exists():
        shutil.rmtree(folder)
    return folder


def _read(path: Path, model: type[_R]) -> _R:
    try:
        return model.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise IntegrityError(f"{path} is damaged", remedy="Remove it; the step is done anew.") from error
