"""What a person sees while the demo runs: a table that stays in place, and a line for each thing that happens.

Draws what it is told; asks nobody.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from deploy.demo.ledger import Ledger
from deploy.demo.operator import PolicyView

STAGE_COLOURS = {"stable": "green", "canary": "yellow", "rejected": "red", "rolled_back": "red", "retired": "dim"}


@dataclass
class Screen:
    """The demo's display. On something that is no terminal only the lines appear."""

    console: Console
    started: float = field(default_factory=time.monotonic)
    ledger: Ledger | None = None
    policy: PolicyView | None = None
    kl_budget: float = 0.0
    trainer: str = ""
    working_on: str = ""

    def say(self, what: str) -> None:
        """One line that stays."""
        self.console.print(f"[dim]{time.monotonic() - self.started:6.1f} s[/dim]  {what}", highlight=False)

    @contextmanager
    def live(self) -> Iterator[None]:
        """Keep the table in place and up to date within the block."""
        if not self.console.is_terminal:
            yield
            return
        with Live(get_renderable=self._draw, console=self.console, refresh_per_second=4, transient=True):
            yield

    def _draw(self) -> RenderableType:
        parts: list[RenderableType] = []
        if self.policy is not None and self.ledger is not None:
            table = Table("version", "stage", "gold with users", "answers", "KL to base (budget)")
            for version in self.policy.versions:
                gold = self.ledger.live_gold(version.name)
                colour = STAGE_COLOURS.get(version.stage, "default")
                table.add_row(
                    version.name,
                    f"[{colour}]{version.stage}[/{colour}]",
                    "" if gold is None else f"{gold:.3f} {'█' * round(20 * gold)}",
                    str(self.ledger.answers[version.name]),
                    f"{version.kl:.2f} ({self.kl_budget:g})" if version.number else "0",
                )
            parts.append(table)
        if self.ledger is not None:
            ledger = self.ledger
            failed = f"[red]{ledger.requests_failed} failed[/red]" if ledger.requests_failed else "0 failed"
            parts.append(
                f"{ledger.requests_sent} requests, {failed} · 👍 {ledger.thumbs_up}  👎 {ledger.thumbs_down}  "
                f"⚖ {ledger.comparisons} · {len(ledger.feedback_ids)} pieces of feedback durable"
            )
        parts.append(f"[dim]{time.monotonic() - self.started:.0f} s  {escape(self.working_on or self.trainer)}[/dim]")
        return Group(*parts)
