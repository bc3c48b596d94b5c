"""Whose words count: a rater is quarantined, or released, by a trainer's test or by an operator.

A rater is whoever speaks: a person, or the conversation that stands for them; known here by pseudonym alone. What
these events come to is `standing` - one fold, so that every trainer and every operator sees the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from schemas.base import Id, Millis, Record
from schemas.event import Event

Why = Annotated[str, StringConstraints(min_length=1, max_length=500)]
RaterKey = tuple[str, str]
"""Tenant, and pseudonym (or conversation)."""


class RaterEvidence(Record):
    """What a test found: figures alone, never what was said."""

    test: Literal["agreement", "constant", "burst"] = Field(
        description="of one rater's words, of one who always says the same, or of all who came in one burst"
    )
    words: int = Field(ge=1, description="words that could be held against what others say, or against gold items")
    agreed: int = Field(ge=0, description="of them, those that agree")
    people: float = Field(ge=0, le=1, description="share of people's words that agree with what others say")
    expected: float = Field(ge=0, le=1, description="share that the words should surely not fall below")
    gold: int = Field(default=0, ge=0, description="of `words`, those on gold items")
    gold_right: int = Field(default=0, ge=0, description="of `agreed`, those on gold items")
    p_value: float = Field(ge=0, le=1, description="chance of so few or fewer where the share is as expected")
    until: Millis = Field(description="event time of the newest word that was looked at")


class RaterJudged(Event):
    """A rater was quarantined (their words are not learnt from, as of the next snapshot) or released."""

    TYPE: ClassVar[str] = "attune.rater.judged"
    TOPIC: ClassVar[str] = "attune.raters"

    rater: Id = Field(description="pseudonym of the person, or the conversation that stands for them")
    verdict: Literal["quarantined", "released"]
    why: Why = Field(description="in words; names nobody and quotes nothing")
    actor: Id = Field(description="the trainer, or the API key of the operator")
    evidence: RaterEvidence | None = Field(default=None, description="of a test; None where an operator decided")

    def key(self) -> str:
        return self.rater

    @property
    def of(self) -> RaterKey:
        """Whom it is about."""
        return self.tenant, self.rater


class Standing(Record):
    """What the events about one rater come to."""

    tenant: Id
    rater: Id
    quarantined: bool
    decisive: RaterJudged = Field(description="the event that made it so")
    released_at: Millis | None = Field(
        default=None, description="when an operator last released them: words up to then are no evidence any more"
    )


def standings(events: Iterable[RaterJudged]) -> Mapping[RaterKey, Standing]:
    """Where every rater stands that anything was said of, whatever order the events come in.

    The last word counts, but for one case: what a test found in words up to a release changes nothing any more.
    """
    found: dict[RaterKey, Standing] = {}
    for event in sorted(events, key=lambda event: (event.at, event.id)):
        before = found.get(event.of)
        released = before.released_at if before is not None else None
        if event.evidence is not None and released is not None and event.evidence.until <= released:
            continue
        if event.verdict == "released":
            released = event.at
        found[event.of] = Standing(
            tenant=event.tenant,
            rater=event.rater,
            quarantined=event.verdict == "quarantined",
            decisive=event,
            released_at=released,
        )
    return found
