"""All gates over one candidate. Knows which measurement goes to which gate, and nothing of how they were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from schemas.manifests import GateReport
from trainer.gates import drift, hacking, off_policy, quality
from trainer.gates.agreed import Agreed
from trainer.gates.config import GateSettings
from trainer.gates.lured import Lured
from trainer.gates.measure import PolicyMeasurement
from trainer.gates.panels import Audit
from trainer.gates.slices import SliceGain, slices_gate
from trainer.gates.value import ValueComparison


@dataclass(frozen=True)
class Evidence:
    """Everything measured of a candidate and of its parent, on the same prompts and cases."""

    candidate: PolicyMeasurement
    parent: PolicyMeasurement
    kl_nats_per_sequence: float | None
    """Of the candidate to the frozen base."""
    kl_budget: float
    """Nats per sequence."""
    length_correlation: float | None
    """Pearson's r of reward and length over held-out answers."""
    length_correlation_partial: float | None
    """The same given the verdicts."""
    heldout_answers: int
    """Answers that the correlations were measured on."""
    heldout: Agreed
    """How the reward model orders held-out preferences: one of each word, and of each liked and disliked answer."""
    previous_accuracy: float | None
    """Of the reward model before on the same, 0..1; None for the first."""
    ability: Mapping[str, bool] = field(default_factory=dict)
    ability_parent: Mapping[str, bool] = field(default_factory=dict)
    attacks: Mapping[str, bool] = field(default_factory=dict)
    attacks_parent: Mapping[str, bool] = field(default_factory=dict)
    value: ValueComparison | None = None
    """On held-out people's judged answers; None where there were too few."""
    judged_answers: int = 0
    judging_people: int = 0
    audit: Audit | None = None
    """None where there were no fresh answers or no panels."""
    slices: Sequence[SliceGain] = ()
    padding: Lured | None = None
    flattery: Lured | None = None


def judge(evidence: Evidence, settings: GateSettings) -> GateReport:
    """Every gate, each on its own: one that fails does not spare the others."""
    candidate, parent = evidence.candidate, evidence.parent
    return GateReport(
        results=(
            drift.kl_budget(evidence.kl_nats_per_sequence, evidence.kl_budget, settings),
            quality.heldout_accuracy(evidence.heldout, evidence.previous_accuracy, settings),
            drift.length_drift(candidate.lengths, parent.lengths, settings),
            drift.length_correlation(
                evidence.length_correlation,
                evidence.length_correlation_partial,
                evidence.heldout_answers,
                settings,
            ),
            drift.entropy_drop(candidate.entropy_nats_per_token, parent.entropy_nats_per_token, settings),
            quality.retained_ability(evidence.ability, evidence.ability_parent, settings),
            quality.red_team(evidence.attacks, evidence.attacks_parent, settings),
            off_policy.off_policy_value(evidence.value, evidence.judged_answers, evidence.judging_people, settings),
            hacking.audit_reward(evidence.audit, settings),
            slices_gate(evidence.slices, settings),
            hacking.padding(evidence.padding, settings),
            hacking.flattery(evidence.flattery, settings),
        )
    )


def failures_in_words(report: GateReport) -> str:
    """The explanations of the gates that failed, one after the other; empty where all passed."""
    return " ".join(result.explanation for result in report.results if not result.passed)
