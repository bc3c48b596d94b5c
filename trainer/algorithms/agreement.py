"""Krippendorff's alpha for nominal data: how far raters agree beyond what chance would do. Pure; no tensors.

Source: Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability" (sections B and C): any number of raters, any
number of values, items that not everybody judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence


def krippendorff_alpha(items: Iterable[Sequence[Hashable]]) -> float | None:
    """alpha = 1 - D_o / D_e: 1 is perfect agreement, 0 that of chance, below 0 worse than chance.

    D_o is the share of coincidences (ordered pairs of judgements of one item, each weighing 1 / (m - 1) where m raters
    judged it) that differ; D_e the same for judgements paired at random over all items.

    Args:
        items: the judgements of each item, one for each rater; an item judged once or never is not counted.

    Returns:
        None where it is not defined: no item was judged twice, or all judgements are the same.
    """
    values: Counter[Hashable] = Counter()
    differing = 0.0
    for judgements in items:
        count = len(judgements)
        if count < 2:
            continue
        counted = Counter(judgements)
        values.update(counted)
        differing += sum(number * (count - number) for number in counted.values()) / (count - 1)
    total = values.total()
    if total == 0:
        return None
    by_chance = sum(number * (total - number) for number in values.values()) / (total - 1)
    return None if by_chance == 0 else 1 - differing / by_chance
