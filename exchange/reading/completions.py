"""The newest completions on the log, by id and by time: an index in memory, bounded in number, and in bytes what is
kept of their content.

Brought up to date by whoever asks, so nothing is read where nobody does. Of every completion it keeps what feedback
needs to speak of it; of those that their clients asked to store, the event itself, content still sealed. What is older
than the index reaches is not found. Knows events; opens no seal.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass

from pydantic import Field, ValidationError

from exchange.log.port import EventLog, LogReader, StoredRecord
from exchange.reading.newest import Ends, Newest
from schemas.base import Id, Millis, PolicyName, Record, VersionNumber
from schemas.completion import CompletionRecorded
from schemas.errors import NotFound, Unavailable
from schemas.topics import COMPLETIONS
from schemas.wire import header

_BATCH = 500
_WAIT_S = 0.2
_TYPE = CompletionRecorded.wire_type()


class ChoiceFacts(Record):
    """Which of its choices; their logprobs would take more memory than all the rest."""

    index: int = Field(ge=0)


class CompletionFacts(Record):
    """Whose completion it is and what answered: enough to speak of it, nothing of its content."""

    completion_id: Id
    at: Millis
    tenant: Id
    policy: PolicyName
    version: VersionNumber
    api_key_id: Id
    end_user: Id | None
    conversation: Id
    choices: tuple[ChoiceFacts, ...]
    started_at: Millis
    store: bool = False


@dataclass(frozen=True)
class StoredCompletion:
    """A completion whose client asked to store it, as it lies on the log."""

    tenant: str
    policy: str
    started_at: int
    """ms since the epoch."""
    completion_id: str
    value: bytes

    def event(self) -> CompletionRecorded | None:
        """The event, content still sealed; None where it does not keep its contract."""
        try:
            return CompletionRecorded.model_validate_json(self.value)
        except ValidationError:
            return None


class CompletionIndex:
    """Finds completions. Thread-safe; blocks, so never call it from an event loop. Does not close the log.

    Args:
        limit: completions kept, and the newest records that are read for them at the first call.
        stored_bytes: of the events of stored ones, all together; the oldest go first.
        timeout_s: seconds that one call may read.
    """

    def __init__(
        self, log: EventLog, *, limit: int = 20_000, stored_bytes: int = 64_000_000, timeout_s: float = 10.0
    ) -> None:
        self._limit = limit
        self._stored_bytes = stored_bytes
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._newest = Newest(log, COMPLETIONS.name, limit)
        self._facts: OrderedDict[str, CompletionFacts] = OrderedDict()
        self._latest: dict[tuple[str, str], str] = {}  # (tenant, conversation) -> completion id
        self._stored: deque[StoredCompletion] = deque()
        self._bytes = 0

    def find(self, completion_id: str) -> CompletionFacts:
        """The completion of this id.

        Raises:
            NotFound: there is none among the newest.
            Unavailable: the log cannot be reached, or not be read in time.
        """
        with self._lock:
            self._newest.catch_up(self._read)
            found = self._facts.get(completion_id)
        if found is None:
            raise NotFound("there is no such completion among the newest")
        return found

    def latest_of(self, tenant: str, conversation: str) -> CompletionFacts:
        """The newest completion of a conversation. Raises as `find`."""
        with self._lock:
            self._newest.catch_up(self._read)
            found = self._facts.get(self._latest.get((tenant, conversation), ""))
        if found is None:
            raise NotFound("there is no completion of such a conversation among the newest")
        return found

    def stored(self, tenant: str) -> list[StoredCompletion]:
        """A tenant's stored completions that the index holds, oldest first. Raises Unavailable."""
        with self._lock:
            self._newest.catch_up(self._read)
            mine = [one for one in self._stored if one.tenant == tenant]
        return sorted(mine, key=lambda one: (one.started_at, one.completion_id))

    def close(self) -> None:
        """Stop reading. The log stays open."""
        with self._lock:
            self._newest.close()

    def _read(self, reader: LogReader, ends: Ends) -> None:
        deadline = time.monotonic() + self._timeout_s
        while any(reader.positions()[place] < end for place, end in ends.items()):
            for record in reader.poll(max_records=_BATCH, timeout_s=_WAIT_S):
                self._note(record)
            if time.monotonic() > deadline:
                raise Unavailable("the completions on the log could not be read in time", remedy="Try again.")

    def _note(self, record: StoredRecord) -> None:
        if header(record.headers, "ce_type") != _TYPE:
            return
        try:
            facts = CompletionFacts.model_validate_json(record.value)
        except ValidationError:
            return  # the trainer's dead letters tell of it
        if facts.completion_id in self._facts:
            return  # one that came twice counts where it came first
        self._facts[facts.completion_id] = facts
        self._latest[(facts.tenant, facts.conversation)] = facts.completion_id
        if len(self._facts) > self._limit:
            name, old = self._facts.popitem(last=False)
            if self._latest.get((old.tenant, old.conversation)) == name:
                del self._latest[(old.tenant, old.conversation)]
        if facts.store:
            self._stored.append(
                StoredCompletion(facts.tenant, facts.policy, facts.started_at, facts.completion_id, record.value)
            )
            self._bytes += len(record.value)
            while self._bytes > self._stored_bytes or len(self._stored) > self._limit:
                self._bytes -= len(self._stored.popleft().value)
