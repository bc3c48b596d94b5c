"""Sending records so that one which the broker refuses harms no other.

kafka-python's idempotent producer is of no use after an error that it cannot repeat: all later sends fail with it, and
so do records that waited beside the faulty one. So a producer that has failed in any way is closed, never used again,
and the next send makes another. Which client library sends is its own matter (`Producer`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from exchange.log.kafka.lazy import Lazy
from exchange.log.port import Position
from schemas.errors import AttuneError, InvalidInput, Unavailable
from schemas.wire import LogRecord

Outcome = Position | InvalidInput | Unavailable


class Producer(Protocol):
    """A connected client that writes. Thread-safe."""

    def send(self, records: Sequence[LogRecord], until: float) -> list[Outcome]:
        """Send all, in order within each partition, and wait until `until` (of the monotonic clock) for what becomes
        of each. InvalidInput says that the broker refused a record, or another that was sent along with it.
        """
        ...

    def close(self, *, failed: bool) -> None:
        """End it, and with it what is still under way. Raises nothing."""
        ...


@dataclass
class _Shared:
    producer: Producer
    users: int = 0
    failed: bool = False


class Producers:
    """The producer that is fit, and the next one where it failed. Thread-safe."""

    def __init__(self, make: Callable[[], Producer]) -> None:
        """`make` raises Unavailable where no broker answers."""
        self._current: Lazy[_Shared] = Lazy(lambda: _Shared(make()))
        self._counting = threading.Lock()

    def deliver(self, records: Sequence[LogRecord], until: float) -> list[Outcome]:
        """What became of each record, in their order; of those not stored only the guilty are InvalidInput.

        Where a broker refuses something, all that failed is sent again in halves until the guilty stand alone. What
        had been stored although it seemed to fail is then stored twice.
        """
        if not records:
            return []
        outcomes = self._send(records, until)
        if len(records) == 1 or not any(isinstance(outcome, InvalidInput) for outcome in outcomes):
            return outcomes
        failed = [index for index, outcome in enumerate(outcomes) if not isinstance(outcome, Position)]
        middle = len(failed) // 2
        for half in (failed[:middle], failed[middle:]):
            again = self.deliver([records[index] for index in half], until)
            for index, outcome in zip(half, again, strict=True):
                outcomes[index] = outcome
        return outcomes

    def close(self) -> None:
        """Send what is under way, and end the producer."""
        if (shared := self._current.forget()) is not None:
            shared.producer.close(failed=False)

    def _send(self, records: Sequence[LogRecord], until: float) -> list[Outcome]:
        if time.monotonic() >= until:
            return [Unavailable("Kafka did not take the record in time")] * len(records)
        try:
            shared = self._enter()
        except Unavailable as error:
            return [error] * len(records)
        outcomes: list[Outcome] = []
        try:
            outcomes = shared.producer.send(records, until)
        finally:
            self._leave(shared, failed=not outcomes or any(isinstance(outcome, AttuneError) for outcome in outcomes))
        return outcomes

    def _enter(self) -> _Shared:
        while True:
            shared = self._current.get()
            with self._counting:
                if not shared.failed:
                    shared.users += 1
                    return shared
            self._current.forget(shared)

    def _leave(self, shared: _Shared, *, failed: bool) -> None:
        with self._counting:
            shared.users -= 1
            shared.failed = shared.failed or failed
            last = shared.failed and shared.users == 0
        if shared.failed:
            self._current.forget(shared)
        if last:
            shared.producer.close(failed=True)
