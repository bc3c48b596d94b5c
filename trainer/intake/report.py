"""Tells the metrics what was read and how far reading is behind."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from schemas.base import now_ms
from trainer.intake.ingest import Ingest, Totals
from trainer.intake.lag import LagMeter
from trainer.metrics import TrainerMetrics

EVERY_S = 5.0
"""Between two looks at the end of the log, which asks the broker for each partition."""


@dataclass
class IntakeReport:
    """Called after each batch, in the thread that reads."""

    ingest: Ingest
    metrics: TrainerMetrics
    clock: Callable[[], float] = time.monotonic
    _meter: LagMeter = field(default_factory=lambda: LagMeter(now_ms))
    _told: Totals = field(default_factory=Totals)
    _looked: float | None = None

    def __call__(self, reachable: bool) -> None:
        """Count what is new; from time to time, ask how far the log has gone.

        Raises:
            Unavailable: the log cannot be reached.
        """
        self.metrics.log_reachable.set(reachable)
        if not reachable:
            return
        totals, told = self.ingest.totals, self._told
        for topic in totals.records.keys() | totals.lost.keys():
            records = totals.records[topic] - told.records[topic]
            dead = totals.dead_letters[topic] - told.dead_letters[topic]
            self.metrics.read(topic, records, dead, totals.lost[topic] - told.lost[topic])
        self._told = Totals(totals.records.copy(), totals.dead_letters.copy(), totals.lost.copy())
        now = self.clock()
        if self._looked is None or now - self._looked >= EVERY_S:
            self._looked = now
            self.metrics.lag(self._meter.look(self.ingest.unread(), totals.newest_ms))
