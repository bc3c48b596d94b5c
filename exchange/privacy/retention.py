"""How long what is recorded is kept, by retention class, and the thread that drops what is older.

A completion names its class; feedback and displays, which name none, are of the class `standard`. A class that the
settings do not name is kept. Consent changes, erasures and the journal are never dropped. Knows time and the embedded
log; Kafka drops by its own topic settings, and only what its large records left beside the registry is dropped here.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Annotated, Self

from pydantic import Field

from exchange.closeable import Closeable
from exchange.log.claims import ClaimingLog
from exchange.log.port import EventLog
from exchange.log.sqlite import SqliteLog
from schemas.base import Slug, now_ms
from schemas.errors import AttuneError
from schemas.events import AnswerDisplayed
from schemas.feedback import FeedbackReceived
from schemas.topics import COMPLETIONS, FEEDBACK
from schemas.wire import RETENTION_HEADER

log = logging.getLogger(__name__)

STANDARD = "standard"
CLAIMED = "claimed"
"""What large records leave beside the registry, kept as long as their topics keep records."""
RetentionDays = dict[Slug, Annotated[float, Field(gt=0)]]
_DAY_MS = 24 * 3600 * 1000
_EVERY_S = 3600.0


def cutoffs(days: Mapping[str, float], now: int) -> dict[str, int]:
    """By class, the moment (ms since the epoch) before which what came about is dropped."""
    return {name: now - round(kept * _DAY_MS) for name, kept in days.items()}


def expire_log(event_log: EventLog, before: Mapping[str, int]) -> dict[str, int]:
    """Drop what is older than `before` from an embedded log; returns how many records by class. Others: nothing.

    Raises:
        Unavailable: the log cannot be written.
    """
    if isinstance(event_log, ClaimingLog):
        return {CLAIMED: event_log.sweep(now_ms())}
    if not isinstance(event_log, SqliteLog):
        return {}
    dropped = {name: event_log.drop(COMPLETIONS.name, at, RETENTION_HEADER, name) for name, at in before.items()}
    if STANDARD in before:
        for event in (FeedbackReceived, AnswerDisplayed):
            dropped[STANDARD] += event_log.drop(FEEDBACK.name, before[STANDARD], "ce_type", event.wire_type())
    return dropped


class Sweeper(Closeable):
    """Calls `sweep` with the cutoffs of now in a thread of its own, at once and then every hour, until closed.

    Args:
        sweep: drops what is older; returns how many by class. What it raises on purpose is tried again the next time.
        count: told of each class and number.
    """

    def __init__(
        self,
        days: Mapping[str, float],
        sweep: Callable[[Mapping[str, int]], Mapping[str, int]],
        count: Callable[[str, int], None],
    ) -> None:
        self._days = days
        self._sweep = sweep
        self._count = count
        self._quit = threading.Event()
        self._thread = threading.Thread(target=self._run, name="attune-retention", daemon=True)

    def once(self) -> None:
        """Sweep now, in the caller's thread."""
        try:
            dropped = self._sweep(cutoffs(self._days, now_ms()))
        except AttuneError as error:
            log.warning("what is too old could not be dropped, trying again in an hour: %s", error)
            return
        for name, number in dropped.items():
            if number:
                log.info("dropped %d records of the retention class %s", number, name)
                self._count(name, number)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def close(self) -> None:
        """Sweep no more."""
        self._quit.set()
        self._thread.join()

    def _run(self) -> None:
        self.once()
        while not self._quit.wait(_EVERY_S):
            self.once()
