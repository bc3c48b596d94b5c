"""From the log into the ledger: a policy's completions, feedback, consents, erasures and raters, from where it stands.

Records of other policies are skipped by their header, unread; but a person's consent and erasure hold whatever policy
they were recorded under. What cannot be read goes to the dead letters with its original bytes, place and reason, and
reading goes on. What the log has deleted before it was read, and a log that is not the one it was, are never passed
over in silence: reading stops with the remedy, or goes on by order and keeps count.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from exchange.log.dead_letters import dead_letter
from exchange.log.port import EventLog, LogReader, LogReplaced, RecordsLost, StoredRecord, TopicPartition
from schemas.errors import IntegrityError, InvalidInput
from schemas.event import Event
from schemas.events import ConsentChanged, ErasureApplied, ErasureRequested
from schemas.topics import COMPLETIONS, CONSENTS, ERASURES, FEEDBACK, RATERS
from schemas.wire import decode_event, header
from trainer.intake.batch import Batch, BeforeCommit, DeadLetter, Gap
from trainer.intake.ledger import Ledger
from trainer.intake.rows import STORED

log = logging.getLogger(__name__)
Answer = Literal["stop", "continue"]
_TOPICS = (COMPLETIONS.name, FEEDBACK.name, CONSENTS.name, ERASURES.name, RATERS.name)
_OF_ALL_POLICIES = frozenset({ConsentChanged.wire_type(), ErasureRequested.wire_type()})


@dataclass
class Totals:
    """What one `Ingest` has stored since it was opened, by topic."""

    records: Counter[str] = field(default_factory=Counter)
    dead_letters: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    newest_ms: dict[str, int] = field(default_factory=dict)
    """When the newest record that was read came to the log, ms since the epoch."""


class Ingest:
    """Reads a log into a ledger. Not safe for use by two threads at once."""

    def __init__(
        self,
        log: EventLog,
        ledger: Ledger,
        policy: str,
        before_commit: BeforeCommit | None = None,
        *,
        on_records_lost: Answer = "stop",
        on_log_replaced: Answer = "stop",
    ) -> None:
        """Open readers where the ledger stands.

        Args:
            before_commit: told of every batch before it is stored; where it raises, the batch is read again.
            on_records_lost: what to do where the log deleted records before they were read.
            on_log_replaced: what to do where this is not the log that the ledger was read from.

        Raises:
            IntegrityError: it is another log than the ledger's, and that is to stop it.
            Unavailable: the log cannot be reached.
        """
        self._log = log
        self._ledger = ledger
        self._policy = policy
        self._before_commit = before_commit
        self.totals = Totals()
        self._losses, self._replaced = on_records_lost, on_log_replaced
        self._places = [TopicPartition(topic, number) for topic in _TOPICS for number in log.partitions(topic)]
        self._reader: LogReader | None = self._open()

    def pump(self, max_records: int = 1000, timeout_s: float = 0.0) -> int:
        """Read and store one batch; waits up to `timeout_s` for its first record. Returns how many records were read.

        Raises:
            Unavailable: the log cannot be reached. Nothing was stored, and the next call reads the same again.
            IntegrityError: records are lost, or it is another log now, and that is to stop it.
        """
        reader, self._reader = self._reader or self._open(), None
        try:
            records = reader.poll(max_records=max_records, timeout_s=timeout_s)
            if records:
                dead = self._store(records)
                self._count(records, dead)
        except RecordsLost as loss:
            self._pass_over(loss)
            return 0
        except LogReplaced as error:
            self._begin_anew(error)
            return 0
        else:
            # Only now: a reader that stands behind a batch that the ledger does not have is not used again.
            self._reader = reader
            return len(records)
        finally:
            if self._reader is None:
                reader.close()

    def lag(self) -> int:
        """How many offsets the log is ahead of what was read.

        Raises:
            Unavailable: the log cannot be reached.
        """
        return sum(self.unread().values())

    def unread(self) -> dict[str, int]:
        """The same by topic. Raises as `lag`."""
        self._reader = self._reader or self._open()
        read, found = self._reader.positions(), dict.fromkeys(_TOPICS, 0)
        for place in self._places:
            found[place.topic] += max(0, self._log.end_offset(place) - read[place])
        return found

    def tell(self) -> None:
        """Tell tools that show a log's lag where the ledger stands. Raises Unavailable, which does no harm."""
        self._log.note_offsets(f"attune-trainer-{self._policy}", self._ledger.offsets())

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()

    def _open(self) -> LogReader:
        found, known = {topic: self._log.identity(topic) for topic in _TOPICS}, self._ledger.identities()
        for place, offset in self._ledger.offsets().items():
            if known.get(place.topic, found[place.topic]) != found[place.topic]:
                self._begin_anew(LogReplaced(place, wanted=offset, why="it was made anew"))
            elif offset > (end := self._log.end_offset(place)):
                self._begin_anew(LogReplaced(place, wanted=offset, why=f"it ends at {end}"))
        self._ledger.identify(found)
        offsets = self._ledger.offsets()
        return self._log.reader({place: offsets.get(place, 0) for place in self._places})

    def _pass_over(self, loss: RecordsLost) -> None:
        """Take note of what is lost, and of where reading goes on after it. Raises IntegrityError where it may not."""
        gap = Gap(loss.partition, loss.wanted, loss.oldest)
        what = f"{gap.records} records of {gap.partition} (offsets {gap.first} to {gap.next - 1})"
        if self._losses == "stop":
            raise IntegrityError(
                f"{what} were deleted from the log before the trainer read them",
                field="on_records_lost",
                remedy='Set on_records_lost = "continue" to go on without them, and give the topic a longer retention.',
            ) from loss
        log.error("%s were deleted before they were read; reading goes on without them", what)
        self._ledger.write(Batch((), (), {gap.partition: gap.next}, (gap,)), None)
        self.totals.lost[gap.partition.topic] += gap.records

    def _begin_anew(self, error: LogReplaced) -> None:
        """Forget how far a topic was read that is another one now. Raises IntegrityError where that is not to be."""
        place = error.partition
        if self._replaced == "stop":
            raise IntegrityError(
                f"the ledger has read {place} up to {error.wanted}, but this is another log: {error.message}",
                field="on_log_replaced",
                remedy="Point `log` to the one it was, or restore that. Where it is gone for good, set "
                'on_log_replaced = "continue": the ledger keeps what it holds and the new one is read from its start.',
            ) from error
        log.error("%s; the ledger keeps what it holds, and reading begins at the start", error.message)
        self._ledger.forget(place.topic)

    def _count(self, records: list[StoredRecord], dead: list[StoredRecord]) -> None:
        for record in records:
            topic = record.position.topic
            self.totals.records[topic] += 1
            self.totals.newest_ms[topic] = max(record.timestamp_ms, self.totals.newest_ms.get(topic, 0))
        self.totals.dead_letters.update(record.position.topic for record in dead)

    def _store(self, records: list[StoredRecord]) -> list[StoredRecord]:
        """Store a batch, all or nothing. Returns those that could not be read."""
        events: list[Event] = []
        dead: list[tuple[StoredRecord, str]] = []
        offsets: dict[TopicPartition, int] = {}
        for record in records:
            offsets[TopicPartition(record.position.topic, record.position.partition)] = record.position.offset + 1
            if self._is_foreign(record):
                continue
            try:
                events.append(self._decode(record))
            except InvalidInput as error:
                dead.append((record, str(error)))
        if dead:
            # Before the ledger's commit: a crash in between buries one twice, which its origin header shows.
            self._log.append([dead_letter(record, reason, str(record.position)) for record, reason in dead])
            log.warning("%d records could not be read; the first: %s", len(dead), dead[0][1])
        letters = [DeadLetter(record.position, reason) for record, reason in dead]
        self._ledger.write(Batch(events=events, dead_letters=letters, offsets=offsets), self._before_commit)
        return [record for record, _ in dead]

    def _is_foreign(self, record: StoredRecord) -> bool:
        subject, kind = header(record.headers, "ce_subject"), header(record.headers, "ce_type")
        if kind == ErasureApplied.wire_type():
            return True  # what trainers and servers say themselves
        return subject not in (None, self._policy) and kind not in _OF_ALL_POLICIES

    def _decode(self, record: StoredRecord) -> Event:
        event = decode_event(record.value, record.headers)
        homes = (event.TOPIC, FEEDBACK.name) if isinstance(event, ConsentChanged) else (event.TOPIC,)  # as written once
        if not isinstance(event, STORED) or record.position.topic not in homes:
            raise InvalidInput(f"{event.wire_type()} does not belong in {record.position.topic}", field="ce_type")
        if header(record.headers, "ce_subject") != event.policy:
            raise InvalidInput("ce_subject is not the policy in the body", field="ce_subject")
        return event
