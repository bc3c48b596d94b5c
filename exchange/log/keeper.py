"""The thread that brings waiting records to the spool when the log does not take them.

The rule: a record goes to the spool when the log is away, when the log has not answered for `after_s`, or when the
record itself has waited that long (behind a replay, say). Everything that waits goes with it, in order, in one write
with one fsync. What a full spool refuses is given up only if the log is away: one that is merely slow may still take
it. Knows the line and the spool's end; never speaks to the log.
"""

from __future__ import annotations

import threading
import time

from exchange.log.line import Line, NotKept, Stored, Waiting
from exchange.log.spool import Spool
from exchange.log.tally import Tally
from schemas.errors import AttuneError


class Keeper:
    """Keeps, from `start` on. Ends when the line is closed and everything in it was answered."""

    def __init__(self, line: Line, spool: Spool, tally: Tally, *, after_s: float, max_bytes: int) -> None:
        self._line = line
        self._spool = spool
        self._tally = tally
        self._after_s = after_s
        self._max_bytes = max_bytes
        self._not_before = 0.0
        self._thread = threading.Thread(target=self._run, name="attune-keeper", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def _run(self) -> None:
        while batch := self._next():
            self._keep(batch)

    def _next(self) -> list[Waiting]:
        """What must go to the spool now, waiting for it; empty when there will be nothing more."""
        line = self._line
        with line.lock:
            while True:
                waiting = [*(one for one in line.sending if not one.offered), *line.queue]
                pause = self._pause(waiting)
                if waiting and pause <= 0:
                    break
                if line.closed and not waiting and not line.sending:
                    return []
                line.for_keeper.wait(pause if waiting else None)
            batch: list[Waiting] = []
            size = 0
            for one in waiting:
                size += one.size
                if batch and size > self._max_bytes:
                    break
                one.offered = True
                batch.append(one)
            for _ in range(len(set(batch).difference(line.sending))):
                line.queue.popleft()
            line.spooling = True
            return batch

    def _pause(self, waiting: list[Waiting]) -> float:
        """Seconds until the first of them is due; 0 or less: now."""
        line = self._line
        if not waiting or line.away_since is not None or line.last_call:
            return 0.0
        began = [waiting[0].since, *([line.trying_since] if line.trying_since is not None else [])]
        return max(min(began) + self._after_s, self._not_before) - time.monotonic()

    def _keep(self, batch: list[Waiting]) -> None:
        line = self._line
        refusals = self._spool.append([waiting.record for waiting in batch])
        kept: list[Waiting] = []
        back: list[Waiting] = []
        failed: list[tuple[Waiting, AttuneError]] = []
        with line.lock:
            sending = set(line.sending)
            for waiting, refusal in zip(batch, refusals, strict=True):
                if refusal is None:
                    waiting.spooled = True
                    kept.append(waiting)
                elif waiting in sending:
                    pass  # it may still come to the log; if not, it is in the queue again
                elif line.away_since is None and not line.last_call:
                    waiting.offered = False
                    back.append(waiting)
                else:
                    self._tally.dropped(waiting.record.topic, refusal.reason)
                    failed.append((waiting, NotKept(refusal.reason, refusal.message, remedy=refusal.remedy)))
            line.queue.extendleft(reversed(back))
            self._not_before = time.monotonic() + self._after_s if back else 0.0
            line.spooling = False
            line.for_sender.notify_all()
        line.keep([(waiting, Stored("spool")) for waiting in kept])
        line.refuse(failed)
