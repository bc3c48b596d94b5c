"""Gathers what the rules look at, beside running processes: takes no lease, holds no lock, writes to no shared place.

The trainer's ledger is copied without its content into a temporary folder, and what the log holds beyond it is read
into the copy, so what is seen is what the trainer would know now.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from deploy.doctor.feedback import Evidence, look_at_feedback
from deploy.doctor.findings import Finding, blocks, note, slows
from deploy.doctor.setup import look_at_settings
from deploy.doctor.versions import look_at_versions
from exchange.fingerprint import base_fingerprint
from exchange.journal import PolicyJournal
from exchange.log.port import EventLog, LogReader, Position, TopicPartition
from exchange.open import open_log, open_registry
from schemas.base import now_ms
from schemas.errors import IntegrityError, NotFound, Unavailable
from schemas.wire import LogRecord
from server.settings import ServerSettings
from trainer.intake.batch import Gap
from trainer.intake.copy import copy_facts
from trainer.intake.facts import Known
from trainer.intake.ingest import Ingest
from trainer.intake.ledger import Ledger
from trainer.joining.eligibility import Scope
from trainer.joining.funnel import Funnel, funnel
from trainer.joining.join import join
from trainer.joining.raters import Believed
from trainer.release.votes import canary_votes
from trainer.settings import TrainerSettings
from trainer.state import read_beside

READ_S = 300.0
"""How long reading what the log holds beyond the ledger may take."""
_SQLITE = "sqlite:///"


class _ReadOnly:
    """An event log that takes nothing: what cannot be read stays where it is, undelivered to the dead letters."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    def append(self, records: Sequence[LogRecord]) -> list[Position]:
        return []

    def partitions(self, topic: str) -> tuple[int, ...]:
        return self._log.partitions(topic)

    def identity(self, topic: str) -> str:
        return self._log.identity(topic)

    def start_offset(self, partition: TopicPartition) -> int:
        return self._log.start_offset(partition)

    def end_offset(self, partition: TopicPartition) -> int:
        return self._log.end_offset(partition)

    def note_offsets(self, reader: str, offsets: Mapping[TopicPartition, int]) -> None:
        pass

    def reader(self, offsets: dict[TopicPartition, int]) -> LogReader:
        return self._log.reader(offsets)


class Examination:
    """One look at a loop. `findings` is what was found; `funnel` is None where the log could not be read."""

    def __init__(self, server: ServerSettings | None, trainer: TrainerSettings) -> None:
        self._server = server
        self._trainer = trainer
        self.funnel: Funnel | None = None

    def findings(self) -> list[Finding]:
        """Everything found, the gravest of each part first. Raises ConfigError where the state folder is no such."""
        found = list(look_at_settings(self._server, self._trainer))
        try:
            open_registry(self._trainer.registry).versions(self._trainer.policy)
        except Unavailable as error:
            found.append(blocks("registry_away", f"The registry cannot be used: {error}", "Mend it, or its address."))
        path = self._trainer.log.removeprefix(_SQLITE)
        if path != self._trainer.log and not Path(path).is_file():
            words = "There is no event log yet: neither server nor trainer has run with these settings."
            return [*found, blocks("no_log", words, "Run `attune serve`, or mend `log` in the settings.")]
        try:
            trainer = self._trainer
            with open_log(trainer.log, kafka=trainer.kafka, registry=trainer.registry) as log:
                found += self._through(log)
        except Unavailable as error:
            found.append(blocks("log_away", f"The event log cannot be read: {error}", "Mend it, or its address."))
        except IntegrityError as error:
            found.append(blocks("log_replaced", f"The trainer stops: {error.message}.", error.remedy or ""))
        return found

    def _through(self, log: EventLog) -> Iterator[Finding]:
        settings = self._trainer
        holder, last = read_beside(settings.state_dir)
        with closing(PolicyJournal(log)) as journal:
            journal.refresh()
            state = journal.state(settings.policy)
        with tempfile.TemporaryDirectory(prefix="attune-doctor-") as folder:
            ledger_file = Path(folder) / "ledger.db"
            own = settings.state_dir / "ledger.db"
            if own.is_file():
                copy_facts(own, ledger_file)
            with Ledger(ledger_file, settings.policy) as ledger:
                noted = ledger.gaps()
                behind = _catch_up(log, ledger, settings)
                known, dead, gaps = ledger.known(), ledger.dead_letters(), ledger.gaps()
        if own.is_file() and behind > settings.feedback.min_new_labels:
            yield note("behind", f"The trainer's ledger is {behind} records behind the log.", "It reads while it runs.")
        yield from look_at_gaps(noted, gaps, settings.on_records_lost)
        if dead:
            yield note(
                "dead_letters",
                f"{len(dead)} records on the log could not be read; the newest: {dead[-1].reason}.",
                "They lie in attune.dead-letter with their reasons.",
            )
        base, unreadable = _fingerprint(settings, known)
        yield from unreadable
        yield from look_at_versions(
            state,
            settings.promotion,
            lambda canary, stable, since: canary_votes(
                known.feedback, canary=canary, stable=stable, since_ms=since, believed=Believed(known.raters)
            ),
            holder=holder,
            now=now_ms(),
        )
        scope = Scope(base, state.stable, settings.feedback.max_versions_behind)
        joined = join(known, scope, settings.feedback.feedback_window_ms)
        self.funnel = funnel(joined)
        since = last.mark if last else None
        method = settings.learner.method
        yield from look_at_feedback(Evidence(known, joined, self.funnel, settings.feedback, since, method))


