"""From people's verdicts to what DPO, KTO and SFT learn from. Pure: knows tokens and weights, no model.

The verdicts are those that the reward model learns from, with the same weights (a pair out of a ranking of k has
1/C(k,2), a thumb its inverse propensity). Ties say nothing about which answer is better and are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.algorithms.kto import class_weights
from trainer.data import PreferencePair, ThumbedAnswer, TokenPair


@dataclass(frozen=True)
class Example:
    """What one term of a loss is about."""

    answers: tuple[TokenPair, ...]
    """DPO: the chosen and the rejected answer; else one."""
    liked: bool
    """Whether the first answer is one to make likelier."""
    weight: float
    """Of its term in the loss."""

    @property
    def tokens(self) -> int:
        """Tokens of all its sequences."""
        return sum(len(prompt) + len(answer) for prompt, answer in self.answers)


def dpo_examples(pairs: Sequence[PreferencePair]) -> list[Example]:
    """Each pair that is no tie."""
    return [
        Example(((pair.prompt_ids, pair.chosen_ids), (pair.prompt_ids, pair.rejected_ids)), True, pair.weight)
        for pair in pairs
        if not pair.tie
    ]


def kto_examples(
    pairs: Sequence[PreferencePair], thumbs: Sequence[ThumbedAnswer], *, liked_ratio: float
) -> list[Example]:
    """Each thumb, and each pair as a liked and a disliked answer (Ethayarajh et al. 2024).

    `liked_ratio` is the weight of all liked ones together over that of all disliked ones.
    """
    single = [Example(((item.prompt_ids, item.answer_ids),), item.liked, item.weight) for item in thumbs]
    for pair in dpo_examples(pairs):
        single += [Example((answer,), liked, pair.weight) for answer, liked in zip(pair.answers, (True, False))]  # noqa: B905
    total = {liked: sum(item.weight for item in single if item.liked is liked) for liked in (True, False)}
    better, worse = class_weights(total[True], total[False], liked_ratio)
    return [Example(item.answers, item.liked, item.weight * (better if item.liked else worse)) for item in single]


def liked_examples(pairs: Sequence[PreferencePair], thumbs: Sequence[ThumbedAnswer]) -> list[Example]:
    """Each distinct answer that was thumbed up, chosen, or written as a correction, with the sum of its weights."""
    weights: dict[TokenPair, float] = {}
    for item in thumbs:
        if item.liked:
            answer = (item.prompt_ids, item.answer_ids)
            weights[answer] = weights.get(answer, 0.0) + item.weight
    for pair in dpo_examples(pairs):
        weights[pair.answers[0]] = weights.get(pair.answers[0], 0.0) + pair.weight
    return [Example((answer,), True, weight) for answer, weight in weights.items()]
