"""What a scene found, as a row of docs/faults.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.faults.audit import Audit
from tests.faults.load import Account

HEADINGS = (
    "scene",
    "words acknowledged",
    "found",
    "missing",
    "doubled",
    "chats",
    "failed",
    "slowest chat",
    "peak memory",
    "note",
    "ran",
)


@dataclass(frozen=True)
class Outcome:
    """One scene's figures. None where a scene has no such thing."""

    acknowledged: int | None = None
    found: int | None = None
    missing: int | None = None
    doubled: int | None = None
    chats: int | None = None
    failed: int | None = None
    slowest_s: float | None = None
    peak_mb: float | None = None
    """The server's largest resident set."""
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = field(default=())
    """What must not have been; empty for a scene that passed."""

    def check(self) -> None:
        """AssertionError where the scene did not pass."""
        assert not self.faults, "; ".join(self.faults)

    def cells(self) -> tuple[str, ...]:
        """All but the scene's name and the day it ran."""
        counts = (self.acknowledged, self.found, self.missing, self.doubled, self.chats, self.failed)
        slowest = "-" if self.slowest_s is None else f"{self.slowest_s:.2f} s"
        peak = "-" if self.peak_mb is None else f"{self.peak_mb:.0f} MB"
        note = "; ".join([*(f"**failed: {fault}**" for fault in self.faults), *self.notes])
        return (*("-" if count is None else f"{count:,}" for count in counts), slowest, peak, note)


def judged(
    account: Account,
    audit: Audit,
    *,
    notes: Sequence[str],
    peak_mb: float | None = None,
    all_answers: bool = False,
    may_be_unready: bool = False,
) -> Outcome:
    """An outcome by the rules that hold in every scene: nothing acknowledged is missing, nothing is counted twice, no
    chat fails on a living server, feedback is refused only in clear words, and readiness stays.

    Args:
        all_answers: whether every answer that reached a client must be on the log as well.
        may_be_unready: whether readiness may be refused, as with a full spool.
    """
    faults: list[str] = []
    if audit.missing:
        faults.append(f"{len(audit.missing)} acknowledged words are missing, e.g. {audit.missing[0]}")
    if audit.doubled:
        faults.append(f"{len(audit.doubled)} answers have two words in the ledger, e.g. on {audit.doubled[0]}")
    if account.failed:
        faults.append(f"{len(account.failed)} chats failed, e.g. {account.failed[0]}")
    if account.refused_badly:
        faults.append(f"{len(account.refused_badly)} words failed without a clear refusal: {account.refused_badly[0]}")
    if account.unready and not may_be_unready:
        faults.append(f"readiness was refused: {account.unready.most_common(2)}")
    if not audit.acknowledged:
        faults.append("nothing was acknowledged, so nothing is proven")
    if all_answers and audit.lost_answers:
        faults.append(f"{len(audit.lost_answers)} answers are not on the log, e.g. {audit.lost_answers[0]}")
    told = list(notes)
    told.append(f"{audit.recorded:,} of {audit.answered:,} answers on the log")
    if audit.repeated:
        told.append(f"{audit.repeated} records came twice and count once")
    if len(account.acknowledged_as) > 1:
        ways = ", ".join(f"{count} {way}" for way, count in sorted(account.acknowledged_as.items()))
        told.append(f"acknowledged: {ways}")
    if account.broken:
        told.append(f"{account.broken} chats met a server that was down or starting")
    if account.refused:
        told.append(f"feedback refused {account.refused.total()} times")
    if account.unsettled:
        told.append(f"{account.unsettled} words never acknowledged")
    return Outcome(
        acknowledged=audit.acknowledged,
        found=audit.found,
        missing=len(audit.missing),
        doubled=len(audit.doubled),
        chats=len(account.answered),
        failed=len(account.failed),
        slowest_s=account.slowest_s,
        peak_mb=peak_mb,
        notes=tuple(told),
        faults=tuple(faults),
    )
