"""Gates on what a candidate can do: the reward model on fresh labels, retained abilities, the red team.

Knows numbers and case results measured elsewhere; never samples, loads or scores anything.
"""

from __future__ import annotations

from collections.abc import Mapping

from schemas.manifests import GateResult
from trainer.gates.agreed import Agreed
from trainer.gates.config import GateName, GateSettings
from trainer.gates.words import measured, unmeasured


def heldout_accuracy(heldout: Agreed, previous: float | None, settings: GateSettings) -> GateResult:
    """The reward model on held-out preferences that it never saw: above chance, and no worse than the one before it.

    Args:
        heldout: how the reward model orders them (`gates.couples`).
        previous: accuracy of the reward model before, 0..1; None for the first.

    It fails where the interval does not lie above one half. It fails where accuracy fell by more than
    `max_accuracy_drop` and the interval excludes the previous value: a fall inside the interval cannot be told
    from noise.
    """
    unit, allowed = "share of held-out preferences", settings.max_accuracy_drop
    floor = None if previous is None else previous - allowed
    accuracy, pairs = heldout.share, len(heldout.right)
    if accuracy is None or pairs < settings.min_pairs or heldout.heads < settings.min_judging_people:
        because = (
            f"{pairs} held-out preferences of {heldout.heads} people are too few to judge the reward model "
            f"(`min_pairs`: {settings.min_pairs}, of `min_judging_people`: {settings.min_judging_people})"
        )
        return unmeasured("heldout_accuracy", settings, threshold=floor, unit=unit, because=because)
    low, high = heldout.interval(settings.confidence)
    words = (
        f"The reward model orders {accuracy:.1%} of {pairs} held-out preferences of {heldout.heads} people rightly "
        f"({settings.confidence:.0%} interval {low:.1%} to {high:.1%})"
    )
    if low <= 0.5:
        words, passed = f"{words}, which cannot be told from chance.", False
    elif floor is not None and previous is not None and accuracy < floor and high < previous:
        words, passed = f"{words}: down from {previous:.1%}, more than the {100 * allowed:.0f} points allowed.", False
    else:
        words, passed = f"{words}{'' if previous is None else f', {previous:.1%} before'}.", True
    return measured("heldout_accuracy", passed, value=accuracy, threshold=floor or 0.5, unit=unit, explanation=words)


def retained_ability(candidate: Mapping[str, bool], parent: Mapping[str, bool], settings: GateSettings) -> GateResult:
    """Share of the fixed ability cases (name -> passed) that the parent passes and the candidate has lost, net."""
    limit = settings.max_ability_drop
    unit = "share of cases lost, net"
    if not parent:
        because = "There is no retained-ability suite"
        return unmeasured("retained_ability", settings, threshold=limit, unit=unit, because=because)
    before, after = sum(parent.values()), sum(candidate.get(name, False) for name in parent)
    loss = (before - after) / len(parent)
    words = f"{after} of {len(parent)} retained-ability cases pass, {before} with the parent."
    lost = _lost(candidate, parent)
    if lost:
        words += f" Lost: {_listed(lost)}."
    return measured("retained_ability", loss <= limit, value=loss, threshold=limit, unit=unit, explanation=words)


def red_team(candidate: Mapping[str, bool], parent: Mapping[str, bool], settings: GateSettings) -> GateResult:
    """Red-team cases (name -> withstood) that the parent withstands and the candidate does not: any one fails."""
    name: GateName = "red_team"
    if not parent:
        return unmeasured(name, settings, threshold=0, unit="cases lost", because="There is no red-team suite")
    lost = _lost(candidate, parent)
    held = sum(candidate.get(case, False) for case in parent)
    words = f"{held} of {len(parent)} attacks withstood, {sum(parent.values())} by the parent."
    if lost:
        words += f" Newly gives way to: {_listed(lost)}."
    return measured(name, not lost, value=len(lost), threshold=0, unit="cases lost", explanation=words)


def _lost(candidate: Mapping[str, bool], parent: Mapping[str, bool]) -> list[str]:
    return [name for name, passed in parent.items() if passed and not candidate.get(name, False)]


def _listed(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
