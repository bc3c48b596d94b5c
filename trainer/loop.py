"""The trainer's life: hold the lease, look after the canary, make turns, for ever or once.

A canary is decided before the next candidate is trained, so that every candidate starts from what serves. Knows the
order of looks; what is looked at is elsewhere.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field

from schemas.errors import Unavailable
from trainer.intake.feeder import Feeder
from trainer.metrics import TrainerMetrics
from trainer.progress import Reporter, Stopped
from trainer.release.canary import CanaryWatch
from trainer.release.lease import LeaseLost, TrainerLease
from trainer.turn import TurnOutcome, Turns

log = logging.getLogger(__name__)

DONE, NOTHING_TO_DO = 0, 3
_LOOK_SHARE = 0.2
"""Of the time, at most, goes to looking whether there is something to do."""


@dataclass
class Loop:
    """One trainer at work on one policy."""

    lease: TrainerLease
    watch: CanaryWatch
    turns: Turns
    feeder: Feeder
    reporter: Reporter
    metrics: TrainerMetrics
    stop: threading.Event
    poll_s: float
    _said: str = field(default="", init=False)

    def once(self) -> int:
        """Decide the canary if votes allow it, then make one turn. Returns 0, or 3 where there was nothing to do."""
        self.feeder.catch_up()
        if not self._acquire():
            return DONE
        try:
            settled = self.watch.settle()
            if settled.message:
                self.reporter.say(settled.message)
            if not settled.free:
                return DONE if settled.changed else NOTHING_TO_DO
            outcome = self.turns.run()
            if outcome.kind == "dropped":  # by what happened since it began, in an earlier run: this run's is to come
                self.reporter.say(outcome.message)
                outcome = self.turns.run()
            self.reporter.say(outcome.message)
            worked = outcome.kind not in ("idle", "starved") or settled.changed
            return DONE if worked else NOTHING_TO_DO
        except Stopped:
            return DONE
        finally:
            self._release()

    def forever(self) -> int:
        """Work until `stop` is set; a lost lease is waited for. Returns 0."""
        self.feeder.catch_up()
        self.feeder.start()
        while self._acquire():
            try:
                self._hold()
            except LeaseLost as lost:
                self.reporter.say(f"the lease is lost, nothing more is published: {lost}")
            except Stopped:
                log.info("stopped in the middle of a turn; it goes on from its last checkpoint")
            finally:
                self._release()
        return DONE

    def _acquire(self) -> bool:
        while True:
            try:
                held = self.lease.wait(self.stop, poll_s=self.poll_s, say=self.reporter.say)
            except Unavailable as away:
                log.warning("the policy journal is away, trying again: %s", away)
                if self.stop.wait(self.poll_s):
                    return False
                continue
            if held:
                self.lease.start()
                self.metrics.lease.set(1)
            return held

    def _release(self) -> None:
        self.lease.close()
        self.metrics.lease.set(0)

    def _hold(self) -> None:
        while not self.stop.is_set():
            self.feeder.check()
            if self.lease.lost:
                raise LeaseLost("another trainer holds it")
            started = time.monotonic()
            acted = False
            try:
                acted = self._look()
            except Unavailable as away:
                log.warning("log or registry is away, trying again: %s", away)
            if not acted:
                # A large ledger takes long to look through: look less often, and leave the machine to others.
                self.stop.wait(max(self.poll_s, (time.monotonic() - started) / _LOOK_SHARE))

    def _look(self) -> bool:
        """Settle the canary, or make a turn; whether anything was done."""
        settled = self.watch.settle()
        if not settled.free:
            self._say_once(settled.message)
            self.turns.count()
            return settled.changed
        if settled.message:
            self.reporter.say(settled.message)
        outcome: TurnOutcome = self.turns.run()
        if outcome.kind == "idle":
            self._say_once(outcome.message)
            return settled.changed
        self.reporter.say(outcome.message)
        return True

    def _say_once(self, message: str) -> None:
        """Say what would otherwise be said at every look only when it changes."""
        if message and message != self._said:
            self.reporter.say(message)
        self._said = message
