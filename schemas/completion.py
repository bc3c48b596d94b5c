"""The completion event: everything training needs to know of one answered request.

One event per engine request, with all its choices. Token ids and logprobs are taken at the engine and never
re-tokenised. A feedback target is (completion id, choice).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import ClassVar, Literal

from pydantic import Field, FiniteFloat, JsonValue, model_validator

from schemas.arrays import Float32Array, Int32Array
from schemas.base import ChoiceIndex, Id, Millis, Record, Sha256, Slug, VersionNumber
from schemas.event import Event
from schemas.sealed import Sealed

COLLECTED = "collected"
"""Domain of answers that nobody waited for (`attune collect`): silence on them says nothing."""

FULL_DISTRIBUTION: Mapping[str, float] = MappingProxyType(
    {
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
    }
)
"""What a request says to be sampled from all that the model would say; its temperature apart."""


class Arm(StrEnum):
    """Why this version, or this sampling, answered."""

    STABLE = "stable"
    CANARY = "canary"
    SHADOW = "shadow"
    PINNED = "pinned"
    EXPLORATION = "exploration"


class Shown(StrEnum):
    """How the answer reached a person."""

    DIRECT = "direct"
    COMPARISON = "comparison"
    HIDDEN = "hidden"


class ConsentLevel(StrEnum):
    """What may be done with a person's data; each level includes the ones before it."""

    NONE = "none"
    STORE = "store"
    TRAIN = "train"


class Consent(Record):
    """A person's consent at the time of the event."""

    level: ConsentLevel
    source: Literal["request", "key", "tenant", "event", "import"] = Field(description="who said so")


class SamplingParameters(Record):
    """The parameters the engine really sampled with, after the model's own generation defaults were applied.

    For settings that only decide whether a logged logprob is the true sampling probability, a flag is enough;
    the values would repeat personal content.
    """

    temperature: FiniteFloat = Field(ge=0)
    top_p: float = Field(gt=0, le=1)
    top_k: int = Field(ge=0, description="0 is off")
    min_p: float = Field(ge=0, le=1)
    presence_penalty: FiniteFloat = 0.0
    frequency_penalty: FiniteFloat = 0.0
    repetition_penalty: FiniteFloat = 1.0
    seed: int | None = None
    max_tokens: int | None = Field(default=None, description="tokens")
    min_tokens: int = Field(default=0, description="tokens")
    stop_strings: int = Field(default=0, description="how many stop strings were set")
    logit_bias: bool = False
    bad_words: bool = False
    allowed_token_ids: bool = False
    structured_output: bool = Field(default=False, description="a grammar, schema or forced tool call masked tokens")
    forced_tool: bool = False
    opaque: bool = Field(
        default=False, description="something else (custom processors, speculation, watermark) had a say"
    )

    @property
    def full_distribution(self) -> bool:
        """Whether each token came from the whole softmax at this temperature, so that its logprob is exact."""
        plain = (
            self.temperature > 0
            and self.top_p == 1
            and self.top_k == 0
            and self.min_p == 0
            and self.presence_penalty == 0
            and self.frequency_penalty == 0
            and self.repetition_penalty == 1
            and self.min_tokens == 0
        )
        masked = self.logit_bias or self.bad_words or self.allowed_token_ids
        return plain and not (masked or self.structured_output or self.forced_tool or self.opaque)


class CompletionChoice(Record):
    """The part of a choice that says nothing about its content."""

    index: ChoiceIndex
    token_count: int = Field(ge=0, description="sampled tokens, including those that a stop string cut from the text")
    logprobs: Float32Array | None = Field(description="nats; of each sampled token; None where the engine gave none")
    finish_reason: Literal["stop", "length", "abort", "error", "repetition"]
    seen: bool = Field(description="False where the client had left before the end")

    @model_validator(mode="after")
    def _same_length(self) -> CompletionChoice:
        if self.logprobs is not None and len(self.logprobs) != self.token_count:
            raise ValueError(f"{len(self.logprobs)} logprobs for {self.token_count} tokens")
        return self


class ChoiceContent(Record):
    """The sealed part of a choice."""

    index: ChoiceIndex
    token_ids: Int32Array = Field(description="as sampled")
    text: str = Field(description="as shown: stop strings cut text, not tokens")


class CompletionContent(Record):
    """The sealed part of a completion event."""

    messages: tuple[dict[str, JsonValue], ...] = Field(description="as sent by the client")
    prompt_token_ids: Int32Array = Field(description="as the engine saw them, after the chat template")
    choices: tuple[ChoiceContent, ...]


class CompletionRecorded(Event):
    """A request was answered by one version of a policy."""

    TYPE: ClassVar[str] = "attune.completion.recorded"
    TOPIC: ClassVar[str] = "attune.completions"

    completion_id: Id = Field(description="minted by the server, never taken from the client")
    protocol: str = Field(max_length=64, description="the API that was called, e.g. chat.completions")
    version: VersionNumber = Field(description="the version that really answered")
    adapter_digest: Sha256 | None = Field(description="None for the base")
    base_fingerprint: Sha256
    chat_template_hash: Sha256
    arm: Arm
    shown: Shown
    api_key_id: Id
    end_user: Id | None = Field(description="pseudonym: keyed hash of tenant and user")
    conversation: Id
    consent: Consent
    retention: Slug = "standard"
    language: Slug | None = None
    domain: Slug | None = None
    metadata: dict[Slug, str] = Field(default_factory=dict, description="the client's own tags; no personal data")
    sampling: SamplingParameters
    logprobs_mode: Literal["raw_logprobs", "processed_logprobs", "raw_logits", "processed_logits"]
    started_at: Millis
    finished_at: Millis
    first_token_ms: FiniteFloat | None = Field(default=None, ge=0, description="milliseconds from start to first token")
    prompt_token_count: int = Field(ge=0)
    choices: tuple[CompletionChoice, ...]
    store: bool = Field(default=False, description="the client asked to find it again: GET /v1/chat/completions")
    comparison_id: Id | None = Field(default=None, description="the blinded comparison this answer was made for")
    content: Sealed = Field(description="a CompletionContent in JSON, under the subject's key")

    def key(self) -> str:
        return self.conversation

    def subject_of(self) -> str:
        """Whose data this is: the end user, or the conversation where no user was named."""
        return self.end_user or self.conversation
