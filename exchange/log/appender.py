"""Appending from many threads and event loops to one blocking log: nothing that was taken is lost, and nobody waits
for a log that is away.

    submit -> line (memory, bounded) -> sender -> log
                                     -> keeper -> spool (disk) -> sender -> log

A record is safe on the log or in the spool, and its future says which. The keeper's rule for the second way stands in
`exchange.log.keeper`. What would do harm or no good hours later is never spooled (a journal entry, an erasure, a report
of what a replica serves): it is for the log alone, and fails with it. Knows the parts; the threads do the work.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from exchange.log.checks import check_records, record_bytes
from exchange.log.dead_letters import DeadLetters
from exchange.log.keeper import Keeper
from exchange.log.line import Line, NotKept, Stored, Waiting
from exchange.log.port import EventLog
from exchange.log.sender import Batching, Sender, given_up
from exchange.log.spool import Spool
from exchange.log.tally import NoTally, Tally
from schemas.topics import DEAD_LETTER, ERASURES, POLICY, RATERS, REPLICAS
from schemas.wire import LogRecord

NEVER_SPOOLED = frozenset({POLICY.name, REPLICAS.name, ERASURES.name, RATERS.name, DEAD_LETTER.name})
_LAST_CALL_S = 5.0


@dataclass(frozen=True)
class LogState:
    """How the way to the log stands. Times are ms since the epoch."""

    away_since: int | None
    """Since when the log has taken nothing; None while it takes."""
    delivered_at: int | None
    """When it last took something; None before the first."""
    queue_bytes: int
    spool_bytes: int
    spool_oldest_at: int | None
    """When the oldest record in the spool was written; None where there is none."""
    has_room: bool
    """Whether more would be kept if the log stays away."""


class Appender:
    """Sends records to a log in the order of `submit`. Thread-safe. Does not close the log or the spool.

    Args:
        spool: where records go that the log does not take; without one their futures fail with the log's error.
        dead_letters: a file for what the log refuses for good and its dead-letter topic too; None keeps no such file.
        max_queue_bytes: records not yet safe, in all; `submit` refuses what would exceed it.
        max_batch_records, max_batch_bytes: the most that one `EventLog.append` gets (always at least one record).
        spool_after_s: seconds that the log may take for an answer before records go to the spool.
        retry_s: seconds until a log that is away is tried again.
    """

    def __init__(
        self,
        log: EventLog,
        *,
        spool: Spool | None = None,
        dead_letters: Path | None = None,
        tally: Tally | None = None,
        max_queue_bytes: int = 64 * 2**20,
        max_batch_records: int = 1000,
        max_batch_bytes: int = 4 * 2**20,
        spool_after_s: float = 1.0,
        retry_s: float = 1.0,
    ) -> None:
        self._spool = spool
        self._tally = tally = tally or NoTally()
        self._line = Line(max_queue_bytes)
        letters = DeadLetters(log, dead_letters)
        self._sender = Sender(
            self._line, log, spool, letters, tally, Batching(max_batch_records, max_batch_bytes, retry_s)
        )
        self._sender.start()
        self._keeper: Keeper | None = None
        if spool is not None:
            self._keeper = Keeper(self._line, spool, tally, after_s=spool_after_s, max_bytes=max_batch_bytes)
            self._keeper.start()

    @property
    def pending_bytes(self) -> int:
        """Bytes accepted and not yet safe (or failed)."""
        return self._line.pending_bytes

    @property
    def alive(self) -> bool:
        """Whether the threads run; without them nothing reaches the log."""
        return self._sender.alive and (self._keeper is None or self._keeper.alive)

    def state(self) -> LogState:
        """How the way to the log stands now. Never waits for the log."""
        line, spool = self._line, self._spool
        return LogState(
            away_since=line.away_since,
            delivered_at=line.delivered_at,
            queue_bytes=line.pending_bytes,
            spool_bytes=spool.size_bytes if spool is not None else 0,
            spool_oldest_at=spool.oldest_at if spool is not None else None,
            has_room=spool is not None and spool.has_room(),
        )

    def submit(self, record: LogRecord) -> Future[Stored]:
        """Queue a record; the future says where it is safe, once it is.

        The future cannot be cancelled: a caller that leaves does not take its record with it. It raises NotKept where
        neither log nor spool take the record, Unavailable where it is for the log alone and the log is away, and
        InvalidInput where the log refuses it for good.

        Raises:
            NotKept: the queue is full, or the appender is closed.
            InvalidInput: no log will ever take the record.
        """
        check_records([record])
        waiting = Waiting(record, record_bytes(record), self._can_wait(record))
        try:
            self._line.put(waiting)
        except NotKept as error:
            self._tally.dropped(record.topic, error.reason)
            raise
        return waiting.future

    def _can_wait(self, record: LogRecord) -> bool:
        return self._spool is not None and record.topic not in NEVER_SPOOLED

    async def append(self, record: LogRecord) -> Stored:
        """Append from an event loop, without blocking it; returns when the record is safe. Raises as `submit`."""
        return await asyncio.wrap_future(self.submit(record))

    def flush(self, timeout_s: float) -> bool:
        """Wait until the log has what was submitted so far, or is known to be away; whether it has. Blocks."""
        line, spool = self._line, self._spool
        with line.settled:
            awaited = list(line.newest.values())  # what comes from now on must not keep anybody waiting

            def answered() -> bool:
                return all(future.done() for future in awaited)

            def on_log() -> bool:
                return answered() and (spool is None or spool.empty)

            line.settled.wait_for(lambda: on_log() or (answered() and line.away_since is not None), timeout_s)
            return on_log()

    def close(self, timeout_s: float = 10.0) -> bool:
        """Take no more, bring what is queued to the log or else to the spool, and stop.

        False where records were still pending after `timeout_s`: those that wait are failed with NotKept, and the batch
        being written ends as it ends.
        """
        line = self._line
        with line.lock:
            line.closed = True
            line.for_sender.notify_all()
            line.for_keeper.notify_all()
            if line.settled.wait_for(lambda: not line.pending, timeout_s):
                return True
            line.last_call = True
            left = list(line.direct)
            line.direct.clear()
            line.for_keeper.notify_all()
        self._line.refuse(given_up(left))
        with line.lock:
            wait_s = _LAST_CALL_S if self._spool is not None else 0.0
            return line.settled.wait_for(lambda: not line.pending, wait_s)
