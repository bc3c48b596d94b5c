"""What the answers that candidate and parent were examined by say of the reward: audit, slices, lures.

The answers are those that `trainer.examine` sampled already; nothing is sampled here. Knows the learner's model and
which labels and answers go to which measurement; knows nothing of thresholds and files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from trainer.data import TokenPair, labelled_answers
from trainer.examine import Seen
from trainer.gates.couples import Couple, couples, equal_voices
from trainer.gates.lured import Lured, LurePay, followed, pay
from trainer.gates.panels import Audit, audit, fit_panels, mean_states
from trainer.gates.sample import context_length, stop_tokens
from trainer.gates.slices import SliceGain, slice_gains
from trainer.learn.reward_model import RewardModel, Scorer
from trainer.models.base import SharedBase
from trainer.settings import TrainerSettings
from trainer.suites.lures import Kind, Lure
from trainer.training_data import TrainingData

_DRESSED = 32
"""Real answers that lures are laid over: their intervals are then a few tenths of a deviation wide."""
_VERDICTS = 2000
"""Pairs, and thumbs, at most, that people's taste for length is read from."""


@dataclass(frozen=True)
class Compared:
    """Candidate and parent by their fresh answers."""

    audit: Audit | None
    slices: tuple[SliceGain, ...]
    """By the reward of fresh answers."""
    pays: tuple[LurePay, ...]
    padding: Lured | None
    flattery: Lured | None

    def figures(self) -> dict[str, float]:
        """For a version's metrics, by name."""
        found = {f"lure_{one.lure.name}": one.gain.value for one in self.pays}
        if self.audit is not None:
            found["audit_trained_gain"] = self.audit.trained.value
            if self.audit.audit is not None:
                found["audit_panel_gain"] = self.audit.audit.value
        return found


def compare(
    base: SharedBase,
    tokenizer: PreTrainedTokenizerBase,
    settings: TrainerSettings,
    data: TrainingData,
    rewards: tuple[RewardModel, Scorer],
    lures: Sequence[Lure],
    candidate: Seen,
    parent: Seen,
) -> Compared:
    """Both policies, by answers to the same prompts in the same order.

    Args:
        rewards: what was learnt from people, which the panels audit; and that with the operator's aspects, which PPO is
            paid by. They are one where no aspect counts.
    """
    data = data.of_people()  # a model's taste audits nobody
    learnt, paid = rewards
    prompts = [prompt for prompt, _ in candidate.fresh]
    gains = _gains(learnt, candidate, parent)
    paid_gains = gains if paid is learnt else _gains(paid, candidate, parent)
    confidence, seed, least = settings.gates.confidence, settings.seed, settings.gates.min_judging_people

    def audited() -> Audit | None:
        panels = fit_panels(base, data.pairs, data.likes(), settings.reward_model)
        if not panels or not prompts:
            return None
        budget = settings.reward_model.micro_batch_tokens
        now, before = (mean_states(base, seen.fresh, budget) for seen in (candidate, parent))
        return audit(panels, (now, before), gains, prompts, confidence=confidence, least_people=least, seed=seed)

    answers = _real_answers(data)
    pays: tuple[LurePay, ...] = ()
    if answers and lures:
        ends, context = stop_tokens(base), context_length(base)
        pays = pay(paid.score, answers, lures, tokenizer, ends, context=context, confidence=confidence, seed=seed)
    said = preferred(data)

    def lured(kind: Kind) -> Lured | None:
        now, before = ([ids for _, ids in seen.fresh] for seen in (candidate, parent))
        return followed(kind, pays, now, before, said, tokenizer, confidence=confidence, least_people=least, seed=seed)

    slices = slice_gains(prompts, paid_gains, data.slices, settings.gates, seed)
    return Compared(audited(), slices, pays, lured("padding"), lured("flattery"))


def preferred(data: TrainingData) -> list[Couple]:
    """What people preferred of this policy's answers, held-out people too, nobody much louder than the others.

    Imported votes speak of other systems' answers: whether people there liked the longer one says nothing of these.
    """
    live = data.live()
    return couples(*equal_voices([*live.pairs, *live.heldout_pairs], [*live.likes(), *live.heldout_likes()], _VERDICTS))


def _gains(scorer: Scorer, candidate: Seen, parent: Seen) -> Tensor:
    return torch.tensor(scorer.score(candidate.fresh)) - torch.tensor(scorer.score(parent.fresh))


def _real_answers(data: TrainingData) -> list[TokenPair]:
    """Answers that people judged, held-out people's first; each once."""
    heldout = labelled_answers(data.heldout_pairs, data.heldout_likes())
    return list(dict.fromkeys([*heldout, *labelled_answers(data.pairs, data.likes())]))[:_DRESSED]
