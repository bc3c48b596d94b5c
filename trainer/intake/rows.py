"""Events as rows of the ledger: which are taken, of what kind, whose they are, and what of them is kept as facts.

Pure. The sealed content lies in a column of its own, so that a row can lose it.
"""

from __future__ import annotations

from schemas.base import Record
from schemas.completion import CompletionRecorded
from schemas.errors import InvalidInput
from schemas.event import Event
from schemas.events import AnswerDisplayed, ConsentChanged, ErasureRequested
from schemas.feedback import FeedbackReceived
from schemas.imported import FeedbackImported
from schemas.raters import RaterJudged
from trainer.intake.facts import CompletionFacts, ImportedFacts

Row = tuple[str, str, str, int, str | None, str | None, str | None]
"""event_id, kind, subject, at, completion_id, facts, content."""
KINDS: dict[type[Event], str] = {
    CompletionRecorded: "completion",
    FeedbackReceived: "feedback",
    FeedbackImported: "imported",
    AnswerDisplayed: "displayed",
    ConsentChanged: "consent",
    ErasureRequested: "erasure",
    RaterJudged: "rater",
}
FACTS: dict[str, type[Record]] = {
    "completion": CompletionFacts,
    "feedback": FeedbackReceived,
    "imported": ImportedFacts,
    "displayed": AnswerDisplayed,
    "consent": ConsentChanged,
    "rater": RaterJudged,
}
STORED = tuple(KINDS)
"""The events a ledger takes."""


def subject_of(event: Event) -> str:
    """Whose an event is: the person, or the conversation that stands for them."""
    match event:
        case CompletionRecorded():
            return event.subject_of()
        case FeedbackReceived() | FeedbackImported():
            return event.speaker()
        case AnswerDisplayed():
            return event.end_user or event.conversation
        case ConsentChanged():
            return event.end_user
        case ErasureRequested():
            return event.subject
        case RaterJudged():
            return event.rater
        case _:
            raise InvalidInput(f"a ledger has no place for {event.wire_type()}", field="ce_type")


def row_of(event: Event) -> Row:
    """An event as a row."""
    content = event.content if isinstance(event, CompletionRecorded | FeedbackReceived | FeedbackImported) else None
    return (
        event.id,
        KINDS[type(event)],
        subject_of(event),
        event.at,
        event.completion_id if isinstance(event, CompletionRecorded) else None,
        event.model_dump_json(exclude={"content"}),
        None if content is None else content.model_dump_json(),
    )
