"""What the operators' API answers: policies, their history, versions, erasures, raters. Knows shapes alone."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from schemas.answers import Answer
from schemas.base import Millis
from schemas.explanations import CardFacts, VersionExplained
from schemas.lifecycle import Lease, Stage
from schemas.raters import RaterEvidence


class VersionView(Answer):
    """One version as the journal knows it."""

    version: str = Field(description="e.g. support@v3")
    number: int = Field(ge=0)
    stage: Stage
    since: Millis
    digest: str | None = Field(description="of the adapter; null for the base and before publication")
    parent: str | None
    kl_nats_per_sequence: float
    reason: str


class RoutedView(Answer):
    """What this replica routes by."""

    stable: str
    canary: str | None


class PolicyView(Answer):
    """What the journal says of a policy, and what this replica makes of it."""

    policy: str
    generation: int = Field(ge=0)
    stable: str
    canary: str | None
    canary_share: float
    lease: Lease
    versions: list[VersionView]
    serving: list[str] = Field(description="versions loaded here")
    routed: RoutedView
    refused: dict[str, str] = Field(description="version -> why this replica cannot serve it")


class PolicyChanged(PolicyView):
    """The state after a change."""

    in_effect: bool = Field(description="whether this replica routes by it already; 202 where it does not")
    seconds: float = Field(ge=0, description="from the request until then")


class PolicyList(Answer):
    """Every policy that the key may use."""

    policies: list[PolicyView]


class HistoryEntry(Answer):
    """A journal entry and what became of it; it has more fields by its kind."""

    model_config = ConfigDict(frozen=True, extra="allow")

    id: str
    at: Millis
    entry: str = Field(description="the kind, e.g. version_promoted")
    actor: str
    reason: str
    offset: int = Field(ge=0)
    applied: bool
    refused: str | None = Field(description="why it was not applied")
    generation: int = Field(ge=0, description="after the entry")


class PolicyHistory(Answer):
    """The journal of a policy, oldest first."""

    entries: list[HistoryEntry]


class VersionOrigin(Answer):
    """Where a version came from."""

    version: str
    stage: Stage
    since: Millis
    reason: str
    made: VersionExplained | None = Field(description="null where nothing was published")


class VersionCard(Answer):
    """What a version's model card is written from."""

    version: str
    stage: Stage
    since: Millis
    reason: str
    facts: CardFacts


class ErasureStep(Answer):
    """What one part did for an erasure."""

    part: Literal["keys", "ledger"]
    policy: str
    at: Millis
    by: str
    counts: dict[str, int]


class ErasureView(Answer):
    """One erasure."""

    id: str
    subject: str = Field(description="pseudonym, or the conversation that stands for the person")
    requested_at: Millis
    by: str
    applied: list[ErasureStep]


class InfluencedPolicy(Answer):
    """Versions of a policy that the person had a part in."""

    policy: str
    direct: list[str]
    inherited: list[str]
    unknown: list[str]


class ErasureStatus(ErasureView):
    """One erasure, what it waits for, and which versions it reaches."""

    waiting_for: list[str]
    influenced: list[InfluencedPolicy]
    note: str


class ErasureDone(ErasureStatus):
    """The answer to a new erasure."""

    rebuilt: list[dict[str, Any]] = Field(description="each change made by `rebuild`, and what became of it")


class ErasureList(Answer):
    """All erasures of the key's tenant, oldest first."""

    erasures: list[ErasureView]


class RaterJudgement(Answer):
    """What was once decided about a rater."""

    at: Millis
    verdict: Literal["quarantined", "released"]
    why: str
    by: str = Field(description="the trainer, or the API key of the operator")
    evidence: RaterEvidence | None = Field(description="what a test found; null where an operator decided")


class RaterView(Answer):
    """Where a rater stands."""

    rater: str = Field(description="pseudonym, or the conversation that stands for the person")
    quarantined: bool
    since: Millis
    history: list[RaterJudgement] = Field(description="oldest first")


class RaterList(Answer):
    """Everybody of the key's tenant of whom anything was decided, the quarantined first."""

    raters: list[RaterView]
