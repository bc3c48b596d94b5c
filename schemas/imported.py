"""Feedback that existed before Attune: votes on answers that some other system gave, as text.

No engine of ours sampled these answers, so there are no token ids and no logprobs: they teach the reward model, never
PPO. Apart from that they travel, rest and are erased like all other feedback.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from schemas.base import Id, Record, Slug
from schemas.completion import Consent
from schemas.event import Event
from schemas.sealed import Sealed


class ChatMessage(Record):
    """One message of an imported conversation: text alone."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str


class ImportedContent(Record):
    """The sealed part of an imported vote."""

    messages: tuple[ChatMessage, ...] = Field(description="the conversation up to where the answer begins")
    answers: tuple[str, ...] = Field(
        min_length=1, max_length=2, description="what was judged; of a preference, the better one first"
    )


class FeedbackImported(Event):
    """A person's vote on an answer of another system was brought in by an operator."""

    TYPE: ClassVar[str] = "attune.feedback.imported"
    TOPIC: ClassVar[str] = "attune.feedback"

    conversation: Id
    end_user: Id | None = Field(description="pseudonym: keyed hash of tenant and user")
    kind: Literal["thumbs", "preference"]
    liked: bool | None = Field(default=None, description="of thumbs; None for a preference")
    target: Id = Field(description="keyed hash of the conversation and what was judged: equal where two votes compete")
    consent: Consent = Field(description="as the operator stated it")
    source: Slug = Field(description="where it came from, e.g. jsonl, open-webui, langfuse")
    actor: Id = Field(description="who brought it in")
    language: Slug | None = None
    domain: Slug | None = None
    content: Sealed = Field(description="an ImportedContent in JSON, under the subject's key")

    @model_validator(mode="after")
    def _liked_if_thumbs(self) -> FeedbackImported:
        if (self.kind == "thumbs") != (self.liked is not None):
            raise ValueError("liked is required for thumbs, and only for them")
        return self

    def key(self) -> str:
        return self.conversation

    def speaker(self) -> str:
        """Whose voice this is: the end user, or the conversation where no user was named."""
        return self.end_user or self.conversation
