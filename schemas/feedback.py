"""Feedback: one tagged union of what a person can say of an answer, as HTTP bodies and as the event they become.

A signal says nothing personal; free text (comments, corrections) is sealed. The latest valid word of a person
on a target counts, once: `supersedes` and the retraction name an earlier feedback id of the same person.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, FiniteFloat, StringConstraints, model_validator

from schemas.base import Body, ChoiceIndex, Id, Record, Sha256, Slug, VersionNumber
from schemas.event import Event
from schemas.sealed import Sealed

Text = Annotated[str, StringConstraints(min_length=1, max_length=20_000)]
MAX_CANDIDATES = 8


class FeedbackSource(StrEnum):
    """Who speaks. Only keys with the right may claim `rater` or `ai`; a browser's handle speaks as `user`."""

    USER = "user"
    RATER = "rater"
    AI = "ai"
    IMPLICIT = "implicit"


PEOPLE = frozenset({FeedbackSource.USER, FeedbackSource.RATER})
"""Sources that are people, who may be wrong and whose agreement means something."""


# --- signals: what was said -------------------------------------------------------------------------------------


class Thumbs(Record):
    """A thumb up or down on one answer."""

    kind: Literal["thumbs"] = "thumbs"
    value: Literal["up", "down"]


class Rating(Record):
    """Stars on one answer."""

    kind: Literal["rating"] = "rating"
    stars: int = Field(ge=1, le=5)


class Comparison(Record):
    """A judgement over the candidates of a comparison. `winner` is an index into the order they were shown in."""

    kind: Literal["comparison"] = "comparison"
    verdict: Literal["winner", "tie", "both_bad"] = "winner"
    winner: int | None = Field(default=None, ge=0, lt=MAX_CANDIDATES)

    @model_validator(mode="after")
    def _winner_if_won(self) -> Comparison:
        if (self.verdict == "winner") != (self.winner is not None):
            raise ValueError("winner is required for the verdict 'winner', and only for it")
        return self


class Ranking(Record):
    """Candidates from best to worst; those in one group tie."""

    kind: Literal["ranking"] = "ranking"
    order: tuple[tuple[int, ...], ...] = Field(min_length=1, max_length=MAX_CANDIDATES)

    @model_validator(mode="after")
    def _each_once(self) -> Ranking:
        flat = [index for group in self.order for index in group]
        if sorted(flat) != list(range(len(flat))) or not all(self.order):
            raise ValueError("order names each candidate 0..k-1 exactly once, in groups that are not empty")
        return self


class Correction(Record):
    """The person wrote what the answer should have been; the text is sealed."""

    kind: Literal["correction"] = "correction"


class Comment(Record):
    """Free text alone, sealed."""

    kind: Literal["comment"] = "comment"


class Outcome(Record):
    """What came of it, measured by the app: resolved, escalated, code accepted..."""

    kind: Literal["outcome"] = "outcome"
    name: Slug
    value: bool | FiniteFloat


class Retraction(Record):
    """The person takes an earlier word back; the event's `supersedes` names it."""

    kind: Literal["retraction"] = "retraction"


Signal = Annotated[
    Thumbs | Rating | Comparison | Ranking | Correction | Comment | Outcome | Retraction, Field(discriminator="kind")
]


# --- targets: what it was said of -------------------------------------------------------------------------------


class CandidateRef(Record):
    """One answer: a choice of a completion."""

    completion_id: Id
    choice: ChoiceIndex
    version: VersionNumber


class AnswerTarget(CandidateRef):
    """Feedback on one answer."""

    kind: Literal["answer"] = "answer"


class ComparisonTarget(Record):
    """Feedback on candidates shown side by side, in the order they were shown."""

    kind: Literal["comparison"] = "comparison"
    comparison_id: Id
    candidates: tuple[CandidateRef, ...] = Field(min_length=2, max_length=MAX_CANDIDATES)


Target = Annotated[AnswerTarget | ComparisonTarget, Field(discriminator="kind")]


class FeedbackContent(Record):
    """The sealed part of feedback."""

    comment: str | None = None
    correction: str | None = None
    tags: dict[str, str] = Field(default_factory=dict, description="the client's own, as in TensorZero's body")


class Labeller(Record):
    """A model that judged in the place of people, and the principles that it judged by."""

    model: Id = Field(description="as its endpoint calls it")
    constitution: Sha256 = Field(description="digest of the policy's constitution that it was given")


