"""Appending from many threads and event loops to one blocking log: one sender thread, group commit, bounded memory.

While one batch is being written the next one gathers, so the batch size follows the load. Knows records and
positions; nothing is retried and nothing is spooled: what cannot be written now is an error to whoever sent it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass

from exchange.log.checks import check_records, record_bytes
from exchange.log.port import EventLog, Position
from schemas.errors import AttuneError, InvalidInput, Unavailable
from schemas.wire import LogRecord

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Waiting:
    record: LogRecord
    size: int
    future: Future[Position]


class Appender:
    """Sends records to a log in the order of `submit`. Thread-safe. Does not close the log.

    Args:
        max_queue_bytes: records not yet durable, in all; `submit` refuses what would exceed it.
        max_batch_records, max_batch_bytes: the most that one `EventLog.append` gets (always at least one record).
    """

    def __init__(
        self,
        log: EventLog,
        *,
        max_queue_bytes: int = 64 * 2**20,
        max_batch_records: int = 1000,
        max_batch_bytes: int = 4 * 2**20,
    ) -> None:
        self._log = log
        self._max_queue_bytes = max_queue_bytes
        self._max_batch_records = max_batch_records
        self._max_batch_bytes = max_batch_bytes
        self._queue: deque[_Waiting] = deque()
        self._sending: list[_Waiting] = []
        self._pending_bytes = 0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="attune-appender", daemon=True)
        self._thread.start()

    @property
    def pending_bytes(self) -> int:
        """Bytes accepted and not yet durable (or failed)."""
        return self._pending_bytes

    def submit(self, record: LogRecord) -> Future[Position]:
        """Queue a record; the future holds its position once it is durable.

        The future cannot be cancelled: a caller that leaves does not take its record with it.
        It raises Unavailable or InvalidInput as `EventLog.append` does.

        Raises:
            Unavailable: the queue is full, or the appender is closed.
            InvalidInput: the log will never take the record.
        """
        check_records([record])
        waiting = _Waiting(record, record_bytes(record), Future())
        waiting.future.set_running_or_notify_cancel()
        with self._changed:
            if self._closed:
                raise Unavailable("the event log takes no more records: this process is stopping")
            if self._pending_bytes + waiting.size > self._max_queue_bytes:
                raise Unavailable("the queue to the event log is full", remedy="Try again in a moment.")
            self._pending_bytes += waiting.size
            self._queue.append(waiting)
            self._changed.notify_all()
        return waiting.future

    async def append(self, record: LogRecord) -> Position:
        """Append from an event loop, without blocking it; returns when the record is durable. Raises as `submit`."""
        return await asyncio.wrap_future(self.submit(record))

    def flush(self, timeout_s: float) -> bool:
        """Wait until nothing is pending; False where that took longer than `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._queue and not self._sending, timeout_s)

    def close(self, timeout_s: float = 10.0) -> bool:
        """Take no more, send what is queued, and stop. False where records were still pending after `timeout_s`:
        those that wait are failed with Unavailable, and the batch being written ends as it ends.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            return True
        with self._changed:
            left = list(self._queue)
            self._queue.clear()
            self._changed.notify_all()
        self._fail(left, Unavailable("the event log did not take the record before this process stopped"))
        return False

    def _run(self) -> None:
        try:
            while batch := self._take():
                self._send(batch)
                with self._changed:
                    self._sending = []
                    self._changed.notify_all()
        finally:
            # Only a fault of the log itself, outside its contract, leaves anything here: nobody may wait for ever.
            with self._changed:
                self._closed = True
                left = [*self._sending, *self._queue]
                self._queue.clear()
                self._sending = []
                self._changed.notify_all()
            self._fail([one for one in left if not one.future.done()], Unavailable("the event log's sender has ended"))

    def _take(self) -> list[_Waiting]:
        """The next batch, waiting for one; empty when closed and all is sent."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            batch: list[_Waiting] = []
            size = 0
            while self._queue and len(batch) < self._max_batch_records:
                size += self._queue[0].size
                if batch and size > self._max_batch_bytes:
                    break
                batch.append(self._queue.popleft())
            self._sending = batch
            return batch

    def _send(self, batch: list[_Waiting]) -> None:
        try:
            positions = self._log.append([waiting.record for waiting in batch])
        except InvalidInput as error:
            if len(batch) == 1:
                self._fail(batch, error)
                return
            # One bad record must not take its neighbours down. Those already written are written again: readers
            # count an event id once.
            for waiting in batch:
                self._send([waiting])
        except AttuneError as error:
            log.warning("%d records were not appended: %s", len(batch), error)
            self._fail(batch, error)
        else:
            for waiting, position in zip(batch, positions, strict=True):
                self._forget(waiting)
                waiting.future.set_result(position)

    def _fail(self, batch: list[_Waiting], error: AttuneError) -> None:
        for waiting in batch:
            self._forget(waiting)
            # An exception object of its own for each: raised in several threads, one would gather all tracebacks.
            kind = InvalidInput if isinstance(error, InvalidInput) else Unavailable
            own = kind(error.message, field=error.field, remedy=error.remedy)
            own.__cause__ = error
            waiting.future.set_exception(own)

    def _forget(self, waiting: _Waiting) -> None:
        with self._changed:
            self._pending_bytes -= waiting.size
