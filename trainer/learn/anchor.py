"""What fixes the unit of scores: pairs do, else one reader's scale.

The margin of a decided pair is a log odds. Thumbs and ratings read scores through scales of their own: without pairs,
scores could shrink and the scales grow at the same loss, until ridge penalty and centring weigh nothing. So the scale
of the reader who says most is held where it is. Probe and fine-tuning keep to the same rule.

Knows weights of labels; knows no loss.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def held_scale(decided: float, readers: Sequence[float]) -> int | None:
    """The place of the reader whose scale is to be held; None where pairs fix the unit, or nobody reads.

    Args:
        decided: weight of all pairs that are no ties; a tie tells no margin.
        readers: weight of the labels that are read with each scale.
    """
    if decided > 0 or not any(readers):
        return None
    return max(range(len(readers)), key=lambda place: readers[place])


def hold(numbers: Tensor, place: int) -> None:
    """Keep one of the learned numbers [N] where it is: no gradient reaches it."""

    def without(gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        gradient[place] = 0.0
        return gradient

    numbers.register_hook(without)  # type: ignore[no-untyped-call]
