"""Where a word of feedback lies on the log, by its id: an index of the newest words, and a bounded search for older.

An id alone does not give the partition. So the ids of the newest records are kept in memory, brought up to date by
whoever asks: no thread of its own, and nothing is read where nobody asks. What is older is searched for from the start
of the log, one search at a time and only up to a deadline. Knows ids and places; keeps nothing of what a word says.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from exchange.log.port import EventLog, LogReader, LogReplaced, Position, RecordsLost, StoredRecord, TopicPartition
from exchange.reading.newest import Ends, Newest
from schemas.errors import InvalidInput, NotFound, Unavailable
from schemas.feedback import FeedbackReceived
from schemas.topics import FEEDBACK
from schemas.wire import decode_event, header

_BATCH = 1000
_WAIT_S = 0.2
_TYPE = FeedbackReceived.wire_type()


@dataclass(frozen=True)
class AcceptedWord:
    """A word of feedback as it lies on the log."""

    event: FeedbackReceived
    position: Position
    stored_at: int
    """When the log took it, ms since the epoch."""


class AcceptedWords:
    """Finds words on a log. Thread-safe; blocks, so never call it from an event loop. Does not close the log.

    Args:
        limit: ids kept, and the newest records that are read for them at the first call.
        timeout_s: seconds that one call may read.
    """

    def __init__(self, log: EventLog, *, limit: int = 100_000, timeout_s: float = 10.0) -> None:
        self._log = log
        self._limit = limit
        self._timeout_s = timeout_s
        self._following = threading.Lock()
        self._searching = threading.Lock()
        self._newest = Newest(log, FEEDBACK.name, limit)
        self._known: OrderedDict[str, tuple[int, int]] = OrderedDict()  # id -> (partition, offset)

    def find(self, feedback_id: str, *, search: bool) -> AcceptedWord:
        """The word of this id, the first of them where it came twice.

        Args:
            search: look through the whole log where the id is not among the newest.

        Raises:
            NotFound: there is none.
            Unavailable: the log cannot be reached, or not be read in time, or another search is under way.
        """
        with self._following:
            self._newest.catch_up(lambda reader, ends: self._through(reader, ends, self._note))
            place = self._known.get(feedback_id)
        if place is None and search:
            place = self._search(feedback_id)
        if place is None:
            raise NotFound("there is no such feedback")
        return self._read(feedback_id, place)

    def close(self) -> None:
        """Stop reading. The log stays open."""
        with self._following:
            self._newest.close()

    def _note(self, record: StoredRecord) -> bool:
        if (found := _id_of(record)) is not None:
            # A word that came twice counts where it came first.
            self._known.setdefault(found, (record.position.partition, record.position.offset))
            if len(self._known) > self._limit:
                self._known.popitem(last=False)
        return False

    def _search(self, feedback_id: str) -> tuple[int, int] | None:
        if not self._searching.acquire(blocking=False):
            raise Unavailable("the log is being searched for another word", remedy="Try again in a moment.")
        found: list[tuple[int, int]] = []

        def look(record: StoredRecord) -> bool:
            if _id_of(record) == feedback_id:
                found.append((record.position.partition, record.position.offset))
            return bool(found)

        try:
            reader = self._log.reader(dict.fromkeys(self._newest.places, 0))
            try:
                self._through(reader, self._newest.ends(), look)
            finally:
                reader.close()
        finally:
            self._searching.release()
        return found[0] if found else None

    def _through(self, reader: LogReader, ends: Ends, look: Callable[[StoredRecord], bool]) -> None:
        """Show `look` every record up to `ends`, until it says that it has seen enough."""
        deadline = time.monotonic() + self._timeout_s

        def done() -> bool:
            read = reader.positions()
            return all(read[place] >= end for place, end in ends.items())

        while not done():
            if any(look(record) for record in reader.poll(max_records=_BATCH, timeout_s=_WAIT_S)):
                return
            if time.monotonic() > deadline and not done():
                raise Unavailable(
                    f"the feedback on the log could not be read in {self._timeout_s:g} s",
                    remedy="Try again; `attune feedback trace -c trainer.toml` searches the log without a limit.",
                )

    def _read(self, feedback_id: str, place: tuple[int, int]) -> AcceptedWord:
        partition, offset = TopicPartition(FEEDBACK.name, place[0]), place[1]
        reader = self._log.reader({partition: offset})
        records: list[StoredRecord] = []

        def first(record: StoredRecord) -> bool:
            records.append(record)
            return True

        try:
            self._through(reader, {partition: offset + 1}, first)
        except (RecordsLost, LogReplaced) as error:
            raise NotFound("there is no such feedback any more") from error
        finally:
            reader.close()
        # What lies there now can be a younger record: offset 0 stands for the oldest that is left.
        for record in records[:1]:
            if _id_of(record) == feedback_id:
                try:
                    event = decode_event(record.value, record.headers)
                except InvalidInput:
                    break
                if isinstance(event, FeedbackReceived):
                    return AcceptedWord(event, record.position, record.timestamp_ms)
        raise NotFound("there is no such feedback")


def _id_of(record: StoredRecord) -> str | None:
    """The id of a word of feedback by its headers, unread; None for other events."""
    return header(record.headers, "ce_id") if header(record.headers, "ce_type") == _TYPE else None
