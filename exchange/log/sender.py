"""The one thread that gives records to the log: first what the spool holds, oldest first, then what waits in memory.

While one batch is being written the next one gathers, so the batch size follows the load. A log that is away is tried
again and again with the oldest batch; who waits meanwhile is the keeper's matter (`exchange.log.keeper`). Knows the
log, the spool's front and the dead letters.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from exchange.log.dead_letters import DeadLetters
from exchange.log.line import Line, NotKept, Stored, Waiting
from exchange.log.port import EventLog, Position, RecordsRefused
from exchange.log.spool import Spool
from exchange.log.tally import Tally
from schemas.errors import AttuneError, InvalidInput, Unavailable
from schemas.wire import LogRecord

log = logging.getLogger(__name__)

Outcome = Position | InvalidInput
"""What became of a record: where it lies on the log, or why the log refuses it for good (it is a dead letter then)."""


@dataclass(frozen=True)
class Batching:
    """The most that one `EventLog.append` gets, though always one record; seconds until a log is tried again."""

    max_records: int
    max_bytes: int
    retry_s: float


class Sender:
    """Sends, from `start` on. Ends when the line is closed and nothing waits there any more."""

    def __init__(
        self, line: Line, event_log: EventLog, spool: Spool | None, letters: DeadLetters, tally: Tally, size: Batching
    ) -> None:
        self._line = line
        self._log = event_log
        self._spool = spool
        self._letters = letters
        self._tally = tally
        self._size = size
        self._try_at = 0.0
        self._thread = threading.Thread(target=self._run, name="attune-sender", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def _run(self) -> None:
        try:
            while (work := self._next()) is not None:
                work()
        finally:
            # Only a fault of our own leaves anything here: nobody may wait for ever, and health sees a dead thread.
            with self._line.lock:
                self._line.closed = True
                left = list(self._line.direct)
                self._line.direct.clear()
                self._line.for_keeper.notify()
            self._line.refuse(given_up(left))

    def _next(self) -> Callable[[], None] | None:
        """What to do now, waiting for something; None when there will be nothing more."""
        line, spool = self._line, self._spool
        with line.lock:
            while True:
                if line.direct:
                    batch = self._take(line.direct)
                    return lambda: self._send_direct(batch)
                if line.closed and not line.queue and not line.spooling:
                    return None
                pause = self._try_at - time.monotonic()
                if pause <= 0 and not line.spooling and not line.last_call:
                    if spool is not None and not spool.empty:
                        line.trying_since = time.monotonic()
                        return self._replay
                    if line.queue:
                        line.sending = batch = self._take(line.queue)
                        return lambda: self._send(batch)
                line.for_sender.wait(pause if pause > 0 else None)

    def _take(self, waiting: deque[Waiting]) -> list[Waiting]:
        self._line.trying_since = time.monotonic()
        batch: list[Waiting] = []
        size = 0
        while waiting and len(batch) < self._size.max_records:
            size += waiting[0].size
            if batch and size > self._size.max_bytes:
                break
            batch.append(waiting.popleft())
        return batch

    def _send_direct(self, batch: list[Waiting]) -> None:
        """To the log or not at all."""
        outcomes, error = self._deliver([waiting.record for waiting in batch], "queue")
        with self._line.lock:
            self._note(error)
        self._answer(batch, outcomes)
        if error is not None:
            left = batch[len(outcomes) :]
            for waiting in left:
                self._tally.dropped(waiting.record.topic, "log_away")
            self._line.refuse([(waiting, error) for waiting in left])

    def _send(self, batch: list[Waiting]) -> None:
        """To the log; what it does not take goes back to the front of the line, for the keeper."""
        outcomes, error = self._deliver([waiting.record for waiting in batch], "queue")
        line = self._line
        with line.lock:
            line.for_sender.wait_for(lambda: not line.spooling)
            line.sending = []
            done, left = batch[: len(outcomes)], batch[len(outcomes) :]
            line.queue.extendleft(waiting for waiting in reversed(left) if not waiting.spooled)
            for waiting in left:
                waiting.offered = False
            self._note(error)
            line.for_keeper.notify()
        # The log was slow, and the keeper put copies of these into the empty spool meanwhile: they lie at its front.
        copies = sum(waiting.spooled for waiting in done)
        if copies and self._spool is not None:
            self._forget(self._spool, copies)
        self._answer(done, outcomes)

    def _replay(self) -> None:
        spool = self._spool
        assert spool is not None, "only a spool is replayed"  # noqa: S101
        try:
            records = spool.peek(self._size.max_records, self._size.max_bytes)
        except Unavailable as error:
            log.error("%s", error)
            self._tally.failed("spool")
            with self._line.lock:
                self._line.trying_since = None
                self._try_at = time.monotonic() + self._size.retry_s
            return
        outcomes, error_of_log = self._deliver(records, "spool")
        with self._line.lock:
            self._line.trying_since = None
            if records:  # else all that was left was damaged, and the log was not asked
                self._note(error_of_log)
        if outcomes:
            self._forget(spool, len(outcomes))
        with self._line.lock:
            self._line.settled.notify_all()

    def _forget(self, spool: Spool, number: int) -> None:
        try:
            spool.delivered(number)
        except Unavailable as error:
            log.error("%s", error)

    def _note(self, error: AttuneError | None) -> None:
        """Note the log's answer, and when it is tried again. Call under the line's lock."""
        if error is not None and self._line.away_since is None:
            log.warning("the event log is away: %s", error)
        elif error is None and self._line.away_since is not None:
            log.info("the event log is back")
        self._line.answered(error)
        self._try_at = 0.0 if error is None else time.monotonic() + self._size.retry_s

    def _answer(self, batch: Sequence[Waiting], outcomes: Sequence[Outcome]) -> None:
        """Tell who still waits; whoever was told that the spool has it knows enough."""
        told = [(waiting, outcome) for waiting, outcome in zip(batch, outcomes, strict=False) if not waiting.spooled]
        self._line.keep(
            [(waiting, Stored("log", outcome)) for waiting, outcome in told if isinstance(outcome, Position)]
        )
        self._line.refuse([(waiting, outcome) for waiting, outcome in told if isinstance(outcome, InvalidInput)])

    def _deliver(self, records: Sequence[LogRecord], origin: str) -> tuple[list[Outcome], AttuneError | None]:
        """What became of the records, up to the first that the log could not be given, and why not."""
        if not records:
            return [], None
        try:
            return list(self._log.append(records)), None
        except RecordsRefused as error:
            for record, outcome in zip(records, error.outcomes, strict=True):
                if isinstance(outcome, InvalidInput):
                    self._bury(record, outcome, origin)
            return list(error.outcomes), None
        except InvalidInput as error:
            if len(records) == 1:
                self._bury(records[0], error, origin)
                return [error], None
        except AttuneError as error:
            self._tally.failed("unavailable")
            return [], error if isinstance(error, Unavailable) else Unavailable(error.message, remedy=error.remedy)
        except Exception as error:  # a fault of the log outside its contract: nothing may be lost by it
            log.exception("the event log failed in a way it should not")
            self._tally.failed("fault")
            return [], Unavailable(f"the event log failed: {type(error).__name__}")
        # The log took none of them. One bad record must not take its neighbours down.
        outcomes: list[Outcome] = []
        for record in records:
            one, error_of_log = self._deliver([record], origin)
            outcomes += one
            if error_of_log is not None:
                return outcomes, error_of_log
        return outcomes, None

    def _bury(self, record: LogRecord, error: InvalidInput, origin: str) -> None:
        self._tally.failed("refused")
        self._tally.buried(self._letters.bury(record, error, origin))


def given_up(waiting: Sequence[Waiting]) -> list[tuple[Waiting, AttuneError]]:
    """The refusal of what nobody took before the process stopped."""
    error = NotKept("stopping", "the event log did not take the record before this process stopped")
    return [(one, error) for one in waiting]
