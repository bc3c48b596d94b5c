"""The entries of the policy journal.

Many write to it and Kafka has no compare-and-append, so an entry carries its own id and, where it matters, the
generation its writer had seen. What an entry does is decided by the fold in `schemas.lifecycle`, alike everywhere.
It holds no personal data and is kept for ever.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, TypeAdapter

from schemas.base import Id, Sha256, VersionNumber
from schemas.event import Event

Reason = Annotated[str, Field(max_length=2_000)]


class JournalEntry(Event):
    """One proposed change. `tenant` is the operator's; the policy is the partition key."""

    TOPIC: ClassVar[str] = "attune.policy"
    TYPE: ClassVar[str] = "attune.policy"

    tenant: Id = "operator"
    actor: Id = Field(description="who proposes: a trainer, rollout control, an API key, the command line")
    reason: Reason = ""
    expected_generation: int | None = Field(
        default=None, ge=0, description="refuse unless the policy is still at this generation; None: no matter"
    )

    def key(self) -> str:
        return self.policy


class LeaseAcquired(JournalEntry):
    """A trainer asks for the right to make versions; the same holder renews it (the epoch counts up all the same)."""

    entry: Literal["lease_acquired"] = "lease_acquired"
    holder: Id
    ttl_ms: int = Field(gt=0, description="milliseconds from `at`")


class LeaseReleased(JournalEntry):
    """The holder gives the lease back."""

    entry: Literal["lease_released"] = "lease_released"
    epoch: int = Field(ge=1)


class VersionReserved(JournalEntry):
    """The lease holder takes the next version number. A number once taken is never given again."""

    entry: Literal["version_reserved"] = "version_reserved"
    epoch: int = Field(ge=1)
    version: VersionNumber


class CandidatePublished(JournalEntry):
    """The adapter of a reserved version lies complete in the registry."""

    entry: Literal["candidate_published"] = "candidate_published"
    epoch: int = Field(ge=1)
    version: VersionNumber
    digest: Sha256
    parent: VersionNumber
    kl_nats_per_sequence: float = Field(ge=0, description="to the frozen base, nats per sequence")


class CanaryStarted(JournalEntry):
    """A version gets a share of the traffic."""

    entry: Literal["canary_started"] = "canary_started"
    version: VersionNumber
    share: float = Field(gt=0, le=1)


class VersionPromoted(JournalEntry):
    """A version becomes stable; the one before it retires."""

    entry: Literal["version_promoted"] = "version_promoted"
    version: VersionNumber


class VersionRejected(JournalEntry):
    """A version will not be served: a gate, a vote or an operator said no."""

    entry: Literal["version_rejected"] = "version_rejected"
    version: VersionNumber


class VersionRolledBack(JournalEntry):
    """A serving version is taken back. For the stable one, `to` names its successor (default: the one before)."""

    entry: Literal["version_rolled_back"] = "version_rolled_back"
    version: VersionNumber
    to: VersionNumber | None = None


Entry = Annotated[
    LeaseAcquired
    | LeaseReleased
    | VersionReserved
    | CandidatePublished
    | CanaryStarted
    | VersionPromoted
    | VersionRejected
    | VersionRolledBack,
    Field(discriminator="entry"),
]
ENTRY: TypeAdapter[Entry] = TypeAdapter(Entry)
