"""Keeps the ledger up with the log in a thread of its own, so that a turn that trains for hours loses no consumer.

Partitions are assigned by hand and offsets come from the ledger, so no broker can take them away from a reader that is
slow. Knows ingest and threads; knows nothing of what is read.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from exchange.closeable import Closeable
from schemas.errors import Unavailable
from trainer.intake.ingest import Ingest

log = logging.getLogger(__name__)
_WAIT_S = 0.5
_TELL_S = 10.0


class Feeder(Closeable):
    """Pumps until closed. A log that is away is tried again; every other error ends it and shows in `check`."""

    def __init__(self, ingest: Ingest, retry_s: float = 1.0, report: Callable[[bool], None] | None = None) -> None:
        """`report` is told after each look whether the log could be reached, in the thread that looked."""
        self._ingest = ingest
        self._report = report or (lambda _reachable: None)
        self._retry_s = retry_s
        self._quit = threading.Event()
        self._thread = threading.Thread(target=self._run, name="attune-ingest", daemon=True)
        self._error: Exception | None = None
        self._tell_at = 0.0
        self.read = 0
        """Records read so far."""

    def catch_up(self) -> int:
        """Read, in the caller's thread, all that is on the log now; before `start` only. Returns how many records."""
        left = self._ingest.lag()
        before = self.read
        while left > 0:
            count = self._ingest.pump(timeout_s=_WAIT_S)
            self.read += count
            self._report(True)
            # Offsets may have gaps: where nothing comes, what is left is asked of the log again, which costs a while.
            left = left - count if count else min(left, self._ingest.lag())
        return self.read - before

    def start(self) -> None:
        """Go on reading in the background."""
        self._thread.start()

    def check(self) -> None:
        """Raises what ended the thread, if anything did."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Stop reading."""
        self._quit.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _tell(self) -> None:
        if time.monotonic() < self._tell_at:
            return
        self._tell_at = time.monotonic() + _TELL_S
        try:
            self._ingest.tell()
        except Unavailable as error:
            log.debug("lag tools are not told where the ledger stands: %s", error)

    def _run(self) -> None:
        away = False
        while not self._quit.is_set():
            try:
                self.read += self._ingest.pump(timeout_s=_WAIT_S)
                self._report(True)
                self._tell()
                if away:
                    log.info("the event log is back")
                away = False
            except Unavailable as error:
                if not away:
                    log.warning("the event log is away, trying again: %s", error)
                away = True
                self._report(False)
                self._quit.wait(self._retry_s)
            except Exception as error:  # a full disk below the ledger too: nobody may take silence for no news
                log.error("reading the log has stopped: %s", error)
                self._error = error
                return
