"""What the join knows of the log: facts without personal content, and everything that is known at one moment.

Content (messages, texts, token ids) is not here: it stays sealed in the ledger and in snapshots.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field

from exchange.log.port import TopicPartition
from schemas.base import Id, Millis, Record, VersionNumber
from schemas.completion import Arm, Consent, SamplingParameters, Shown
from schemas.events import AnswerDisplayed, ConsentChanged
from schemas.feedback import FeedbackReceived
from schemas.raters import RaterJudged


class AnswerFacts(Record):
    """One choice of a completion, as `schemas.completion.CompletionChoice` with its logprobs left packed."""

    index: int
    token_count: int
    logprobs: str | None = Field(description="base64 of little-endian float32, nats")
    finish_reason: str
    seen: bool

    def logprob_bytes(self) -> bytes:
        """The packed logprobs, little-endian float32; empty where there are none."""
        return base64.b64decode(self.logprobs or "")

    def has_logprobs(self) -> bool:
        """Whether every sampled token has a finite logprob."""
        data = self.logprob_bytes()
        if self.logprobs is None or len(data) != 4 * self.token_count:
            return False
        return all(map(math.isfinite, struct.unpack(f"<{self.token_count}f", data)))


class CompletionFacts(Record):
    """A completion event without its sealed content."""

    id: Id = Field(description="of the event; its sealed content is bound to it")
    at: Millis
    tenant: Id
    completion_id: Id
    version: VersionNumber
    base_fingerprint: str
    arm: Arm
    shown: Shown
    end_user: Id | None
    conversation: Id
    consent: Consent
    language: str | None = None
    domain: str | None = None
    sampling: SamplingParameters
    logprobs_mode: str
    finished_at: Millis
    choices: tuple[AnswerFacts, ...]

    def subject(self) -> str:
        """Whose data this is, as `CompletionRecorded.subject_of`."""
        return self.end_user or self.conversation


class ImportedFacts(Record):
    """An imported vote without its sealed content."""

    id: Id
    at: Millis
    tenant: Id
    conversation: Id
    end_user: Id | None
    kind: Literal["thumbs", "preference"]
    liked: bool | None = None
    target: Id
    consent: Consent
    source: str

    def speaker(self) -> str:
        """Whose voice this is, as `FeedbackImported.speaker`."""
        return self.end_user or self.conversation


@dataclass(frozen=True)
class Answer:
    """One choice of one completion: what feedback speaks of and PPO learns from."""

    completion: CompletionFacts
    choice: AnswerFacts

    @property
    def key(self) -> tuple[str, int]:
        """(completion id, choice)."""
        return self.completion.completion_id, self.choice.index

    @property
    def name(self) -> str:
        """`COMPLETION_ID/CHOICE`, as exclusions name it."""
        return f"{self.completion.completion_id}/{self.choice.index}"


@dataclass(frozen=True)
class Known:
    """Everything a ledger holds for its policy at one moment, in no particular order."""

    completions: tuple[CompletionFacts, ...] = ()
    feedback: tuple[FeedbackReceived, ...] = ()
    """Without their sealed content."""
    displayed: tuple[AnswerDisplayed, ...] = ()
    consents: tuple[ConsentChanged, ...] = ()
    raters: tuple[RaterJudged, ...] = ()
    """Who was quarantined or released, for this policy."""
    erased_completions: frozenset[str] = frozenset()
    """Completion ids whose rows are tombstones."""
    erased_feedback: frozenset[str] = frozenset()
    """Feedback ids whose rows are tombstones."""
    imported: tuple[ImportedFacts, ...] = ()
    erased_imported: frozenset[str] = frozenset()
    """Ids of imported votes whose rows are tombstones."""
    expired_completions: frozenset[str] = frozenset()
    """Completion ids whose rows were dropped for their age."""
    expired_feedback: frozenset[str] = frozenset()
    """Feedback ids whose rows were dropped for their age."""
    watermark: int = 0
    """Latest event time known, ms since the epoch."""
    offsets: Mapping[TopicPartition, int] = field(default_factory=dict)
    """The next offset to read, by partition."""
    places: Mapping[str, int] = field(default_factory=dict)
    """Event id -> its place in the order in which events were read, from 1."""
    read: int = 0
    """How many events were read: the last place."""
