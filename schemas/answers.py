"""What the API answers to apps and people: the bodies as they go out, and the error that everything can end in.

Knows shapes alone. What the engine answers is its own matter: of that, these models name what a client can rely on.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.base import Millis
from schemas.completion import ConsentLevel
from schemas.feedback import MAX_CANDIDATES


class Answer(BaseModel):
    """A body of ours: exactly these fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class EngineAnswer(BaseModel):
    """A body of the engine's, which may have more."""

    model_config = ConfigDict(frozen=True, extra="allow")


# --- errors -----------------------------------------------------------------------------------------------------


class ErrorDetail(EngineAnswer):
    """What went wrong."""

    message: str = Field(min_length=1, description="names the field at fault and the remedy; never what was sent")
    type: str = Field(description="the kind, e.g. invalid_request_error")
    param: str | None = Field(default=None, description="the field, parameter or header at fault")
    code: str | int | None = Field(default=None, description="a word to branch on, e.g. handle_expired")


class ErrorBody(EngineAnswer):
    """The body of every answer from 400 on, in OpenAI's shape."""

    error: ErrorDetail


# --- answers of the model ---------------------------------------------------------------------------------------


class AttunePart(Answer):
    """What Attune adds to an answer of the model."""

    policy: str
    version: str = Field(description="the version that spoke, e.g. support@v3")
    completion_id: str
    handles: list[str] = Field(description="one for each choice; none where nothing is recorded")


class EngineMessage(EngineAnswer):
    """A message of the model."""

    role: str
    content: str | None = None


class ChatChoice(EngineAnswer):
    """One of `n` answers."""

    index: int = Field(ge=0)
    message: EngineMessage
    finish_reason: str | None = None


class TokenUsage(EngineAnswer):
    """How many tokens were read and made."""

    prompt_tokens: int = Field(ge=0)
    completion_tokens: int | None = Field(default=None, ge=0)
    total_tokens: int = Field(ge=0)


class ChatCompletion(EngineAnswer):
    """OpenAI's chat completion."""

    id: str
    object: Literal["chat.completion"]
    created: int = Field(description="seconds since the epoch")
    model: str = Field(description="the version that spoke")
    choices: list[ChatChoice]
    usage: TokenUsage
    attune: AttunePart


class TextChoice(EngineAnswer):
    """One continuation."""

    index: int = Field(ge=0)
    text: str
    finish_reason: str | None = None


class TextCompletion(EngineAnswer):
    """OpenAI's text completion."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: TokenUsage
    attune: AttunePart


class ModelResponse(EngineAnswer):
    """OpenAI's response object."""

    id: str
    model: str
    attune: AttunePart


class MessageAnswer(EngineAnswer):
    """Anthropic's message object."""

    id: str
    model: str
    attune: AttunePart


class StoredCompletion(Answer):
    """A stored chat completion; refusals and token texts are not kept."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: dict[str, int]
    metadata: dict[str, str] = Field(description="the request's, without what named a user or session")
    attune: dict[str, str]


class StoredCompletions(Answer):
    """A page of them."""

    object: Literal["list"]
    data: list[StoredCompletion]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ModelCard(Answer):
    """A policy, as OpenAI's clients list models."""

    id: str
    object: Literal["model"]
    created: int = Field(description="when this replica started, seconds since the epoch")
    owned_by: Literal["attune"]


class ModelList(Answer):
    """The policies that a key may use."""

    object: Literal["list"]
    data: list[ModelCard]


# --- comparisons and feedback -----------------------------------------------------------------------------------


class Candidate(Answer):
    """One blinded answer."""

    index: int = Field(ge=0, lt=MAX_CANDIDATES)
    content: str
    tool_calls: list[Any] = Field(default_factory=list, description="where the model made some")


class ComparisonAnswer(Answer):
    """Blinded answers in random order, under one handle."""

    id: str
    object: Literal["comparison"]
    handle: str | None = Field(description="null where nothing is recorded")
    expires_at: Millis | None = Field(description="of the handle")
    candidates: list[Candidate]


Durable = Annotated[
    Literal["log", "spool"],
    Field(description="`log`: on the event log; `spool`: on this replica's disk, from where it goes to the log"),
]


class Stored(Answer):
    """A word is durable."""

    id: str
    status: Literal["stored"]
    durable: Durable


class MetricStored(Answer):
    """The answer to TensorZero's body."""

    feedback_id: str
    id: str
    status: Literal["stored", "dry_run"]
    durable: Durable | None = Field(default=None, description="as above; None after a dry run")


class ConsentStored(Answer):
    """The person's consent from the next snapshot on."""

    level: ConsentLevel
    status: Literal["stored"]
    durable: Durable


# --- the process ------------------------------------------------------------------------------------------------


class ProcessStatus(Answer):
    """`ok`, or why not."""

    status: str


class Readiness(ProcessStatus):
    """Whether this replica may take traffic, and how its way to the event log stands."""

    log: Literal["ok", "away"]
    log_away_seconds: float | None = Field(description="for how long the log has taken nothing; None while it takes")
    journal: Literal["followed", "away"] = Field(description="whether changes of versions are heard of")
    queue_bytes: int = Field(description="bytes of events that wait in memory")
    spool_bytes: int = Field(description="bytes of events that wait on disk")
    spool_oldest_seconds: float | None = Field(description="how long the oldest of them has waited")
