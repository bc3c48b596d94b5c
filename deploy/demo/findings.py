"""From what was counted, asked and answered to the figures of the report. Pure: no request, no file, no clock."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deploy.demo.domain import Question
from deploy.demo.evaluate import Exam, Gain, grade, paired_gain
from deploy.demo.gold import Weights
from deploy.demo.ledger import Ledger
from deploy.demo.operator import PolicyView
from deploy.demo.preferences import SHIPPED, Preferences, shipped
from deploy.demo.report import Example, GoldByTaste, Report, SabotageReport, VersionReport
from deploy.demo.sabotage import OPENED_GATES, Sabotage
from deploy.demo.stage import Stage
from deploy.demo.trace import Trace
from deploy.demo.variety import best_constant, diversity
from deploy.demo.workplace import POLICY

EXAMPLES = 5
BASE = f"{POLICY}@v0"


@dataclass(frozen=True)
class Findings:
    """All that a performance found, as it was found. Times in seconds; `exams` by version, `swaps` likewise."""

    ledger: Ledger
    policy: PolicyView
    questions: Sequence[Question]
    exams: Mapping[str, Exam]
    swaps: Mapping[str, float]
    turned: int
    turns_wanted: int
    feedback_found: int
    rollback_s: float | None
    seconds: float
    trace: Trace | None
    sabotage: Sabotage | None


def make_report(stage: Stage, found: Findings) -> Report:
    """The report of a performance on `stage`."""
    place, ledger, policy, exams, questions = stage.place, found.ledger, found.policy, found.exams, found.questions
    before, after = exams[BASE], exams[policy.stable]
    gain = paired_gain(before.scores, after.scores)
    return Report(
        model=stage.model,
        policy_version=policy.stable,
        turns=found.turned,
        turns_wanted=found.turns_wanted,
        questions=len(questions),
        gold_base=before.mean,
        gold_policy=after.mean,
        gold_gain=gain.mean,
        gold_gain_ci95=(gain.low, gain.high),
        kl_to_base=policy.version(policy.stable).kl,
        kl_budget=place.kl_budget,
        requests_sent=ledger.requests_sent,
        requests_failed=ledger.requests_failed,
        versions_served=sorted(ledger.answers),
        feedback_sent=ledger.feedback_sent,
        feedback_acknowledged=len(ledger.feedback_ids),
        feedback_failed=ledger.feedback_failed,
        feedback_found=found.feedback_found,
        swap_seconds=max(found.swaps.values(), default=None),
        rollback_seconds=found.rollback_s,
        seconds=found.seconds,
        versions=[
            VersionReport(
                version.name,
                version.stage,
                exams[version.name].mean if version.name in exams else None,
                version.kl,
                found.swaps.get(version.name),
            )
            for version in policy.versions
        ],
        examples=[
            Example(question.text, before.answers[n], after.answers[n], before.scores[n], after.scores[n])
            for n, question in enumerate(questions[:EXAMPLES])
        ],
        failures=ledger.failures,
        artifacts={
            "base": stage.model,
            "adapters, snapshots, reward models": str(place.registry),
            "event log": place.log_url,
            "logs": str(place.logs),
            "report": str(place.folder / "report.json"),
        },
        replicas=len(stage.servers),
        taste=stage.preferences.name,
        shuffled=stage.shuffled,
        gold_by_taste=gold_by_taste(questions, before, after, stage.preferences, domain_language=stage.tiny),
        best_constant=best_constant(
            questions, (*before.answers, *after.answers), stage.preferences.gold, domain_language=stage.tiny
        ),
        diversity_base=diversity(before.answers),
        diversity_policy=diversity(after.answers),
        trace=found.trace,
        sabotage=sabotage_report(found.sabotage, after) if found.sabotage is not None else None,
    )


def gold_by_taste(
    questions: Sequence[Question], before: Exam, after: Exam, own: Preferences, *, domain_language: bool
) -> dict[str, GoldByTaste]:
    """The same answers in the eyes of every population that ships with the demo, and of `own`."""
    populations = {name: shipped(name) for name in SHIPPED} | {own.name: own}

    def weighed(weights: Weights) -> GoldByTaste:
        base, policy = (
            grade(questions, exam.answers, weights, domain_language=domain_language) for exam in (before, after)
        )
        gain = paired_gain(base, policy)
        return GoldByTaste(_mean(base), _mean(policy), gain.mean, (gain.low, gain.high))

    return {name: weighed(population.gold) for name, population in populations.items()}


def sabotage_report(found: Sabotage, policy: Exam) -> SabotageReport:
    """What the flipped words did, next to `policy`: the exam of the version that served before and after."""
    fall: Gain | None = None
    recovery: Gain | None = None
    if found.served is not None and found.after is not None:
        fall = paired_gain(policy.scores, found.served.scores)
        recovery = paired_gain(found.served.scores, found.after.scores)
    return SabotageReport(
        words=found.words,
        version=found.version,
        reason=found.reason,
        opened_gates=list(OPENED_GATES),
        kl=found.kl,
        gold_before=policy.mean,
        gold_served=found.served.mean if found.served is not None else None,
        gold_after=found.after.mean if found.after is not None else None,
        fall=fall,
        recovery=recovery,
        rollback_seconds=found.rollback_seconds,
    )


def _mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores)
