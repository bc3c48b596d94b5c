"""Erasures as the log tells them: who asked for what, what was done, and destroying keys again that came back.

Knows the erasures topic and the key store; knows no ledger and no HTTP. A key can come back with an old backup of the
key store, or survive a crash between the request and its destruction: so every process replays all erasures when it
starts, and a restore does when it is done.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass

from exchange.keys.port import KeyStore
from exchange.log.port import EventLog, StoredRecord, TopicPartition
from schemas.errors import InvalidInput, Unavailable
from schemas.event import Event
from schemas.events import ErasureApplied, ErasureRequested
from schemas.topics import ERASURES
from schemas.wire import decode_event

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
    places = {TopicPartition(ERASURES.name, number): 0 for number in event_log.partitions(ERASURES.name)}
    ends = {place: event_log.end_offset(place) for place in places}
    requests: dict[str, ErasureRequested] = {}
    applied: dict[str, dict[str, ErasureApplied]] = {}
    reader = event_log.reader(places)
    try:
        deadline = time.monotonic() + timeout_s
        while any(reader.positions()[place] < end for place, end in ends.items()):
            if time.monotonic() > deadline:
                raise Unavailable(f"the topic {ERASURES.name} could not be read to its end in time")
            for record in reader.poll(timeout_s=0.1):
                event = _decoded(record)
                if isinstance(event, ErasureRequested):
                    requests.setdefault(event.id, event)
                elif isinstance(event, ErasureApplied):
                    applied.setdefault(event.erasure_id, {}).setdefault(event.id, event)
    finally:
        reader.close()
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


def _decoded(record: StoredRecord) -> Event | None:
    try:
        return decode_event(record.value, record.headers)
    except InvalidInput as error:
        log.warning("record %d of %s cannot be read: %s", record.position.offset, record.position.topic, error)
        return None
