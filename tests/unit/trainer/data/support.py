"""Shared by the tests of the trainer's data: logs, ledgers and joins out of made-up events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from exchange.log.memory import MemoryLog
from exchange.log.port import EventLog
from schemas.completion import CompletionRecorded
from schemas.event import Event
from schemas.events import AnswerDisplayed, ConsentChanged
from schemas.feedback import FeedbackReceived
from schemas.raters import RaterJudged
from schemas.wire import encode_event
from tests.factories import BASE
from trainer.intake.facts import CompletionFacts, Known
from trainer.intake.ingest import Ingest
from trainer.intake.ledger import Ledger
from trainer.joining.eligibility import Scope
from trainer.joining.exclusions import Reason
from trainer.joining.join import Joined, join

SCOPE = Scope(base_fingerprint=BASE, current_version=3)
WINDOW_MS = 10_000
LATER = 1_000_000
"""Ms after START by which every window of the tests has closed."""


def known(events: Iterable[Event], *, watermark: int | None = None) -> Known:
    """What a ledger would hold of events without erasures."""
    items = list(events)
    return Known(
        completions=tuple(facts(event) for event in items if isinstance(event, CompletionRecorded)),
        feedback=tuple(event for event in items if isinstance(event, FeedbackReceived)),
        displayed=tuple(event for event in items if isinstance(event, AnswerDisplayed)),
        consents=tuple(event for event in items if isinstance(event, ConsentChanged)),
        raters=tuple(event for event in items if isinstance(event, RaterJudged)),
        watermark=max(event.at for event in items) if watermark is None else watermark,
    )


def facts(event: CompletionRecorded) -> CompletionFacts:
    return CompletionFacts.model_validate_json(event.model_dump_json(exclude={"content"}))


def joined(*events: Event, scope: Scope = SCOPE) -> Joined:
    """A join long after the last window closed."""
    return join(known(events, watermark=max(event.at for event in events) + LATER), scope, WINDOW_MS)


def reasons(result: Joined) -> dict[str, set[Reason]]:
    """Reasons of exclusion by id."""
    found: dict[str, set[Reason]] = {}
    for exclusion in result.exclusions:
        found.setdefault(exclusion.id, set()).add(exclusion.reason)
    return found


def log_of(events: Iterable[Event]) -> MemoryLog:
    log = MemoryLog()
    log.append([encode_event(event) for event in events])
    return log


def pump_all(ingest: Ingest, size: int = 1000) -> int:
    total = 0
    while count := ingest.pump(size):
        total += count
    return total


@contextmanager
def ledger_of(log: EventLog, *, size: int = 1000, policy: str = "support") -> Iterator[Ledger]:
    """A fresh ledger that has read the whole log in batches of `size`."""
    with TemporaryDirectory() as folder, Ledger(Path(folder) / "ledger.db", policy) as ledger:
        ingest = Ingest(log, ledger, policy)
        pump_all(ingest, size)
        ingest.close()
        yield ledger
