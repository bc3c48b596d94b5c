"""Erasures as the log tells them: who asked for what, what was done, and destroying keys again that came back.

Knows the erasures topic and the key store; knows no ledger and no HTTP. A key can come back with an old backup of the
key store, or survive a crash between the request and its destruction: so every process replays all erasures when it
starts, and a restore does when it is done.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from exchange.keys.port import KeyStore
from exchange.log.port import EventLog
from exchange.reading.whole import read_whole
from schemas.events import ErasureApplied, ErasureRequested
from schemas.topics import ERASURES

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Erasure:
    """One request, and what has been done about it so far."""

    request: ErasureRequested
    applied: tuple[ErasureApplied, ...] = ()
    """Oldest first; what was told twice shows once."""


def read_erasures(event_log: EventLog, *, timeout_s: float = 10.0) -> tuple[Erasure, ...]:
    """All erasures on the log, oldest first.

    Raises:
        Unavailable: the log cannot be reached, or its end was not reached in time.
    """
    requests: dict[str, ErasureRequested] = {}
    applied: dict[str, dict[str, ErasureApplied]] = {}
    for event in read_whole(event_log, ERASURES.name, timeout_s=timeout_s):
        if isinstance(event, ErasureRequested):
            requests.setdefault(event.id, event)
        elif isinstance(event, ErasureApplied):
            applied.setdefault(event.erasure_id, {}).setdefault(event.id, event)
    found = (Erasure(request, tuple(applied.get(name, {}).values())) for name, request in requests.items())
    return tuple(sorted(found, key=lambda erasure: (erasure.request.at, erasure.request.id)))


def replay_erasures(erasures: Iterable[Erasure], keys: KeyStore) -> int:
    """Destroy every key that an erasure has destroyed before; returns how many were there again.

    A key made after its person's last erasure is spared: the person came back.

    Raises:
        Unavailable: the key store cannot be used.
    """
    last: dict[str, int] = {}
    for erasure in erasures:
        last[erasure.request.subject] = max(erasure.request.at, last.get(erasure.request.subject, 0))
    destroyed = sum(len(keys.destroy(subject, until_ms=at)) for subject, at in last.items())
    if destroyed:
        log.warning("%d keys of erased people were there again and have been destroyed again", destroyed)
    return destroyed
