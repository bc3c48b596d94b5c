"""What made a version, as the API and the command line say it."""

from __future__ import annotations

from pydantic import Field, JsonValue

from schemas.base import Millis, Record, Sha256
from schemas.manifests import Agreement, AnswerExample, GateResult, GuidanceInForce
from schemas.reports import Curves, RewardReport


class FeedbackUsed(Record):
    """The snapshot a version was trained on, in numbers."""

    watermark: Millis = Field(description="event time that it reaches to")
    feedback_window_ms: int
    rows: dict[str, int] = Field(description="rows by kind, e.g. pairs, thumbs, answers, heldout_pairs")
    by_kind: dict[str, int] = Field(description="words of feedback by kind of signal")
    by_source: dict[str, int] = Field(description="words by who speaks")
    by_language: dict[str, int]
    by_domain: dict[str, int]
    answers_by_version: dict[str, int] = Field(description="answers by the version that gave them")
    funnel: dict[str, int] = Field(description="stage -> how many, from answered to used")
    excluded: dict[str, int] = Field(description="`answer.REASON` or `feedback.REASON` -> how many")
    reasons: dict[str, str] = Field(description="each reason in plain words")
    agreement: dict[str, Agreement] = Field(
        default_factory=dict, description="how far people agree on `thumbs` and `pairs`; empty where nobody measured it"
    )


class VersionExplained(Record):
    """Where a version came from and what it changed."""

    version: str
    parent: str
    created_at: Millis
    digest: Sha256
    base_fingerprint: Sha256
    snapshot: Sha256
    feedback: FeedbackUsed | None = Field(description="None where the snapshot is not in the registry any more")
    reward_model: Sha256
    gates: tuple[GateResult, ...]
    kl_nats_per_sequence: float = Field(description="to the frozen base")
    kl_budget_nats_per_sequence: float
    examples: tuple[AnswerExample, ...] = Field(description="curated questions, answered by the parent and by this one")
    metrics: dict[str, float]
    recipe: dict[str, JsonValue]
    code_version: str
    seed: int
    guidance: tuple[GuidanceInForce, ...] = Field(
        default=(), description="what was in force while the words of its snapshot were said"
    )


class CardFacts(Record):
    """All that a version's model card, and that of its reward model, is written from."""

    explained: VersionExplained
    curves: Curves | None = Field(description="of the policy's training; None where none were kept")
    reward_model: RewardReport | None = Field(description="None where none was kept")
