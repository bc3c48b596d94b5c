"""The demo's report: what was measured, and which promises held. Measures nothing; `printed` shows it on a terminal."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deploy.demo.evaluate import Gain
from deploy.demo.trace import Trace
from deploy.demo.variety import Constant, Diversity

FLOOR_S = 1.0


@dataclass(frozen=True)
class VersionReport:
    """One version: its stage at the end, gold on the held-out questions (None: not asked), KL to the base in nats per
    sequence, seconds from publication to its first token (None: not seen).
    """

    version: str
    stage: str
    gold: float | None
    kl: float
    swap_seconds: float | None


@dataclass(frozen=True)
class Example:
    """One held-out question with the answers of the base and of the served policy, and the gold of each."""

    question: str
    before: str
    after: str
    gold_before: float
    gold_after: float


@dataclass(frozen=True)
class GoldByTaste:
    """The same answers weighed by one population: mean gold of base and served policy, and the gain with its 95 %
    interval.
    """

    base: float
    policy: float
    gain: float
    gain_ci95: tuple[float, float]


@dataclass(frozen=True)
class SabotageReport:
    """What became of a version taught by flipped words.

    Attributes:
        reason: why nothing was promoted; empty where it was, and then all figures are there.
        gold_before: of the good version; `gold_served` and `gold_after` are of the public name, while the bad version
            was stable and once it was taken back.
        fall, recovery: paired differences served - before and after - served.
    """

    words: int
    version: str | None
    reason: str
    opened_gates: list[str]
    kl: float | None
    gold_before: float
    gold_served: float | None
    gold_after: float | None
    fall: Gain | None
    recovery: Gain | None
    rollback_seconds: float | None

    @property
    def shown(self) -> bool:
        """Gold fell and came back, both told from chance; or the gates refused the version."""
        if self.fall is None or self.recovery is None:
            return self.version is not None
        return self.fall.high < 0 < self.recovery.low


@dataclass(frozen=True)
class Report:
    """Everything the demo found. Gold is in [0, 1]; KL in nats per sequence; times in seconds.

    With `shuffled` verdicts there is nothing to learn: no gain is promised, and no version need ever be served.
    """

    model: str
    policy_version: str
    turns: int
    turns_wanted: int
    questions: int
    gold_base: float
    gold_policy: float
    gold_gain: float
    gold_gain_ci95: tuple[float, float]
    kl_to_base: float
    kl_budget: float
    requests_sent: int
    requests_failed: int
    versions_served: list[str]
    feedback_sent: int
    feedback_acknowledged: int
    feedback_failed: int
    feedback_found: int
    swap_seconds: float | None
    rollback_seconds: float | None
    seconds: float
    versions: list[VersionReport] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    artifacts: dict[str, str] = field(default_factory=dict)
    replicas: int = 1
    taste: str = "mixed"
    shuffled: bool = False
    gold_by_taste: dict[str, GoldByTaste] = field(default_factory=dict)
    best_constant: Constant | None = None
    diversity_base: Diversity | None = None
    diversity_policy: Diversity | None = None
    trace: Trace | None = None
    sabotage: SabotageReport | None = None

    def promises(self) -> dict[str, bool]:
        """What the demo must show, and whether it did."""
        promises = {
            f"the loop turned {self.turns_wanted} times": self.turns >= self.turns_wanted,
            "gold is up and the 95 % interval excludes zero": self.gold_gain_ci95[0] > 0,
            "KL to the base is within its budget": self.kl_to_base <= self.kl_budget,
            "no chat request failed": self.requests_sent > 0 and self.requests_failed == 0,
            "all acknowledged feedback lies in the log": self.feedback_found == self.feedback_acknowledged > 0,
            f"a new version speaks within {FLOOR_S:g} s": self._within(self.swap_seconds),
            f"a rollback speaks within {FLOOR_S:g} s": self._within(self.rollback_seconds),
        }
        if self.shuffled:
            del promises["gold is up and the 95 % interval excludes zero"]
        if self.sabotage is not None:
            promises["flipped words did harm that a rollback undid, or the gates refused"] = self.sabotage.shown
        return promises

    def _within(self, seconds: float | None) -> bool:
        if seconds is None:
            return self.shuffled  # then the gates may refuse every version
        return seconds <= FLOOR_S

    @property
    def kept(self) -> bool:
        """Whether every promise held."""
        return all(self.promises().values())

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values, promises included."""
        return {**asdict(self), "promises": self.promises()}

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_json(), indent=2) + "\n", encoding="utf-8")
