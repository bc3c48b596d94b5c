"""The remaining events, and the table of all of them by wire type."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from schemas.base import Id, Sha256, Slug, VersionNumber
from schemas.completion import CompletionRecorded, ConsentLevel
from schemas.event import Event
from schemas.feedback import MAX_CANDIDATES, CandidateRef, FeedbackReceived
from schemas.imported import FeedbackImported
from schemas.raters import RaterJudged


class AnswerDisplayed(Event):
    """Answers were shown to a person, in this order: without it, silence cannot be modelled."""

    TYPE: ClassVar[str] = "attune.answer.displayed"
    TOPIC: ClassVar[str] = "attune.feedback"

    conversation: Id
    end_user: Id | None
    surface: Literal["chat", "comparison"]
    comparison_id: Id | None = None
    candidates: tuple[CandidateRef, ...] = Field(min_length=1, max_length=MAX_CANDIDATES, description="as shown")

    def key(self) -> str:
        return self.conversation


class ConsentChanged(Event):
    """A person allowed or withdrew the use of their data; it takes effect on the next snapshot."""

    TYPE: ClassVar[str] = "attune.consent.changed"
    TOPIC: ClassVar[str] = "attune.consents"

    end_user: Id
    level: ConsentLevel
    actor: Id = Field(description="id of the API key that sent it")

    def key(self) -> str:
        return self.end_user


class ErasureRequested(Event):
    """A person's data must become unreadable everywhere: the key is destroyed, rows become tombstones."""

    TYPE: ClassVar[str] = "attune.erasure.requested"
    TOPIC: ClassVar[str] = "attune.erasures"

    subject: Id = Field(description="pseudonym, or the conversation that stands for the person")
    actor: Id = Field(description="id of the API key or operator")

    def key(self) -> str:
        return self.subject


class ErasureApplied(Event):
    """One part of the system did what an erasure asks of it. Ids and counts alone: this is the audit trail."""

    TYPE: ClassVar[str] = "attune.erasure.applied"
    TOPIC: ClassVar[str] = "attune.erasures"

    erasure_id: Id = Field(description="of the erasure_requested that this answers")
    subject: Id = Field(description="as in the request")
    part: Literal["keys", "ledger"] = Field(
        description="keys: sealed content is unreadable; ledger: rows are tombstones"
    )
    counts: dict[Slug, Annotated[int, Field(ge=0)]] = Field(default_factory=dict, description="what was done, by name")
    actor: Id = Field(description="the process that did it")

    def key(self) -> str:
        return self.subject


class ReplicaReported(Event):
    """What one server replica really serves, as it sees it now. The topic is compacted by replica."""

    TYPE: ClassVar[str] = "attune.replica.reported"
    TOPIC: ClassVar[str] = "attune.replicas"

    replica_id: Id
    generation: int = Field(ge=0, description="of the policy journal, as folded by this replica")
    stable: VersionNumber
    canary: VersionNumber | None
    loaded: dict[int, Sha256 | None] = Field(description="version -> digest of the adapter in the engine")
    refused: dict[int, str] = Field(default_factory=dict, description="version -> why it could not be loaded")

    def key(self) -> str:
        return self.replica_id


EVENTS: dict[str, type[Event]] = {
    event.wire_type(): event
    for event in (
        CompletionRecorded,
        FeedbackReceived,
        FeedbackImported,
        AnswerDisplayed,
        ConsentChanged,
        ErasureRequested,
        ErasureApplied,
        RaterJudged,
        ReplicaReported,
    )
}
