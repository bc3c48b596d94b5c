"""Aspects of answers (accuracy, tone, safety: names of the operator's) as linear heads on the reward model's states.

A head is a ridge regression of people's values, -1 to 1, on the pooled states of the trained reward adapter, the
penalty chosen by cross-validation over voters. Heads never move the adapter, so score and aspects stay apart; what they
count for is the operator's to say (`RewardConfig.aspects`) and never learnt. Knows a reward model and values, no log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from exchange.durable import write_whole
from schemas.base import Record
from schemas.manifests import canonical_json
from schemas.reports import AspectReport
from trainer.algorithms.objectives import Objective, combined_reward, determination
from trainer.algorithms.preference import correlation
from trainer.data import AspectValue, TokenPair
from trainer.learn.config import AspectRule
from trainer.learn.critic import LinearHead, fit_heads
from trainer.learn.probe_data import FOLDS, voter_number
from trainer.learn.reward_model import RewardModel, Scorer

LEAST_VALUES = 30
"""Values below which an aspect has no head (ours)."""
PENALTIES = (1e-2, 1e-1, 1.0, 10.0)
"""Ridge penalties tried, features standardised (ours)."""
FILE = "aspects.json"
"""Beside a reward model: its `AspectHeads`, none of them included."""


class AspectHead(Record):
    """How one aspect is told from a state: states @ weights + bias, in people's own unit."""

    weights: tuple[float, ...]
    bias: float
    mean: float = Field(description="of what it tells of the reference answers")
    deviation: float = Field(gt=0, description="likewise")
    penalty: float = Field(description="the ridge penalty that was chosen")
    values: int = Field(ge=0, description="values learnt from")

    def __call__(self, states: Tensor) -> Tensor:
        """Values [N] of states [N, H]."""
        return LinearHead(torch.tensor(self.weights), self.bias)(states)


class AspectHeads(Record):
    """The heads of one reward model, by aspect."""

    heads: dict[str, AspectHead] = Field(default_factory=dict)


@dataclass(frozen=True)
class Aspects:
    """A reward model with the heads of its aspects, and what the operator says they count for."""

    model: RewardModel
    heads: Mapping[str, AspectHead]
    rules: Mapping[str, AspectRule]

    def scorer(self) -> Scorer:
        """What PPO is paid by: this, or the reward model alone where no aspect counts."""
        return self if any(self.rules[name].counts for name in self.rules.keys() & self.heads.keys()) else self.model

    def score(self, answers: Sequence[TokenPair]) -> list[float]:
        """Standardised scores with the aspects that count, as `objectives.combined_reward`."""
        states = self.model.states(answers)
        objectives = []
        for name in sorted(self.rules.keys() & self.heads.keys()):
            rule, head = self.rules[name], self.heads[name]
            values = head(states)
            objectives.append(Objective(values, (values - head.mean) / head.deviation, rule.weight, rule.floor))
        return [float(x) for x in combined_reward(self.model.standard(states), objectives, self.model.clip)]

    def reports(self, heldout: Sequence[AspectValue], answers: Sequence[TokenPair]) -> tuple[AspectReport, ...]:
        """How well each aspect is told on values of people, or of a time, that its head has not seen.

        Args:
            answers: the turn's, for the share that lies below a floor.
        """
        found = []
        states, of = self.model.states(answers) if self.heads else torch.zeros(0), _by_aspect(heldout)
        for name, head in sorted(self.heads.items()):
            theirs = of.get(name, [])
            observed = torch.tensor([item.value for item in theirs], dtype=torch.float64)
            rule, told = self.rules.get(name, AspectRule()), len(set(observed.tolist())) > 1
            predicted = head(self.model.states([item.answer for item in theirs])).double() if told else observed
            below = None
            if rule.floor is not None and answers:
                below = float((head(states) < rule.floor).double().mean())
            found.append(
                AspectReport(
                    name=name,
                    values=head.values,
                    heldout=len(theirs),
                    correlation=correlation(predicted, observed) if told else None,
                    r2=determination(predicted, observed) if told else None,
                    weight=rule.weight,
                    floor=rule.floor,
                    below_floor=below,
                )
            )
        return tuple(found)


def aspects_beside(
    folder: Path,
    model: RewardModel,
    values: Sequence[AspectValue],
    rules: Mapping[str, AspectRule],
    reference: Sequence[TokenPair],
) -> Aspects:
    """The aspects of the reward model stored in `folder`: those that lie there, else fitted and laid there.

    Args:
        reference: answers on which a standardised aspect has mean 0 and deviation 1; of none, those valued.
    """
    file = folder / FILE
    if file.exists():
        return Aspects(model, AspectHeads.model_validate_json(file.read_bytes()).heads, rules)
    heads = fit_aspects(model, values, reference or [item.answer for item in values])
    # Written where there is none, too: a turn asks more than once, and names without a head cost as much to look at.
    write_whole(file, canonical_json(AspectHeads(heads=heads)))
    return Aspects(model, heads, rules)


def fit_aspects(
    model: RewardModel, values: Sequence[AspectValue], reference: Sequence[TokenPair]
) -> dict[str, AspectHead]:
    """A head for each aspect of which people gave `LEAST_VALUES` values that differ."""
    heads: dict[str, AspectHead] = {}
    over: Tensor | None = None
    for name, theirs in sorted(_by_aspect(values).items()):
        if not _learnable(theirs):
            continue
        over = model.states(reference) if over is None else over
        given = torch.tensor([item.value for item in theirs])
        voters = torch.tensor([voter_number(item.group) % FOLDS for item in theirs])
        head, penalty = _fit(model.states([item.answer for item in theirs]), given, voters)
        told = head(over).double()
        heads[name] = AspectHead(
            weights=tuple(head.weight.tolist()),
            bias=head.bias,
            mean=float(told.mean()),
            deviation=max(float(told.std(unbiased=False)), 1e-6),
            penalty=penalty,
            values=len(theirs),
        )
    return heads


def unlearnable_floor(rules: Mapping[str, AspectRule], values: Sequence[AspectValue]) -> str | None:
    """Why a floor cannot be held to, in words; None where all can."""
    of = _by_aspect(values)
    for name, rule in sorted(rules.items()):
        theirs = of.get(name, [])
        if rule.floor is not None and not _learnable(theirs):
            return f"aspect {name} has a floor, but {len(theirs)} values to learn it from (at least {LEAST_VALUES})"
    return None


def _by_aspect(values: Sequence[AspectValue]) -> dict[str, list[AspectValue]]:
    """In one pass: names are whatever clients send, as many as there are values."""
    found: dict[str, list[AspectValue]] = {}
    for item in values:
        found.setdefault(item.aspect, []).append(item)
    return found


def _learnable(values: Sequence[AspectValue]) -> bool:
    return len(values) >= LEAST_VALUES and len({item.value for item in values}) > 1


def _fit(states: Tensor, values: Tensor, folds: Tensor) -> tuple[LinearHead, float]:
    """The head at the penalty that told other voters' values best; at the largest with too few voters to compare."""
    best = max(PENALTIES)
    if len(set(folds.tolist())) == FOLDS:
        errors = torch.zeros(len(PENALTIES), dtype=torch.float64)
        for fold in range(FOLDS):
            inside = folds == fold
            for place, head in enumerate(fit_heads(states[~inside], values[~inside], PENALTIES)):
                errors[place] += ((head(states[inside]) - values[inside]).double() ** 2).sum()
        best = PENALTIES[int(errors.argmin())]
    return fit_heads(states, values, [best])[0], best
