"""The line of records that wait in memory for the log or the spool: bounded in bytes, shared by the threads that work
on it. Knows who waits and since when; sends nothing and writes nothing.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from exchange.log.port import Position
from schemas.base import now_ms
from schemas.errors import AttuneError, Unavailable
from schemas.wire import LogRecord

Durable = Literal["log", "spool"]


@dataclass(frozen=True)
class Stored:
    """Where a record is safe: on the log, with its position there, or in the spool, on its way to it."""

    durable: Durable
    position: Position | None = None


class NotKept(Unavailable):
    """A record was not kept. `reason` is one word: `queue_full`, `spool_full`, `disk`, `log_away` or `stopping`."""

    def __init__(self, reason: str, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.reason = reason


@dataclass(eq=False)
class Waiting:
    """A record in the line. `offered`: the spool was asked to take it; `spooled`: it did."""

    record: LogRecord
    size: int
    spoolable: bool
    since: float = field(default_factory=time.monotonic)
    future: Future[Stored] = field(default_factory=Future)
    offered: bool = False
    spooled: bool = False


class Line:
    """What waits. Every field is read and written under `lock`; the three conditions share it.

    `queue` holds what may be spooled, `direct` what is for the log alone; `sending` is the part of `queue` that the log
    is being given right now.
    """

    def __init__(self, max_bytes: int) -> None:
        self.lock = threading.Lock()
        self.for_sender = threading.Condition(self.lock)
        self.for_keeper = threading.Condition(self.lock)
        self.settled = threading.Condition(self.lock)
        self.queue: deque[Waiting] = deque()
        self.direct: deque[Waiting] = deque()
        self.sending: list[Waiting] = []
        self.spooling = False
        """Records taken from the queue are being written to the spool: nothing behind them may pass."""
        self.away_since: int | None = None
        """Since when the log has taken nothing (ms since the epoch); None while it takes."""
        self.trying_since: float | None = None
        """When the log was given what it has not answered yet (monotonic seconds)."""
        self.delivered_at: int | None = None
        """When the log last took something, ms since the epoch."""
        self.closed = False
        self.last_call = False
        """There is no more time for the log: what is left goes to the spool, or is given up."""
        self.pending_bytes = 0
        self.pending = 0
        self.newest: dict[bool, Future[Stored]] = {}
        """Of the last record that came, by whether it may be spooled: each kind is answered in the order it came."""
        self._max_bytes = max_bytes

    def put(self, waiting: Waiting) -> None:
        """Add a record at the end.

        Raises:
            NotKept: the line is full, or closed.
        """
        waiting.future.set_running_or_notify_cancel()
        with self.lock:
            if self.closed:
                raise NotKept("stopping", "the event log takes no more records: this process is stopping")
            if self.pending_bytes + waiting.size > self._max_bytes:
                raise NotKept("queue_full", "the queue to the event log is full", remedy="Try again in a moment.")
            self.pending_bytes += waiting.size
            self.pending += 1
            self.newest[waiting.spoolable] = waiting.future
            line = self.queue if waiting.spoolable else self.direct
            line.append(waiting)
            self.for_sender.notify()
            if waiting.spoolable and (len(line) == 1 or self.away_since is not None):
                self.for_keeper.notify()

    def answered(self, error: AttuneError | None) -> None:
        """The log took what it was given, or could not be reached. Call under `lock`."""
        self.trying_since = None
        if error is None:
            self.away_since, self.delivered_at = None, now_ms()
        elif self.away_since is None:
            self.away_since = now_ms()
            self.for_keeper.notify()
            self.settled.notify_all()

    def keep(self, done: Sequence[tuple[Waiting, Stored]]) -> None:
        """Tell who waits that their records are safe. Call without `lock`."""
        with self._leaving([waiting for waiting, _ in done]):
            for waiting, stored in done:
                waiting.future.set_result(stored)

    def refuse(self, failed: Sequence[tuple[Waiting, AttuneError]]) -> None:
        """Tell who waits that their records are not kept. Call without `lock`."""
        with self._leaving([waiting for waiting, _ in failed]):
            for waiting, error in failed:
                waiting.future.set_exception(error.again())

    @contextmanager
    def _leaving(self, answered: Sequence[Waiting]) -> Iterator[None]:
        """Make room before they are told, and count them as settled once they know."""
        with self.lock:
            self.pending_bytes -= sum(waiting.size for waiting in answered)
        yield
        with self.lock:
            self.pending -= len(answered)
            self.settled.notify_all()
