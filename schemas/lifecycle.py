"""The life of a policy version: one table, and a total fold over the journal.

`fold` never raises: what is stale or illegal changes nothing and its outcome is a refusal with the reason, so that
every replica that reads the same journal holds the same state and the writer can read its own outcome back.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType

from pydantic import Field

from schemas.base import Id, Millis, PolicyName, Record, Sha256, VersionNumber, version_name
from schemas.journal import (
    CanaryStarted,
    CandidatePublished,
    Entry,
    LeaseAcquired,
    LeaseReleased,
    VersionPromoted,
    VersionRejected,
    VersionReserved,
    VersionRolledBack,
)


class Stage(StrEnum):
    """Where a version stands."""

    RESERVED = "reserved"
    CANDIDATE = "candidate"
    CANARY = "canary"
    STABLE = "stable"
    RETIRED = "retired"
    REJECTED = "rejected"
    ROLLED_BACK = "rolled_back"


# What an entry does to the version it names: from any of these stages to that one.
TRANSITIONS: MappingProxyType[str, tuple[frozenset[Stage], Stage]] = MappingProxyType(
    {
        "candidate_published": (frozenset({Stage.RESERVED}), Stage.CANDIDATE),
        "canary_started": (frozenset({Stage.CANDIDATE, Stage.RETIRED, Stage.ROLLED_BACK}), Stage.CANARY),
        "version_promoted": (
            frozenset({Stage.CANDIDATE, Stage.CANARY, Stage.RETIRED, Stage.ROLLED_BACK}),
            Stage.STABLE,
        ),
        "version_rejected": (frozenset({Stage.RESERVED, Stage.CANDIDATE, Stage.CANARY}), Stage.REJECTED),
        "version_rolled_back": (frozenset({Stage.CANARY, Stage.STABLE}), Stage.ROLLED_BACK),
    }
)


class VersionState(Record):
    """One version as the journal knows it."""

    version: VersionNumber
    stage: Stage
    since: Millis
    digest: Sha256 | None = Field(default=None, description="None for the base and before publication")
    parent: VersionNumber | None = None
    kl_nats_per_sequence: float = 0.0
    reason: str = ""


class Lease(Record):
    """The right to make versions. A later epoch fences off every earlier one."""

    holder: Id | None = None
    epoch: int = 0
    expires_at: Millis = 0


class Outcome(Record):
    """What became of one journal entry."""

    entry_id: Id
    applied: bool
    reason: str = Field(default="", description="why it was refused")
    generation: int = Field(description="after the entry")


class PolicyState(Record):
    """The fold of the journal for one policy. Version 0, the base, is stable from the start."""

    policy: PolicyName
    generation: int = Field(default=0, description="applied entries, not counting leases")
    versions: dict[int, VersionState]
    stable: VersionNumber = 0
    canary: VersionNumber | None = None
    canary_share: float = 0.0
    previous_stable: tuple[VersionNumber, ...] = Field(default=(), description="oldest first, without rolled-back ones")
    lease: Lease = Lease()

    @property
    def next_version(self) -> int:
        """The number that the next reservation must take."""
        return max(self.versions) + 1

    def servable(self) -> tuple[int, ...]:
        """Versions that traffic may be routed to or pinned to: published and not rejected."""
        hidden = {Stage.RESERVED, Stage.REJECTED}
        return tuple(sorted(number for number, version in self.versions.items() if version.stage not in hidden))


def initial_state(policy: str) -> PolicyState:
    """A policy before its first journal entry: the base serves."""
    return PolicyState(policy=policy, versions={0: VersionState(version=0, stage=Stage.STABLE, since=0)})


def fold(state: PolicyState, entry: Entry) -> tuple[PolicyState, Outcome]:
    """The state after an entry of this policy that was not folded before, and what became of the entry.

    Total and deterministic: a refused entry leaves the state as it is.
    """
    refusal = _refusal(state, entry)
    if refusal is None:
        state = _apply(state, entry)
    return state, Outcome(entry_id=entry.id, applied=refusal is None, reason=refusal or "", generation=state.generation)


class PolicyFold:
    """One policy's journal, folded so far. Idempotent in the id of an entry: what is delivered twice counts once.

    The outcomes lie beside the state, not in it: a journal is kept for ever, and copying all of them for every entry
    would make reading it quadratic.
    """

    def __init__(self, policy: str) -> None:
        self.state = initial_state(policy)
        self.outcomes: dict[str, Outcome] = {}

    def take(self, entry: Entry) -> Outcome | None:
        """Fold one entry; None where there is nothing to fold: it is another policy's, or was delivered before."""
        if entry.policy != self.state.policy or entry.id in self.outcomes:
            return None
        self.state, outcome = fold(self.state, entry)
        self.outcomes[entry.id] = outcome
        return outcome


