"""Follows the policy journal: a thread that reads it, and the event loop that is told when something changed.

Knows when the journal moved and whether the log can be reached; knows nothing of what an entry means.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable

from exchange.journal import PolicyJournal
from schemas.errors import Unavailable

log = logging.getLogger(__name__)

READ_S = 0.1
"""How long one read waits for news; the log answers as soon as there are any."""
YIELD_S = 0.002
"""Pause between two reads, in which another thread of this process gets its turn at the journal."""
RETRY_S = 1.0
"""Pause before the log is tried again after it could not be reached."""


class JournalFollower:
    """Keeps `journal` fresh, and calls `on_change` on the event loop after every read that brought something new.

    `on_read` is called in the thread of the follower after every read that succeeded.
    """

    def __init__(
        self, journal: PolicyJournal, on_change: Callable[[], None], on_read: Callable[[], None] = lambda: None
    ) -> None:
        self._journal = journal
        self._on_change = on_change
        self._on_read = on_read
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._reachable = True

    @property
    def reachable(self) -> bool:
        """Whether the last read of the log succeeded."""
        return self._reachable

    @property
    def alive(self) -> bool:
        """Whether the thread runs; without it this replica would serve an old state for ever."""
        return self._thread is not None and self._thread.is_alive()

    async def start(self) -> None:
        """Read all that the journal holds, then follow it. With the log away it is followed once the log is there."""
        try:
            await asyncio.to_thread(self._read, 0.0)
        except Unavailable as error:
            log.warning("the policy journal cannot be read yet; what it said last is served: %s", error)
            self._reachable = False
        loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._follow, args=(loop,), name="attune-journal", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Stop following; returns when the thread has ended."""
        self._stop.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def _read(self, timeout_s: float) -> bool:
        changed = self._journal.refresh(timeout_s)
        self._on_read()
        return changed

    def _follow(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._stop.is_set():
            try:
                changed = self._read(READ_S)
            except Unavailable as error:
                if self._reachable:
                    log.warning("the policy journal cannot be read; this replica serves on as it is: %s", error)
                self._reachable = False
                self._stop.wait(RETRY_S)
                continue
            if not self._reachable:
                log.info("the policy journal can be read again")
                self._reachable = True
            if changed and not self._stop.is_set():
                loop.call_soon_threadsafe(self._on_change)
            self._stop.wait(YIELD_S)
