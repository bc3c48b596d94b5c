"""What models say in the place of people weighs at most a share of what people say. Pure.

Of each kind of label for itself: the reward model's loss is a sum of means, one over each kind, so under one cap
for all kinds together a model's pairs would rule the mean of pairs wherever people gave thumbs alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from schemas.feedback import FeedbackSource
from trainer.data import PreferencePair, RatedAnswer, ThumbedAnswer

_L = TypeVar("_L", PreferencePair, ThumbedAnswer, RatedAnswer)


def within_ai_share(labels: Sequence[_L], share: float, speaker: Callable[[_L], str]) -> tuple[_L, ...]:
    """Labels of one kind, those of models scaled down so that together they weigh at most `share` x all others.

    Args:
        speaker: who speaks in a label: user, rater, ai, implicit, or where it was imported from.

    Returns:
        The labels in their order, without those whose weight would be 0.
    """
    ai, others = 0.0, 0.0
    for label in labels:
        if speaker(label) == FeedbackSource.AI:
            ai += label.weight
        else:
            others += label.weight
    factor = min(1.0, share * others / ai) if ai else 1.0
    if factor == 1.0:
        return tuple(labels)
    kept = (label for label in labels if factor or speaker(label) != FeedbackSource.AI)
    return tuple(
        replace(label, weight=factor * label.weight) if speaker(label) == FeedbackSource.AI else label for label in kept
    )