def _refusal(state: PolicyState, entry: Entry) -> str | None:
    """Why the entry must not apply, in words; None where it may."""
    if entry.expected_generation is not None and entry.expected_generation != state.generation:
        return f"stale: the policy is at generation {state.generation}, not {entry.expected_generation}"
    lease = state.lease
    if isinstance(entry, LeaseAcquired):
        if lease.holder not in (None, entry.holder) and entry.at < lease.expires_at:
            return f"the lease is held by {lease.holder} until {lease.expires_at}"
        return None
    if isinstance(entry, LeaseReleased | VersionReserved | CandidatePublished) and (
        lease.holder is None or entry.epoch != lease.epoch
    ):
        return f"epoch {entry.epoch} does not hold the lease (now at epoch {lease.epoch})"
    if isinstance(entry, LeaseReleased):
        return None
    if isinstance(entry, VersionReserved):
        if entry.version != state.next_version:
            return f"the next version is {state.next_version}, not {entry.version}"
        return None
    return _illegal_transition(state, entry)


def _illegal_transition(
    state: PolicyState,
    entry: CandidatePublished | CanaryStarted | VersionPromoted | VersionRejected | VersionRolledBack,
) -> str | None:
    name = version_name(state.policy, entry.version)
    version = state.versions.get(entry.version)
    if version is None:
        return f"{name} does not exist"
    sources, target = TRANSITIONS[entry.entry]
    if version.stage not in sources:
        return f"{name} is {version.stage} and cannot become {target}"
    if isinstance(entry, CanaryStarted) and state.canary is not None:
        return f"{version_name(state.policy, state.canary)} is already the canary"
    if isinstance(entry, VersionRolledBack) and version.stage is Stage.STABLE:
        return _illegal_successor(state, entry)
    return None


def _illegal_successor(state: PolicyState, entry: VersionRolledBack) -> str | None:
    to = _successor(state, entry)
    if to is None:
        return f"no version before {version_name(state.policy, entry.version)} to go back to"
    if to not in state.versions:
        return f"{version_name(state.policy, to)} does not exist"
    stage = state.versions[to].stage
    if stage not in (Stage.RETIRED, Stage.ROLLED_BACK):
        return f"{version_name(state.policy, to)} is {stage} and never was stable"
    return None


def _successor(state: PolicyState, entry: VersionRolledBack) -> int | None:
    if entry.to is not None:
        return entry.to
    return state.previous_stable[-1] if state.previous_stable else None


def _apply(state: PolicyState, entry: Entry) -> PolicyState:
    if isinstance(entry, LeaseAcquired):
        lease = Lease(holder=entry.holder, epoch=state.lease.epoch + 1, expires_at=entry.at + entry.ttl_ms)
        return state.model_copy(update={"lease": lease})
    if isinstance(entry, LeaseReleased):
        return state.model_copy(update={"lease": Lease(epoch=state.lease.epoch)})

    versions = dict(state.versions)
    update: dict[str, object] = {"versions": versions, "generation": state.generation + 1}

    def move(number: int, stage: Stage, reason: str, **facts: object) -> None:
        versions[number] = versions[number].model_copy(
            update={"stage": stage, "since": entry.at, "reason": reason, **facts}
        )

    if isinstance(entry, VersionReserved):
        versions[entry.version] = VersionState(version=entry.version, stage=Stage.RESERVED, since=entry.at)
        return state.model_copy(update=update)
    if entry.version == state.canary:
        update |= {"canary": None, "canary_share": 0.0}
    target = TRANSITIONS[entry.entry][1]
    if isinstance(entry, CandidatePublished):
        facts = {"digest": entry.digest, "parent": entry.parent, "kl_nats_per_sequence": entry.kl_nats_per_sequence}
        move(entry.version, target, entry.reason, **facts)
    elif isinstance(entry, VersionPromoted):
        move(state.stable, Stage.RETIRED, f"followed by {version_name(state.policy, entry.version)}")
        move(entry.version, target, entry.reason)
        history = tuple(number for number in state.previous_stable if number != entry.version)
        update |= {"stable": entry.version, "previous_stable": (*history, state.stable)}
    elif isinstance(entry, VersionRolledBack) and entry.version == state.stable:
        to = _successor(state, entry)
        assert to is not None, "refused before"  # noqa: S101
        move(entry.version, target, entry.reason)
        move(to, Stage.STABLE, f"rolled back from {version_name(state.policy, entry.version)}")
        update |= {"stable": to, "previous_stable": tuple(number for number in state.previous_stable if number != to)}
        if state.canary == to:
            update |= {"canary": None, "canary_share": 0.0}
    else:
        move(entry.version, target, entry.reason)
        if isinstance(entry, CanaryStarted):
            update |= {"canary": entry.version, "canary_share": entry.share}
    return state.model_copy(update=update)
