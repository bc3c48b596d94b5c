"""The right to make versions: one trainer at a time, fenced by the journal's epoch.

A renewal raises the epoch, so every entry that needs the lease is proposed inside `fenced()`, which renews first and
keeps the renewing thread out until it is done. Knows the journal; knows nothing of what is published under the lease.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from exchange.journal import PolicyJournal
from schemas.base import new_id, now_ms
from schemas.errors import Refused, Unavailable
from schemas.journal import LeaseAcquired, LeaseReleased

log = logging.getLogger(__name__)


class LeaseLost(Refused):
    """Another trainer holds the lease now: nothing may be published."""


class TrainerLease:
    """Holds the lease of one policy for one holder. Thread-safe.

    Args:
        ttl_s: seconds after which others may take the lease of a trainer that does not renew.
        clock: wall-clock ms since the epoch.
    """

    def __init__(
        self,
        journal: PolicyJournal,
        policy: str,
        holder: str,
        ttl_s: float,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        self._journal = journal
        self._policy = policy
        self.holder = holder
        self._ttl_ms = max(1, round(1000 * ttl_s))
        self._clock = clock
        self._lock = threading.RLock()
        self._lost = threading.Event()
        self._quit = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def lost(self) -> bool:
        """Whether another trainer was found to hold the lease after this one had it."""
        return self._lost.is_set()

    def renew(self) -> int:
        """Acquire or renew the lease; returns its epoch.

        Raises:
            LeaseLost: another holder has it.
            Unavailable: the journal cannot be reached.
        """
        with self._lock:
            entry = LeaseAcquired(
                id=new_id("je"),
                at=self._clock(),
                policy=self._policy,
                actor=self.holder,
                holder=self.holder,
                ttl_ms=self._ttl_ms,
                reason="trainer at work",
            )
            try:
                state = self._journal.propose(entry)
            except Refused as refused:
                self._lost.set()
                raise LeaseLost(refused.message) from refused
            if state.lease.holder != self.holder:
                self._lost.set()
                raise LeaseLost(f"the lease was taken over by {state.lease.holder}")
            self._lost.clear()
            return state.lease.epoch

    def wait(self, stop: threading.Event, *, poll_s: float, say: Callable[[str], None]) -> bool:
        """Wait until this trainer holds the lease, saying once who holds it; False if `stop` was set first."""
        told = None
        while not stop.is_set():
            self._journal.refresh()
            held = self._journal.state(self._policy).lease
            # The journal is kept for ever: ask only when the answer can be yes.
            if held.holder in (None, self.holder) or held.expires_at <= self._clock():
                try:
                    self.renew()
                except LeaseLost:
                    continue
                return True
            if told != held.holder:
                say(f"another trainer ({held.holder}) makes the versions of {self._policy}; waiting for its lease")
                told = held.holder
            stop.wait(poll_s)
        return False

    @contextmanager
    def fenced(self) -> Iterator[int]:
        """The epoch for entries that need the lease, renewed just now and stable inside the block.

        Raises:
            LeaseLost: another trainer has it; nothing was proposed.
        """
        with self._lock:
            yield self.renew()

    def start(self) -> None:
        """Renew in a thread of its own, every third of the lease's life, until `close`."""
        self._quit.clear()
        self._thread = threading.Thread(target=self._keep, name="attune-lease", daemon=True)
        self._thread.start()

    def _keep(self) -> None:
        while not self._quit.wait(self._ttl_ms / 3000):
            try:
                self.renew()
            except LeaseLost as lost:
                log.warning("the lease of %s is lost: %s", self._policy, lost)
                return
            except Unavailable as away:
                log.warning("the lease of %s could not be renewed, trying again: %s", self._policy, away)

    def close(self) -> None:
        """Stop renewing, and give the lease back if it is still ours."""
        self._quit.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        try:
            with self._lock:
                self._journal.refresh()
                lease = self._journal.state(self._policy).lease
                if lease.holder == self.holder:
                    self._journal.propose(
                        LeaseReleased(
                            id=new_id("je"),
                            at=self._clock(),
                            policy=self._policy,
                            actor=self.holder,
                            epoch=lease.epoch,
                            reason="trainer stopped",
                        )
                    )
        except (Refused, Unavailable) as error:
            log.warning("the lease of %s was not given back and runs out by itself: %s", self._policy, error)
