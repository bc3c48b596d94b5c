"""The gate on a candidate's value on logged, judged answers: what off-policy evaluation says before any live traffic.

Knows numbers measured elsewhere (`trainer.gates.value`); never samples, loads or scores anything.
"""

from __future__ import annotations

from schemas.manifests import GateResult
from trainer.gates.config import GateName, GateSettings
from trainer.gates.value import Estimate, ValueComparison
from trainer.gates.words import measured, unmeasured


def off_policy_value(found: ValueComparison | None, judged: int, people: int, settings: GateSettings) -> GateResult:
    """The candidate's share of liked answers against the parent's, on the same judged answers of held-out people.

    It fails only where both estimates agree: the intervals of importance sampling and of the doubly robust estimate
    both lie below a loss of `max_value_drop`. It guards against harm and proves no gain; canary votes do that.

    Args:
        found: None where there were too few answers to measure.
        judged: how many there were.
        people: who judged them.
    """
    name: GateName = "off_policy_value"
    unit, limit = "share of liked answers, candidate minus parent", -settings.max_value_drop
    least, least_people = settings.min_judged_answers, settings.min_judging_people
    if found is None:
        because = (
            f"{judged} judged answers of {people} held-out people are too few to value the candidate "
            f"(at least {least} of {least_people})"
        )
        return unmeasured(name, settings, threshold=limit, unit=unit, because=because)
    if not found.finite:
        because = "The candidate's value on logged answers could not be measured: its probabilities are no numbers"
        return unmeasured(name, settings, threshold=limit, unit=unit, because=because)
    effective = min(found.candidate.effective_answers, found.parent.effective_answers)
    if effective < least:
        because = (
            f"Of {found.answers} judged answers, {effective:.0f} count effectively under candidate and parent: too few "
            f"to value what they would say (at least {least})"
        )
        return unmeasured(name, settings, threshold=limit, unit=unit, because=because)
    gains = (found.importance_gain, found.robust_gain)
    passed = not all(gain.high < limit for gain in gains)
    words = (
        f"On {found.answers} judged answers of {found.people} held-out people the candidate would be liked in "
        f"{_share(found.candidate.robust)}, the parent in {_share(found.parent.robust)} "
        f"({found.logged:.0%} as logged). Difference: {_points(gains[1])} by the doubly robust estimate, "
        f"{_points(gains[0])} by importance sampling alone ({settings.confidence:.0%} intervals over people; "
        f"{found.candidate.effective_answers:.0f} effective answers, {found.candidate.capped:.0%} of ratios capped at "
        f"{settings.max_value_ratio:g})"
    )
    tail = _passed(found.robust_gain) if passed else ": both say that it is worse."
    return measured(name, passed, value=gains[1].value, threshold=limit, unit=unit, explanation=words + tail)


def _passed(gain: Estimate) -> str:
    if gain.low > 0:
        return ": better, as far as logged answers can tell."
    return ": not shown to be worse." if gain.high >= 0 else ": the estimates do not agree that it is worse."


def _share(estimate: Estimate) -> str:
    return f"{estimate.value:.0%} ({estimate.low:.0%} to {estimate.high:.0%})"


def _points(gain: Estimate) -> str:
    return f"{100 * gain.value:+.1f} points ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
