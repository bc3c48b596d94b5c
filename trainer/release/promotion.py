"""The interim promotion rule: blinded votes between canary and stable decide, until rollout control exists.

A pure function over votes. Knows nothing of logs, journals or models. Votes are few and their number is looked at
again and again, so the interval is honest only at the first look: the minimum number of votes and the margin are what
keeps a lucky start from being promoted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trainer.gates.statistics import sign_test, wilson_interval


class PromotionSettings(BaseModel):
    """When votes promote or reject a canary."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    canary_share: float = Field(0.1, gt=0, le=1, description="share of the traffic that a canary gets (ours)")
    min_votes: int = Field(40, ge=1, description="decisive votes before any verdict (ours)")
    min_margin: float = Field(
        0.1, ge=0, le=1, description="(wins - losses) / decisive votes that promotes; its negative rejects (ours)"
    )
    require_significance: bool = Field(
        False, description="promote only where the Wilson interval of the win share also lies above one half"
    )
    confidence: float = Field(0.9, gt=0.5, lt=1, description="of that interval, two-sided")
    max_votes: int = Field(400, ge=1, description="decisive votes after which an undecided canary is rejected (ours)")

    @model_validator(mode="after")
    def _order(self) -> PromotionSettings:
        if self.max_votes < self.min_votes:
            raise ValueError(f"max_votes ({self.max_votes}) is less than min_votes ({self.min_votes})")
        return self


@dataclass(frozen=True)
class CanaryVote:
    """One person's verdict on one blinded comparison of the canary with the stable version."""

    speaker: str
    """Pseudonym of who voted."""
    comparison_id: str
    at: int
    """Event time, ms since the epoch."""
    verdict: Literal["win", "loss", "tie"]
    """From the canary's side; both bad is a tie."""


@dataclass(frozen=True)
class Tally:
    """Votes counted, from the canary's side."""

    wins: int
    losses: int
    ties: int

    @property
    def decisive(self) -> int:
        """Votes that preferred one side."""
        return self.wins + self.losses


@dataclass(frozen=True)
class Verdict:
    """What to do with the canary, and why, in words for the journal."""

    action: Literal["promote", "reject", "hold"]
    reason: str
    tally: Tally


def tally(votes: Iterable[CanaryVote]) -> Tally:
    """Count votes, one for each person and comparison: the latest (of two at the same moment, the worse for the
    canary, so that the order they come in does not matter).
    """
    worst_first = {"loss": 0, "tie": 1, "win": 2}
    latest: dict[tuple[str, str], CanaryVote] = {}
    for vote in sorted(votes, key=lambda vote: (vote.at, -worst_first[vote.verdict])):
        latest[vote.speaker, vote.comparison_id] = vote
    verdicts = [vote.verdict for vote in latest.values()]
    return Tally(wins=verdicts.count("win"), losses=verdicts.count("loss"), ties=verdicts.count("tie"))


def decide(votes: Iterable[CanaryVote], settings: PromotionSettings) -> Verdict:
    """Promote, reject or hold.

    Nothing is decided before `min_votes` decisive votes. Then a margin of `min_margin` promotes (with
    `require_significance`, only if the interval agrees), its negative rejects, and anything between holds, until
    `max_votes` decisive votes have found no clear winner: then the stable version keeps its place.
    """
    counted = tally(votes)
    decisive = counted.decisive
    words = f"{counted.wins} of {decisive} blinded votes{f', {counted.ties} ties' if counted.ties else ''}"
    if decisive < settings.min_votes:
        return Verdict("hold", f"{words}; {settings.min_votes} are needed", counted)
    margin = (counted.wins - counted.losses) / decisive
    low, _ = wilson_interval(counted.wins, decisive, settings.confidence)
    words += f" (margin {margin:+.0%}, sign test p = {sign_test(counted.wins, counted.losses):.3g})"
    if margin >= settings.min_margin and margin > 0 and (low > 0.5 or not settings.require_significance):
        return Verdict("promote", words, counted)
    if margin <= -settings.min_margin and margin < 0:
        return Verdict("reject", f"{words}: people prefer the stable version", counted)
    if decisive >= settings.max_votes:
        return Verdict("reject", f"{words}: no clear winner, so the stable version stays", counted)
    return Verdict("hold", f"{words}; no clear winner yet", counted)
