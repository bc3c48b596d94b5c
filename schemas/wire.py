"""Events as records of a log: CloudEvents 1.0 in binary mode, headers `ce_*`, JSON body.

The subject is the policy, so that a reader skips foreign records without parsing them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import ValidationError

from schemas.completion import CompletionRecorded
from schemas.errors import InvalidInput, UnknownEvent
from schemas.event import Event
from schemas.events import EVENTS
from schemas.journal import ENTRY, JournalEntry

JOURNAL_TYPE = JournalEntry.wire_type()
RETENTION_HEADER = "ce_retention"
"""Header with a completion's retention class, so that a log can drop old records unread."""

CLAIM_HEADER = "attune_claim"
"""Header of a record whose value lies elsewhere: `sha256:DIGEST:BYTES` (see `exchange.log.claims`)."""

ORIGIN_HEADER, REASON_HEADER = "attune_origin", "attune_reason"
"""Headers that a dead letter has beside those of the record it was: where it was found, and why it is one."""


@dataclass(frozen=True)
class LogRecord:
    """One record to append: bytes as they lie on the log."""

    topic: str
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


def encode_event(event: Event, *, source: str = "attune") -> LogRecord:
    """The record of an event. `source` names the process that writes it, e.g. `attune/server/REPLICA`."""
    time = datetime.fromtimestamp(event.at / 1000, tz=UTC).isoformat(timespec="milliseconds")
    headers = {
        "ce_specversion": "1.0",
        "ce_id": event.id,
        "ce_type": event.wire_type(),
        "ce_source": source,
        "ce_subject": event.policy,
        "ce_time": time,
        "content-type": "application/json",
    }
    if isinstance(event, CompletionRecorded):
        headers[RETENTION_HEADER] = event.retention
    return LogRecord(
        topic=event.TOPIC,
        key=event.key().encode(),
        value=event.model_dump_json().encode(),
        headers=tuple((name, value.encode()) for name, value in headers.items()),
    )


def header(headers: tuple[tuple[str, bytes], ...], name: str) -> str | None:
    """The first header of that name as text; None where it is missing or no text."""
    for key, value in headers:
        if key == name:
            return value.decode("utf-8", errors="replace")
    return None


def decode_event(value: bytes, headers: tuple[tuple[str, bytes], ...]) -> Event:
    """The event in a record.

    Raises:
        UnknownEvent: a type or major version that this code does not know.
        InvalidInput: no CloudEvents type, a body that does not keep the contract, or one that lies elsewhere and was
            not found there whole.
    """
    if header(headers, CLAIM_HEADER) is not None:
        raise InvalidInput("the body is too large for the log and is missing or altered where it lies", field="body")
    wire_type = header(headers, "ce_type")
    if wire_type is None:
        raise InvalidInput("the record has no ce_type header", field="ce_type")
    try:
        if wire_type == JOURNAL_TYPE:
            return ENTRY.validate_json(value)
        model = EVENTS.get(wire_type)
        if model is None:
            raise UnknownEvent(f"events of type {wire_type!r} are not known here", field="ce_type")
        return model.model_validate_json(value)
    except ValidationError as error:
        raise InvalidInput(f"the body is no valid {wire_type}: {validation_summary(error)}", field="body") from error


def validation_summary(error: ValidationError) -> str:
    """The first few faults as `path: message`, never the values themselves (they may be personal)."""
    faults = [f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in error.errors()[:5]]
    return "; ".join(faults)
