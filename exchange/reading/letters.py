"""Dead letters: what lies on their topic, and putting one back where it came from, once.

A letter is the original record with two headers more, `attune_origin` (TOPIC/PARTITION@OFFSET where a reader found it,
or `TOPIC by way of ...` where it never got onto the log) and `attune_reason`. A replayed record carries
`attune_replayed` with the letter's origin: that is how a second replay knows of the first. Works on every log; opens no
sealed content.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from exchange.log.port import EventLog, Position, StoredRecord, TopicPartition
from schemas.errors import InvalidInput, NotFound, Unavailable
from schemas.topics import COMPLETIONS, CONSENTS, DEAD_LETTER, ERASURES, FEEDBACK, RATERS, TOPICS
from schemas.wire import CLAIM_HEADER, ORIGIN_HEADER, REASON_HEADER, LogRecord, decode_event, header

REPLAYED = "attune_replayed"
_OWN = frozenset({ORIGIN_HEADER, REASON_HEADER, REPLAYED})
_PLACE = re.compile(r"(?P<topic>[A-Za-z0-9._-]+)(?:/(?P<partition>[0-9]+)@(?P<offset>[0-9]+))?(?: .*)?")
_REPLAYABLE = frozenset({COMPLETIONS.name, FEEDBACK.name, CONSENTS.name, ERASURES.name, RATERS.name})
_PATIENCE_S = 10.0


@dataclass(frozen=True)
class Letter:
    """A dead letter. `number` names it: its offset on the dead-letter topic."""

    number: int
    record: StoredRecord
    origin: str
    reason: str

    @property
    def topic(self) -> str | None:
        """The topic that the original belongs to; None where the letter does not say."""
        found = _PLACE.fullmatch(self.origin)
        return found["topic"] if found is not None and found["topic"] in TOPICS else None

    @property
    def identity(self) -> str:
        """What tells this letter's original from others: its place, or, where it had none, the letter's own."""
        found = _PLACE.fullmatch(self.origin)
        return self.origin if found is not None and found["offset"] else f"{DEAD_LETTER.name}/0@{self.number}"

    @property
    def headers(self) -> tuple[tuple[str, bytes], ...]:
        """The original's headers."""
        return tuple((name, value) for name, value in self.record.headers if name not in _OWN)


def letters(log: EventLog) -> Iterator[Letter]:
    """Every dead letter, oldest first. Raises Unavailable where the log cannot be read to its end."""
    for record in _all(log, DEAD_LETTER.name):
        origin = _last(record.headers, ORIGIN_HEADER)
        yield Letter(
            record.position.offset, record, origin or "unknown", _last(record.headers, REASON_HEADER) or "unknown"
        )


def letter(log: EventLog, number: int) -> Letter:
    """The letter of that number. Raises NotFound, Unavailable."""
    for found in letters(log):
        if found.number == number:
            return found
    raise NotFound(f"there is no dead letter {number}", remedy="`attune dead-letter list` shows those there are.")


def why_not(one: Letter) -> str | None:
    """Why this code cannot put a letter back; None where it can."""
    topic = one.topic
    if topic is None:
        return f"its origin {one.origin!r} names no topic"
    if topic not in _REPLAYABLE:
        return f"what comes late to {topic} means something else there: it is not replayed"
    if header(one.headers, CLAIM_HEADER) is not None:
        return "it is a claim on content that could not be found; mend the store beside the registry first"
    try:
        event = decode_event(one.record.value, one.headers)
    except InvalidInput as error:
        return error.message
    if topic != event.TOPIC:
        return f"{event.wire_type()} does not belong in {topic}"
    if header(one.headers, "ce_subject") != event.policy:
        return "ce_subject is not the policy in the body"
    return None


def replayed(log: EventLog, chosen: Sequence[Letter]) -> set[str]:
    """The identities of those letters that were put back already. Raises Unavailable."""
    topics = {one.topic for one in chosen if one.topic in _REPLAYABLE}
    found = {_last(record.headers, REPLAYED) for topic in topics if topic for record in _all(log, topic)}
    return {one.identity for one in chosen if one.identity in found}


def replay(log: EventLog, one: Letter) -> Position:
    """Put a letter's original back onto its topic. The caller has asked `why_not` and `replayed`.

    Raises:
        InvalidInput: it cannot be replayed, or the log refuses it.
        Unavailable: the log cannot be reached.
    """
    topic, why = one.topic, why_not(one)
    if topic is None or why is not None:
        raise InvalidInput(f"dead letter {one.number} cannot be replayed: {why}")
    note = (REPLAYED, one.identity.encode())
    (place,) = log.append([LogRecord(topic, one.record.key, one.record.value, (*one.headers, note))])
    return place


def _all(log: EventLog, topic: str) -> Iterator[StoredRecord]:
    """All records of a topic up to where it ended when asked, partition by partition."""
    for number in log.partitions(topic):
        place = TopicPartition(topic, number)
        end, start = log.end_offset(place), log.start_offset(place)
        with closing(log.reader({place: start})) as reader:
            while start < end:
                batch = reader.poll(timeout_s=_PATIENCE_S)
                yield from (record for record in batch if record.position.offset < end)
                if not batch and reader.positions()[place] == start:
                    raise Unavailable(f"{place} could not be read to its end in time")
                start = reader.positions()[place]


def _last(headers: tuple[tuple[str, bytes], ...], name: str) -> str | None:
    """The last header of that name: the letter's own, whatever the original brought along."""
    return header(tuple(reversed(headers)), name)
