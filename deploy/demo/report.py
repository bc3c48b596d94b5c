"""The demo's report: what was measured, which promises held, and how it reads on a terminal.

Numbers in, words and JSON out; measures nothing.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

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
class Report:
    """Everything the demo found. Gold is in [0, 1]; KL in nats per sequence; times in seconds."""

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

    def promises(self) -> dict[str, bool]:
        """What the demo must show, and whether it did."""
        return {
            f"the loop turned {self.turns_wanted} times": self.turns >= self.turns_wanted,
            "gold is up and the 95 % interval excludes zero": self.gold_gain_ci95[0] > 0,
            "KL to the base is within its budget": self.kl_to_base <= self.kl_budget,
            "no chat request failed": self.requests_sent > 0 and self.requests_failed == 0,
            "all acknowledged feedback lies in the log": self.feedback_found == self.feedback_acknowledged > 0,
            f"a new version speaks within {FLOOR_S:g} s": _within(self.swap_seconds),
            f"a rollback speaks within {FLOOR_S:g} s": _within(self.rollback_seconds),
        }

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


def show(report: Report, console: Console) -> None:
    """Print the report."""
    versions = Table("version", "stage", "gold", "KL to base", "publish to first token", title="Versions")
    for row in report.versions:
        gold = "" if row.gold is None else f"{row.gold:.3f}"
        swap = "" if row.swap_seconds is None else f"{row.swap_seconds:.2f} s"
        versions.add_row(row.version, row.stage, gold, f"{row.kl:.2f} nats", swap)
    low, high = report.gold_gain_ci95
    numbers = Table.grid(padding=(0, 2))
    for name, value in (
        ("gold of the base", f"{report.gold_base:.3f}"),
        (f"gold of {report.policy_version}", f"{report.gold_policy:.3f}"),
        (
            "gain",
            f"{report.gold_gain:+.3f}  (95 % interval {low:+.3f} to {high:+.3f}, {report.questions} questions)",
        ),
        ("KL to the base", f"{report.kl_to_base:.2f} of {report.kl_budget:g} nats per sequence"),
        ("requests", f"{report.requests_sent} sent, {report.requests_failed} failed"),
        ("feedback", f"{report.feedback_acknowledged} acknowledged, {report.feedback_found} found in the log"),
        ("rollback to first token", _seconds(report.rollback_seconds)),
        ("whole run", f"{report.seconds:.0f} s"),
    ):
        numbers.add_row(f"[dim]{name}[/dim]", value)
    examples = Table("question", "base", report.policy_version, title="Before and after", show_lines=True)
    for example in report.examples:
        examples.add_row(
            escape(example.question),
            f"{escape(example.before)} [dim]({example.gold_before:.2f})[/dim]",
            f"{escape(example.after)} [dim]({example.gold_after:.2f})[/dim]",
        )
    places = Table.grid(padding=(0, 2))
    for name, place in report.artifacts.items():
        places.add_row(f"[dim]{name}[/dim]", place)
    promises = "\n".join(
        f"[green]✓[/green] {promise}" if held else f"[red]✗ {promise}[/red]"
        for promise, held in report.promises().items()
    )
    console.print(Panel(Group(numbers, "", versions, "", examples, "", promises, "", places), title="Report"))
    for failure in report.failures:
        console.print(f"[red]failed:[/red] {escape(failure)}")


def _within(seconds: float | None) -> bool:
    return seconds is not None and seconds <= FLOOR_S


def _seconds(seconds: float | None) -> str:
    return "not measured" if seconds is None else f"{seconds:.2f} s"
