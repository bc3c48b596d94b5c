"""The count at the end, event by event: what was acknowledged, what lies on the log, what the trainer counts.

Reads the log with the product's own reader, and takes it in with the trainer's own ingest, as a trainer that starts
from nothing would; the ledger of a trainer that lived through the damage can be looked at instead.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, fields
from pathlib import Path

from exchange.log.port import EventLog, TopicPartition
from exchange.open import open_log
from schemas.completion import CompletionRecorded
from schemas.event import Event
from schemas.feedback import AnswerTarget, FeedbackReceived
from schemas.topics import COMPLETIONS, FEEDBACK
from schemas.wire import decode_event
from tests.faults.load import Account
from trainer.intake.feeder import Feeder
from trainer.intake.ingest import Ingest
from trainer.intake.ledger import Ledger


@dataclass(frozen=True)
class Audit:
    """What was found of what clients were told."""

    acknowledged: int
    found: int
    """Acknowledged words that are both on the log and in the ledger."""
    missing: tuple[str, ...]
    doubled: tuple[str, ...]
    """Answers of which the ledger counts more than one word, though each client said one."""
    repeated: int
    """Records on the log that repeat an event already there; the ledger counts them once."""
    answered: int
    recorded: int
    """Answers that clients got and that are in the ledger."""
    lost_answers: tuple[str, ...] = field(repr=False, default=())

    def check(self) -> None:
        """AssertionError where an acknowledged word is missing or counted twice."""
        assert not self.missing, f"{len(self.missing)} acknowledged words are missing, e.g. {self.missing[:3]}"
        assert not self.doubled, f"{len(self.doubled)} words are counted twice, e.g. {self.doubled[:3]}"

    def __add__(self, other: Audit) -> Audit:
        """Both counts, of different logs."""
        return Audit(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))


def events_on(log: EventLog, *topics: str) -> Iterator[Event]:
    """All events of some topics, from the beginning to the end as it is now."""
    places = {TopicPartition(topic, number): 0 for topic in topics for number in log.partitions(topic)}
    ends = {place: log.end_offset(place) for place in places}
    reader = log.reader(places)
    try:
        while any(reader.positions()[place] < end for place, end in ends.items()):
            for record in reader.poll(timeout_s=2.0):
                yield decode_event(record.value, record.headers)
    finally:
        reader.close()


def take_stock(
    log_url: str, account: Account, work: Path, ledger: Path | None = None, registry: str | None = None
) -> Audit:
    """Count. The server must have stopped, or nothing more may be on its way.

    Args:
        ledger: the database of a trainer that has read the whole log and ended; default: one made now, in `work`.
        registry: beside which records lie that are too large for the log.
    """
    with open_log(log_url, registry=registry) as log:
        on_log: Counter[str] = Counter()
        for event in events_on(log, FEEDBACK.name, COMPLETIONS.name):
            if isinstance(event, FeedbackReceived | CompletionRecorded):
                on_log[event.id] += 1
        if ledger is None:
            ledger = work / "audit" / "ledger.db"
            with (
                Ledger(ledger, "support") as fresh,
                closing(Ingest(log, fresh, "support")) as ingest,
                Feeder(ingest) as feeder,
            ):
                feeder.catch_up()
    words, completions = read_ledger(ledger)
    missing = sorted(word for word in account.words if word not in words or not on_log[word])
    counted = Counter(target for target in words.values() if target in account.said)
    lost = sorted(account.answered - completions)
    return Audit(
        acknowledged=len(account.words),
        found=len(account.words) - len(missing),
        missing=tuple(missing),
        doubled=tuple(sorted(target for target, times in counted.items() if times > 1)),
        repeated=on_log.total() - len(on_log),
        answered=len(account.answered),
        recorded=len(account.answered) - len(lost),
        lost_answers=tuple(lost),
    )


def target_of(word: FeedbackReceived) -> str:
    """What a word speaks of."""
    return word.target.completion_id if isinstance(word.target, AnswerTarget) else word.target.comparison_id


def all_words(log_url: str) -> Account:
    """An account of all words on a log, for scenes whose log was written without a server."""
    with open_log(log_url) as log:
        words = {
            word.id: target_of(word) for word in events_on(log, FEEDBACK.name) if isinstance(word, FeedbackReceived)
        }
    return Account(words=words, said=set(words.values()))


def read_ledger(path: Path) -> tuple[dict[str, str], set[str]]:
    """The words in a ledger as (feedback id -> completion or comparison it speaks of), and its completions' ids."""
    words: dict[str, str] = {}
    completions: set[str] = set()
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        for kind, facts in connection.execute("SELECT kind, facts FROM events WHERE facts IS NOT NULL"):
            if kind == "feedback":
                event = FeedbackReceived.model_validate_json(facts)
                words[event.id] = target_of(event)
        for (completion,) in connection.execute("SELECT completion_id FROM events WHERE kind = 'completion'"):
            completions.add(completion)
    return words, completions
