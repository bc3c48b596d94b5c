"""What one micro-batch of the reward model must hold together, and how much of the dataset's loss it is.

Knows tokens and verdicts; knows no model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.data import PreferencePair, RatedAnswer, ThumbedAnswer, TokenPair
from trainer.learn.config import RewardConfig


@dataclass(frozen=True)
class Unit:
    """What must stay in one micro-batch: a ranking's pairs over its distinct answers, or one thumb, or one rating."""

    answers: tuple[TokenPair, ...]
    pairs: tuple[tuple[int, int, bool, float], ...]
    """(chosen, rejected, tie, weight), indices into `answers`."""
    thumb: ThumbedAnswer | None
    group: str
    """Pseudonym of who spoke."""
    rating: RatedAnswer | None = None


def units_of(
    pairs: Sequence[PreferencePair], thumbs: Sequence[ThumbedAnswer], ratings: Sequence[RatedAnswer] = ()
) -> list[Unit]:
    """All units: pairs by set, then thumbs, then ratings."""
    sets: dict[str, list[PreferencePair]] = {}
    for pair in pairs:
        sets.setdefault(pair.set_id, []).append(pair)
    units = []
    for members in sets.values():
        places: dict[TokenPair, int] = {}
        entries = []
        for pair in members:
            chosen = places.setdefault((pair.prompt_ids, pair.chosen_ids), len(places))
            rejected = places.setdefault((pair.prompt_ids, pair.rejected_ids), len(places))
            entries.append((chosen, rejected, pair.tie, pair.weight))
        units.append(Unit(tuple(places), tuple(entries), None, members[0].group))
    units += [Unit(((item.prompt_ids, item.answer_ids),), (), item, item.group) for item in thumbs]
    units += [Unit(((item.prompt_ids, item.answer_ids),), (), None, item.group, item) for item in ratings]
    return units


@dataclass(frozen=True)
class Share:
    """Factors from sums over a batch to its share of the dataset's loss, times the steps of an epoch."""

    pairs: float
    verdicts: float
    """Of thumbs and ratings."""
    centring: float
    ratings_of: Counter[str]
    """How many ratings each rater gave: the prior on their offset is spread over them."""

    @classmethod
    def of(cls, units: Sequence[Unit], per_epoch: int, config: RewardConfig) -> Share:
        """The factors of a dataset that takes `per_epoch` steps."""
        pairs = sum(weight for unit in units for *_, weight in unit.pairs)
        thumbs = sum(unit.thumb.weight for unit in units if unit.thumb)
        verdicts = thumbs + sum(unit.rating.weight for unit in units if unit.rating)
        answers = sum(len(unit.answers) for unit in units)
        return cls(
            per_epoch / pairs if pairs else 0.0,
            per_epoch * config.thumbs_coefficient / verdicts if verdicts else 0.0,
            per_epoch * config.centring_coefficient / answers,
            Counter(unit.rating.group for unit in units if unit.rating),
        )


def pair_index(group: Sequence[Unit], device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows of chosen and rejected answers, ties and weights of all pairs in the group, each [N]."""
    entries: list[tuple[int, int, bool, float]] = []
    offset = 0
    for unit in group:
        entries += [(chosen + offset, rejected + offset, tie, weight) for chosen, rejected, tie, weight in unit.pairs]
        offset += len(unit.answers)
    return (
        torch.tensor([entry[0] for entry in entries], dtype=torch.int64, device=device),
        torch.tensor([entry[1] for entry in entries], dtype=torch.int64, device=device),
        torch.tensor([entry[2] for entry in entries], dtype=torch.bool, device=device),
        torch.tensor([entry[3] for entry in entries], dtype=torch.float32, device=device),
    )


def first_rows(group: Sequence[Unit]) -> list[int]:
    """The row of each unit's first answer in the group's batch."""
    rows, offset = [], 0
    for unit in group:
        rows.append(offset)
        offset += len(unit.answers)
    return rows
