"""The policy journal as its readers and writers use it: the fold of `schemas.lifecycle` over one topic of the log.

There is no compare-and-append: a proposal is appended, then read back with all that came before it, and the fold says
what became of it. Knows no policy's meaning; never spools and never retries (a promotion replayed later would be an
incident).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from exchange.log.port import EventLog, LogReader, Position, StoredRecord, TopicPartition
from schemas.errors import ConfigError, InvalidInput, Refused, Unavailable
from schemas.event import Event
from schemas.journal import ENTRY, Entry, JournalEntry
from schemas.lifecycle import Outcome, PolicyFold, PolicyState, initial_state
from schemas.topics import POLICY
from schemas.wire import decode_event, encode_event

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JournalLine:
    """One entry, where it lies, and what became of it."""

    position: Position
    entry: Entry
    outcome: Outcome


class PolicyJournal:
    """The state of every policy, as of the last `refresh` or `propose`. Thread-safe.

    Args:
        log: stays the caller's to close.
        read_timeout_s: how long reading up to the end of the log may take before it counts as unreachable.
        source: names this process in what it writes, e.g. `attune/trainer`.
        presumed: states that hold until the journal has been read to its end for the first time, by policy.
    """

    def __init__(
        self,
        log: EventLog,
        *,
        read_timeout_s: float = 10.0,
        source: str = "attune",
        presumed: Mapping[str, PolicyState] | None = None,
    ) -> None:
        self._log = log
        self._read_timeout_s = read_timeout_s
        self._source = source
        self._presumed = presumed
        self._place = TopicPartition(POLICY.name, 0)
        self._reader: LogReader | None = None  # opened by the first read, since the log may be away by now
        self._reading = threading.Lock()
        self._folding = threading.Lock()
        self._folds: dict[str, PolicyFold] = {}
        self._lines: dict[str, list[JournalLine]] = {}
        self._unreadable = 0

    @property
    def unreadable(self) -> int:
        """Records that were skipped because they are no journal entry that this code knows."""
        return self._unreadable

    @property
    def presuming(self) -> bool:
        """Whether `state` tells what was presumed, since the journal was not read to its end yet."""
        return self._presumed is not None

    def refresh(self, timeout_s: float = 0.0) -> bool:
        """Read all that is on the log now, waiting up to `timeout_s` where there is nothing new.

        Returns whether anything new was read. `state` and `history` of other threads never wait for it.

        Raises:
            Unavailable: the log cannot be reached, or its end was not reached in time.
            ConfigError: the topic has more than one partition.
        """
        with self._reading:
            return self._read(timeout_s)

    def state(self, policy: str) -> PolicyState:
        """A policy as last read; one without entries serves its base."""
        with self._folding:
            if self._presumed is not None:
                return self._presumed.get(policy) or initial_state(policy)
            fold = self._folds.get(policy)
            return fold.state if fold is not None else initial_state(policy)

    def history(self, policy: str) -> list[JournalLine]:
        """The entries of a policy with their outcomes, oldest first; what was delivered twice shows once."""
        with self._folding:
            return list(self._lines.get(policy, ()))

    def policies(self) -> tuple[str, ...]:
        """The policies that have entries, sorted."""
        with self._folding:
            return tuple(sorted(self._folds))

    def propose(self, entry: Entry) -> PolicyState:
        """Append an entry and read back what became of it; returns the policy's state, read up to there or later.

        Raises:
            Refused: the entry changed nothing; the message says why.
            Unavailable: the log cannot be reached. Whether the entry is on it is not known: read before trying again,
                or propose the same entry (the same id) again.
        """
        self._log.append([encode_event(entry, source=self._source)])
        deadline = time.monotonic() + self._read_timeout_s
        while (outcome := self._outcome(entry)) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise Unavailable(f"the journal entry {entry.id} was appended but could not be read back in time")
            with self._reading:
                # Another thread may have read it while this one waited for its turn: then nothing more will come.
                if self._outcome(entry) is None:
                    self._read(min(left, 1.0))
        if not outcome.applied:
            raise Refused(outcome.reason)
        return self.state(entry.policy)

    def _outcome(self, entry: Entry) -> Outcome | None:
        with self._folding:
            fold = self._folds.get(entry.policy)
            return fold.outcomes.get(entry.id) if fold is not None else None

    def close(self) -> None:
        """Stop reading. The log stays open."""
        with self._reading:
            if self._reader is not None:
                self._reader.close()

    def _read(self, timeout_s: float) -> bool:
        reader = self._reader = self._reader or self._open()
        records = reader.poll(timeout_s=timeout_s)
        self._fold(records)
        new = bool(records)
        end = self._log.end_offset(self._place)
        deadline = time.monotonic() + self._read_timeout_s
        while reader.positions()[self._place] < end:
            if time.monotonic() > deadline:
                raise Unavailable(f"the policy journal could not be read up to offset {end} in time")
            records = reader.poll(timeout_s=0.1)
            self._fold(records)
            new = new or bool(records)
        with self._folding:
            new, self._presumed = new or self._presumed is not None, None
        return new

    def _open(self) -> LogReader:
        partitions = self._log.partitions(POLICY.name)
        if partitions != (self._place.partition,):
            raise ConfigError(
                f"the topic {POLICY.name} has {len(partitions)} partitions; a journal has one order, so one partition",
                remedy="Delete the topic and let Attune make it.",
            )
        return self._log.reader({self._place: 0})

    def _fold(self, records: list[StoredRecord]) -> None:
        for record in records:
            entry = self._decode(record)
            if entry is None:
                continue
            with self._folding:
                outcome = self._folds.setdefault(entry.policy, PolicyFold(entry.policy)).take(entry)
                if outcome is not None:
                    self._lines.setdefault(entry.policy, []).append(JournalLine(record.position, entry, outcome))

    def _decode(self, record: StoredRecord) -> Entry | None:
        """The entry, or None where there is none: one foreign record must not stop every replica for good."""
        try:
            event: Event = decode_event(record.value, record.headers)
        except InvalidInput as error:
            self._skip(record, str(error))
            return None
        if not isinstance(event, JournalEntry):
            self._skip(record, f"a {event.wire_type()} is no journal entry")
            return None
        return ENTRY.validate_python(event)

    def _skip(self, record: StoredRecord, why: str) -> None:
        self._unreadable += 1
        log.warning(
            "skipped record %d of %s (%d so far): %s", record.position.offset, self._place, self._unreadable, why
        )
