"""What happens to published versions between turns: a canary is decided by votes, a waiting candidate gets its turn.

Operators may act at any moment; where one was faster, the journal refuses and this module says so and looks again
later. Knows journal and votes; knows nothing of learning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from exchange.journal import PolicyJournal
from schemas.base import new_id, now_ms, version_name
from schemas.errors import Refused
from schemas.journal import VersionPromoted, VersionRolledBack
from schemas.lifecycle import PolicyState, Stage
from trainer.release.promotion import CanaryVote, PromotionSettings, Verdict, decide
from trainer.release.publish import Publisher


class Ballots(Protocol):
    """Where votes come from."""

    def votes(self, *, canary: int, stable: int, since_ms: int) -> Sequence[CanaryVote]:
        """Blinded votes between these two versions, cast at or after `since_ms`."""


@dataclass(frozen=True)
class Settled:
    """How the policy stands after a look at it."""

    changed: bool
    """An entry was applied."""
    free: bool
    """No canary is undecided and no candidate waits: a new one may be trained."""
    message: str
    """In words; empty where there is nothing to say."""


@dataclass(frozen=True)
class CanaryWatch:
    """Looks after the versions of one policy."""

    journal: PolicyJournal
    publisher: Publisher
    ballots: Ballots
    settings: PromotionSettings
    own: Callable[[], int | None]
    """The version number that the turn in progress has reserved, if any."""

    def settle(self) -> Settled:
        """Decide the canary if votes allow it; else start the next candidate; else tidy up."""
        self.journal.refresh()
        state = self.journal.state(self.publisher.policy)
        if state.canary is not None:
            return self._decide(state, state.canary)
        waiting = [number for number, version in state.versions.items() if version.stage is Stage.CANDIDATE]
        if waiting:
            return self._next(state, max(waiting))
        return self._sweep(state)

    def _decide(self, state: PolicyState, canary: int) -> Settled:
        version = state.versions[canary]
        votes = self.ballots.votes(canary=canary, stable=state.stable, since_ms=version.since)
        verdict = decide(votes, self.settings)
        name = version_name(state.policy, canary)
        if verdict.action == "hold":
            return Settled(False, False, f"{name} is the canary: {verdict.reason}")
        try:
            self.journal.propose(self._entry(state, canary, verdict))
        except Refused as refused:
            return Settled(False, False, f"the votes on {name} came too late: {refused.message}")
        done = "promoted" if verdict.action == "promote" else "taken back"
        return Settled(True, True, f"{name} {done}: {verdict.reason}")

    def _entry(self, state: PolicyState, canary: int, verdict: Verdict) -> VersionPromoted | VersionRolledBack:
        kind = VersionPromoted if verdict.action == "promote" else VersionRolledBack
        return kind(
            id=new_id("je"),
            at=now_ms(),
            policy=state.policy,
            actor=self.publisher.lease.holder,
            reason=verdict.reason,
            # The votes compare this canary with this stable version: any change in between voids them.
            expected_generation=state.generation,
            version=canary,
        )

    def _next(self, state: PolicyState, candidate: int) -> Settled:
        """Start a candidate that could not become canary at once; one of a parent that no longer serves is rejected."""
        version, name = state.versions[candidate], version_name(state.policy, candidate)
        if version.parent != state.stable:
            parent = version_name(state.policy, version.parent or 0)
            self.publisher.reject(candidate, f"its parent {parent} is not stable any more")
            return Settled(True, False, f"{name} rejected: its parent {parent} is not stable any more")
        started = self.publisher.start_canary(candidate, "waited for its turn")
        return Settled(started, False, f"{name} is the canary now" if started else f"{name} waits to become canary")

    def _sweep(self, state: PolicyState) -> Settled:
        """Reject numbers that were reserved and never filled: their trainer died, or its turn was dropped."""
        empty = [
            number
            for number, version in state.versions.items()
            if version.stage is Stage.RESERVED and number != self.own()
        ]
        for number in empty:
            self.publisher.reject(number, "reserved, and abandoned before it was published")
        return Settled(bool(empty), True, "")
