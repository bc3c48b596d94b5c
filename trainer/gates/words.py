"""Gate results with their explanation. Knows the policy for missing data; knows nothing of what is measured."""

from __future__ import annotations

from schemas.manifests import GateResult
from trainer.gates.config import GateName, GateSettings


def measured(
    name: GateName, passed: bool, *, value: float, threshold: float | None, unit: str, explanation: str
) -> GateResult:
    """A gate that had what it needed."""
    return GateResult(name=name, passed=passed, value=value, threshold=threshold, unit=unit, explanation=explanation)


def unmeasured(
    name: GateName, settings: GateSettings, *, threshold: float | None, unit: str, because: str
) -> GateResult:
    """A gate with too little to judge by: fails where `settings.must_measure` names it, else passes and says so."""
    passed = name not in settings.must_measure
    consequence = "Passed unmeasured." if passed else "Not measured is not passed."
    return GateResult(
        name=name,
        passed=passed,
        value=None,
        threshold=threshold,
        unit=unit,
        explanation=f"{because}. {consequence}",
    )
