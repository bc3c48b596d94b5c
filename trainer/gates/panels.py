"""Audit panels: reward models that the policy was not trained against, to say whether others like what it became.

People are divided by a stable hash of their pseudonym. Each panel learns from one part alone, as a linear probe on the
frozen base's mean states: other people, another class of model, no adapter. What a few accounts planted, or what one
reward model took for merit by chance, is then in one panel and not in the others, and the median of the panels hears of
it nothing. A panel speaks only if it tells what the *other* panels' people like from chance.

The people of the panels are also those of the reward model. To keep half of them from it would make a stricter audit of
a worse reward model.

Knows labels, the base's states and how gains are compared. Knows no thresholds.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from trainer.algorithms.off_policy import people_resampled, percentile_interval
from trainer.data import PreferencePair, ThumbedAnswer, TokenPair, labelled_answers
from trainer.gates.agreed import Agreed
from trainer.gates.couples import couples, equal_voices
from trainer.gates.value import DRAWS, Estimate
from trainer.learn.config import RewardConfig
from trainer.learn.probe import ProbeWeights, fit_probe
from trainer.learn.probe_data import ProbeData, ProbePair, ProbeThumb
from trainer.learn.states import pooled_states
from trainer.models.base import SharedBase

PANELS = 3
_MOST_LABELS = 600
"""Pairs, and thumbs, at most: the newest. A probe of some hundred dimensions gains little from more."""
_Label = TypeVar("_Label", PreferencePair, ThumbedAnswer)


@dataclass(frozen=True)
class Panel:
    """One panel: the score of an answer is states @ weight, of deviation 1 over the labelled answers."""

    weight: Tensor
    """float32 [H]."""
    agreed: Agreed
    """How it orders the preferences of the other panels' people."""


@dataclass(frozen=True)
class Audit:
    """What the trained reward and the panels say of a candidate's answers, its parent's taken off."""

    answers: int
    trained: Estimate
    """Gain in the reward that it was trained on, standard deviations."""
    panels: tuple[float, ...]
    """Gain in the eyes of each panel that can tell, its own standard deviations."""
    audit: Estimate | None
    """Their median; None where no panel can tell."""
    most_share: float
    """Largest share of the trained gain that the median may have kept: upper end of its interval."""


def panel_of(group: str) -> int:
    """The panel that a person's labels teach: theirs for ever, and the same in every process."""
    return int.from_bytes(hashlib.sha256(f"audit {group}".encode()).digest()[:8], "big") % PANELS


def fit_panels(
    base: SharedBase, pairs: Sequence[PreferencePair], thumbs: Sequence[ThumbedAnswer], config: RewardConfig
) -> tuple[Panel, ...]:
    """The panels that labels of at least one person each can make; oldest labels first. Forward passes of the base."""
    pairs, thumbs = equal_voices(pairs, thumbs, _MOST_LABELS)
    answers = labelled_answers(pairs, thumbs)
    if not answers:
        return ()
    place = {answer: row for row, answer in enumerate(answers)}
    return panels_on(mean_states(base, answers, config.micro_batch_tokens), place, pairs, thumbs, config)


def panels_on(
    states: Tensor,
    place: Mapping[TokenPair, int],
    pairs: Sequence[PreferencePair],
    thumbs: Sequence[ThumbedAnswer],
    config: RewardConfig,
) -> tuple[Panel, ...]:
    """The panels on given states [N, H], of which `place` names each answer's row."""
    panels = []
    for number in range(PANELS):
        own_pairs, other_pairs = _divided(pairs, number)
        own_thumbs, other_thumbs = _divided(thumbs, number)
        if not own_pairs and not own_thumbs:
            continue
        weight = linear_head(states, place, own_pairs, own_thumbs, config)
        scores = states @ weight
        asked = couples(other_pairs, other_thumbs)
        margins = scores[[place[couple.better] for couple in asked]] - scores[[place[couple.worse] for couple in asked]]
        panels.append(Panel(weight / scores.std().clamp(min=1e-6), Agreed.of(asked, margins)))
    return tuple(panels)


def mean_states(base: SharedBase, answers: Sequence[TokenPair], token_budget: int) -> Tensor:
    """What a panel reads: the frozen base's mean state over each answer's tokens, float32 [N, H] on the CPU."""
    return pooled_states(base, answers, "mean", token_budget)


def _divided(labels: Sequence[_Label], number: int) -> tuple[list[_Label], list[_Label]]:
    """Those that teach a panel, and the others."""
    own = [label for label in labels if panel_of(label.group) == number]
    return own, [label for label in labels if panel_of(label.group) != number]


def linear_head(
    states: Tensor,
    place: Mapping[TokenPair, int],
    pairs: Sequence[PreferencePair],
    thumbs: Sequence[ThumbedAnswer],
    config: RewardConfig,
) -> Tensor:
    """What these labels say of states: the weights [H] of a probe."""
    cohorts = sorted({item.cohort for item in thumbs})
    data = ProbeData.of(
        states,
        [
            ProbePair(
                place[pair.prompt_ids, pair.chosen_ids],
                place[pair.prompt_ids, pair.rejected_ids],
                pair.tie,
                pair.weight,
                pair.group,
            )
            for pair in pairs
        ],
        [
            ProbeThumb(
                place[one.prompt_ids, one.answer_ids], one.liked, one.weight, one.group, cohorts.index(one.cohort)
            )
            for one in thumbs
        ],
    )
    weights = ProbeWeights(thumbs=config.thumbs_coefficient, centring=config.centring_coefficient)
    eta = config.initial_tie_threshold
    return fit_probe(data, weights, config.probe_penalties, cohorts=len(cohorts), eta=eta).weight


def audit(
    panels: Sequence[Panel],
    states: tuple[Tensor, Tensor],
    trained_gains: Tensor,
    prompts: Sequence[tuple[int, ...]],
    *,
    confidence: float,
    least_people: int,
    seed: int,
) -> Audit:
    """Candidate against parent in the eyes of the panels and of the trained reward model.

    Args:
        states: of `mean_states`, [N, H] each: the candidate's answers and the parent's to the same prompts.
        trained_gains: candidate's score minus parent's, [N], standard deviations.
        prompts: of each answer, N >= 1. Intervals are a bootstrap over distinct prompts.
        least_people: that a panel must have been tried on before it is asked.
    """
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    drawn = people_resampled(torch.tensor([numbers[prompt] for prompt in prompts]), DRAWS, seed)
    drawn = drawn / drawn.sum(1, keepdim=True)

    def estimate(now: Tensor, draws: Tensor) -> Estimate:
        return Estimate(float(now), *percentile_interval(draws, confidence))

    gains = trained_gains.double()
    trained, trained_draws = gains.mean(), drawn @ gains
    able = [panel for panel in panels if panel.agreed.surely(confidence, least_people)]
    if not able:
        return Audit(len(gains), estimate(trained, trained_draws), (), None, math.inf)
    weights = torch.stack([panel.weight for panel in able], 1).double()  # [H, K]
    seen = (states[0] - states[1]).double() @ weights  # [N, K]
    median, draws = seen.mean(0).quantile(0.5), (drawn @ seen).quantile(0.5, dim=1)
    shares = torch.where(trained_draws > 0, draws / trained_draws, math.inf)
    return Audit(
        answers=len(gains),
        trained=estimate(trained, trained_draws),
        panels=tuple(seen.mean(0).tolist()),
        audit=estimate(median, draws),
        most_share=percentile_interval(shares, confidence)[1],
    )
