"""What tells of one vote whether it is right: a gold item, what others said of the very same, or what they would say.

The surest that there is decides, in this order; a vote of which nothing can be told is no trial. Pure.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from trainer.quality.votes import AnswerKey, Vote

Kind = Literal["gold", "shared", "predicted"]
_SURE = math.log(0.55 / 0.45)
"""Predictions nearer to even odds than 55 to 45 tell nothing of who disagrees."""


@dataclass(frozen=True)
class Trial:
    """One vote held against something."""

    vote: Vote
    kind: Kind
    agrees: bool


def trials_of(
    votes: Sequence[Vote],
    margins: Sequence[float | None],
    identity: Mapping[AnswerKey, Hashable],
    gold: Mapping[Hashable, bool],
) -> list[Trial]:
    """Every vote that can be held against something.

    Args:
        margins: as `predictions.margins` gives them, one for each vote.
        identity: what equal answers to equal questions have in common.
        gold: of such, whether they are good.
    """
    said: dict[Hashable, dict[str, Hashable]] = {}
    for vote in votes:
        item, value = _item(vote, identity)
        said.setdefault(item, {})[vote.rater] = value
    found: list[Trial] = []
    for vote, margin in zip(votes, margins, strict=True):
        verdict = _by_gold(vote, identity, gold)
        if verdict is not None:
            found.append(Trial(vote, "gold", verdict))
            continue
        item, value = _item(vote, identity)
        shared = _majority([what for who, what in said[item].items() if who != vote.rater])
        if shared is not None:
            found.append(Trial(vote, "shared", shared == value))
        elif margin is not None and abs(margin) >= _SURE:
            found.append(Trial(vote, "predicted", margin > 0))
    return found


def _item(vote: Vote, identity: Mapping[AnswerKey, Hashable]) -> tuple[Hashable, Hashable]:
    """What was judged, and how."""
    first = identity.get(vote.answer, vote.answer)
    if vote.other is None:
        return first, vote.liked
    return frozenset((first, identity.get(vote.other, vote.other))), first


def _by_gold(vote: Vote, identity: Mapping[AnswerKey, Hashable], gold: Mapping[Hashable, bool]) -> bool | None:
    first = gold.get(identity.get(vote.answer, vote.answer))
    if vote.other is None:
        return None if first is None else first == vote.liked
    second = gold.get(identity.get(vote.other, vote.other))
    return None if first is None or second is None or first == second else first


def _majority(values: Sequence[Hashable]) -> Hashable | None:
    """What most say; None of nobody, and where as many say something else."""
    ranked = Counter(values).most_common(2)
    if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
        return None
    return ranked[0][0]