def _fingerprint(settings: TrainerSettings, known: Known) -> tuple[str, list[Finding]]:
    """The base that counts, without fetching one: by its files, else by the newest version, else by the newest answer.

    Where nothing says it, no answer can be told from another base's.
    """
    folder = Path(settings.model)
    if folder.is_dir():
        try:
            return base_fingerprint(folder), []
        except NotFound as error:
            return "", [blocks("no_model", f"The base model cannot be read: {error}", "Mend `model` in the settings.")]
    try:
        registry = open_registry(settings.registry)
        versions = registry.versions(settings.policy)
        if versions:
            return registry.adapter(settings.policy, versions[-1]).base_fingerprint, []
    except (Unavailable, IntegrityError):
        pass  # said of the registry elsewhere
    newest = max(known.completions, key=lambda one: one.at, default=None)
    return newest.base_fingerprint if newest is not None else "", []


def look_at_gaps(noted: Sequence[Gap], found: Sequence[Gap], on_records_lost: str) -> Iterator[Finding]:
    """What the log deleted before the trainer read it: `noted` in its ledger, and `found` by now."""
    fresh, all_lost = len(found) > len(noted), sum(gap.records for gap in found)
    if not found:
        return
    places = ", ".join(sorted({str(gap.partition) for gap in found}))
    message = f"{all_lost} records were deleted from the log before the trainer read them ({places})"
    if fresh and on_records_lost == "stop":
        yield blocks(
            "records_lost",
            f"{message}, so it stops.",
            'Set `on_records_lost = "continue"` to go on without them, and give these topics a longer retention.',
        )
    else:
        yield slows(
            "records_lost",
            f"{message}; reading goes on without them.",
            "Give these topics a longer retention, or let the trainer run all the time.",
        )


def _catch_up(log: EventLog, ledger: Ledger, settings: TrainerSettings) -> int:
    """Read what the log holds beyond the ledger; returns how many records that were.

    Raises:
        Unavailable: it took too long.
        IntegrityError: it is another log than the ledger's.
    """
    ingest = Ingest(
        _ReadOnly(log),  # type: ignore[arg-type]
        ledger,
        settings.policy,
        on_records_lost="continue",
        on_log_replaced=settings.on_log_replaced,
    )
    with closing(ingest):
        deadline, read = time.monotonic() + READ_S, 0
        left = ingest.lag()
        while left > 0:
            if time.monotonic() > deadline:
                raise Unavailable(f"the log could not be read in {READ_S:g} s")
            count = ingest.pump(timeout_s=0.5)
            read += count
            left = min(left - count, ingest.lag())
    return read
