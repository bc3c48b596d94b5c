"""Gates on how far a candidate has moved: KL to the base, length, reward for length, entropy.

Knows numbers measured elsewhere (`trainer.gates.measure`); never samples, loads or scores anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from schemas.manifests import GateResult
from trainer.gates.config import GateSettings
from trainer.gates.statistics import mean
from trainer.gates.words import measured, unmeasured


def kl_budget(kl_nats_per_sequence: float | None, budget: float, settings: GateSettings) -> GateResult:
    """The KL of the candidate to the frozen base against the hard `budget`, which is also PPO's own.

    Both in nats per sequence, and cumulative over all versions: the reference never moves.
    """
    unit = "nats per sequence"
    if kl_nats_per_sequence is None or not math.isfinite(kl_nats_per_sequence):
        because = "The KL to the base could not be measured"
        return unmeasured("kl_budget", settings, threshold=budget, unit=unit, because=because)
    passed = kl_nats_per_sequence <= budget
    verdict = f"within the budget of {budget:.2f}" if passed else f"over the budget of {budget:.2f}"
    words = f"KL to the frozen base, over all versions so far: {kl_nats_per_sequence:.3f} nats per sequence, {verdict}"
    return measured(
        "kl_budget", passed, value=kl_nats_per_sequence, threshold=budget, unit=unit, explanation=f"{words}."
    )


def length_drift(candidate: Sequence[int], parent: Sequence[int], settings: GateSettings) -> GateResult:
    """Growth of the mean answer length (tokens) over the parent's, on the same prompts. Shorter never fails here."""
    limit, unit = settings.max_length_growth, "share of the parent's mean length"
    before, after = mean(parent), mean(candidate)
    if min(len(candidate), len(parent)) < settings.min_answers or not before or after is None:
        because = f"{min(len(candidate), len(parent))} sampled answers are too few to judge their length"
        return unmeasured("length_drift", settings, threshold=limit, unit=unit, because=because)
    growth = after / before - 1
    passed = growth <= limit
    words = f"Mean answer length went from {before:.1f} to {after:.1f} tokens ({growth:+.1%}); {limit:+.0%} is allowed."
    return measured("length_drift", passed, value=growth, threshold=limit, unit=unit, explanation=words)


def length_correlation(raw: float | None, partial: float | None, answers: int, settings: GateSettings) -> GateResult:
    """The reward model's taste for length: it fails where reward follows length and the verdicts do not explain it.

    Args:
        raw: Pearson's r of score and answer length (tokens) over held-out answers.
        partial: the same given what people said of those answers. People who like brief answers show in `raw` alone.
        answers: how many answers that was measured on.
    """
    limit, unit = settings.max_length_correlation, "|Pearson's r|"
    if raw is None or partial is None or answers < settings.min_answers:
        because = f"{answers} held-out answers are too few to correlate reward with length"
        return unmeasured("length_correlation", settings, threshold=limit, unit=unit, because=because)
    value = min(abs(raw), abs(partial))
    passed = value <= limit
    words = (
        f"Reward and answer length correlate by {raw:+.2f} over {answers} answers, {partial:+.2f} given the verdicts"
    )
    liked = "longer" if raw > 0 else "shorter"
    tail = f"; both beyond {limit:.2f} would fail." if passed else f": it pays for {liked} (limit {limit:.2f})."
    return measured("length_correlation", passed, value=value, threshold=limit, unit=unit, explanation=words + tail)


def entropy_drop(candidate: float | None, parent: float | None, settings: GateSettings) -> GateResult:
    """Fall of the mean entropy (nats per token) from the parent's: a collapse shows here before it shows in quality."""
    limit, unit = settings.max_entropy_drop, "share of the parent's entropy"
    if candidate is None or not parent:
        because = "Too few answers were sampled to measure entropy"
        return unmeasured("entropy_drop", settings, threshold=limit, unit=unit, because=because)
    drop = 1 - candidate / parent
    passed = drop <= limit
    words = (
        f"Entropy went from {parent:.3f} to {candidate:.3f} nats per token ({-drop:+.1%}); {-limit:+.0%} is allowed."
    )
    return measured("entropy_drop", passed, value=drop, threshold=limit, unit=unit, explanation=words)