class FeedbackReceived(Event):
    """A person, a rater, a model or an app said something of an answer."""

    TYPE: ClassVar[str] = "attune.feedback.received"
    TOPIC: ClassVar[str] = "attune.feedback"

    conversation: Id
    end_user: Id | None = Field(description="pseudonym, from the handle; never from the body")
    api_key_id: Id | None = Field(description="None where the handle alone was the proof, as from a browser")
    target: Target
    signal: Signal
    aspects: dict[Slug, FiniteFloat] = Field(
        default_factory=dict, description="operator-defined names, values in [-1, 1]"
    )
    reasons: tuple[Slug, ...] = ()
    source: FeedbackSource = FeedbackSource.USER
    labeller: Labeller | None = Field(default=None, description="of the source ai, where it said who it is")
    idempotency_key: str | None = Field(
        default=None, max_length=128, description="a keyed hash of what the client chose, which may be personal"
    )
    supersedes: Id | None = Field(default=None, description="feedback id that this replaces or retracts")
    content: Sealed | None = Field(default=None, description="a FeedbackContent in JSON")

    def key(self) -> str:
        return self.conversation

    def speaker(self) -> str:
        """Whose voice this is: the end user, or the conversation where no user was named."""
        return self.end_user or self.conversation


# --- HTTP bodies ------------------------------------------------------------------------------------------------

Unit = Annotated[float, Field(ge=-1, le=1)]


class LabellerBody(Labeller, Body):
    """A Labeller whose unknown fields are refused."""


class _FeedbackBody(Body):
    # Bodies name the signal first and this class last: pydantic takes the configuration of the last base, and an
    # unknown field must be refused here.
    handle: Annotated[str, StringConstraints(min_length=1, max_length=8_192)] = Field(
        description="the signed handle that came with the answer or comparison"
    )
    aspects: dict[Slug, Unit] = Field(default_factory=dict, max_length=16)
    reasons: tuple[Slug, ...] = Field(default=(), max_length=16)
    source: FeedbackSource = FeedbackSource.USER
    labeller: LabellerBody | None = Field(default=None, description="which model judges by what; with source ai alone")
    comment: Text | None = None
    idempotency_key: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None
    supersedes: Id | None = None

    @model_validator(mode="after")
    def _labeller_is_ai(self) -> Self:
        if self.labeller is not None and self.source is not FeedbackSource.AI:
            raise ValueError("labeller is for the source 'ai', and only for it")
        return self


class ThumbsBody(Thumbs, _FeedbackBody):
    kind: Literal["thumbs"]


class RatingBody(Rating, _FeedbackBody):
    kind: Literal["rating"]


class ComparisonBody(Comparison, _FeedbackBody):
    kind: Literal["comparison"]


class RankingBody(Ranking, _FeedbackBody):
    kind: Literal["ranking"]


class CorrectionBody(_FeedbackBody):
    kind: Literal["correction"]
    text: Text


class CommentBody(_FeedbackBody):
    kind: Literal["comment"]
    comment: Text


class OutcomeBody(Outcome, _FeedbackBody):
    kind: Literal["outcome"]


class RetractionBody(_FeedbackBody):
    kind: Literal["retraction"]
    supersedes: Id


FeedbackBody = Annotated[
    ThumbsBody
    | RatingBody
    | ComparisonBody
    | RankingBody
    | CorrectionBody
    | CommentBody
    | OutcomeBody
    | RetractionBody,
    Field(discriminator="kind"),
]

_SIGNALS: dict[str, type[Record]] = {
    "thumbs": Thumbs,
    "rating": Rating,
    "comparison": Comparison,
    "ranking": Ranking,
    "correction": Correction,
    "comment": Comment,
    "outcome": Outcome,
    "retraction": Retraction,
}


def signal_of(body: _FeedbackBody) -> Signal:
    """The signal inside an HTTP body, without the parts that are sealed or about transport."""
    values = body.model_dump()
    model = _SIGNALS[values["kind"]]
    signal: Signal = model.model_validate({name: values[name] for name in model.model_fields})  # type: ignore[assignment]
    return signal


def content_of(body: _FeedbackBody) -> FeedbackContent | None:
    """The personal part of an HTTP body, or None where there is none."""
    correction = body.text if isinstance(body, CorrectionBody) else None
    if body.comment is None and correction is None:
        return None
    return FeedbackContent(comment=body.comment, correction=correction)
