"""The trainer's record of what it has read: one SQLite file, written with one transaction per batch.

Offsets are stored in the transaction of the rows they produced, and event ids are primary keys: a crash repeats nothing
and skips nothing, and a record that comes twice counts once. Content stays sealed. An erased person's rows become
tombstones whichever comes first, the rows or the erasure. Knows events; knows nothing of windows, votes or learning.
"""

from __future__ import annotations

import fcntl
import gc
import json
import logging
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from exchange.closeable import Closeable
from exchange.log.port import Position, TopicPartition
from schemas.errors import ConfigError
from schemas.event import Event
from schemas.sealed import Sealed
from trainer.intake.batch import Batch, BeforeCommit, Buried, DeadLetter, Gap
from trainer.intake.facts import Known
from trainer.intake.layout import LAYOUT, PRAGMAS, TABLES
from trainer.intake.rows import FACTS, row_of, subject_of

log = logging.getLogger(__name__)
_MANY = 5_000
"""Facts read at once, as when a ledger is opened, that are kept from the collector for good."""


class Ledger(Closeable):
    """An open ledger. Thread-safe; one process at a time.

    Raises:
        ConfigError: another process has it open, it is another policy's, or another version of Attune laid it out.
    """

    def __init__(self, path: Path, policy: str) -> None:
        self.policy = policy
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file_lock = _locked(path.with_name(f"{path.name}.lock"))
        self._lock = threading.Lock()
        self._parsed: dict[str, dict[str, Any]] = {kind: {} for kind in FACTS}
        self._places: dict[str, int] = {}
        self._parsed_to = self._watermark = 0
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(path)
        except ConfigError:
            self.close()
            raise

    def _prepare(self, path: Path) -> None:
        # NORMAL may lose the last commits with the power, offsets and rows alike: they are then read again.
        self._connection.executescript(PRAGMAS)
        layout = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if layout not in (0, LAYOUT):
            raise ConfigError(f"{path} has layout {layout}, not {LAYOUT}", remedy="Remove it: the log is read anew.")
        self._connection.executescript(TABLES)
        self._connection.execute(f"PRAGMA user_version = {LAYOUT}")
        self._connection.execute("INSERT INTO owner SELECT ? WHERE NOT EXISTS (SELECT 1 FROM owner)", (self.policy,))
        owner = self._connection.execute("SELECT policy FROM owner").fetchone()[0]
        if owner != self.policy:
            raise ConfigError(f"{path} is the ledger of policy {owner}, not of {self.policy}", field="policy")

    def offsets(self) -> dict[TopicPartition, int]:
        """The next offset to read, by partition; a partition never read is missing."""
        with self._lock:
            return self._offsets()

    def changes(self) -> int:
        """A number that grows with every change since the ledger was opened: while it stands, `known` says the same."""
        with self._lock:
            return self._connection.total_changes

    def write(self, batch: Batch, before_commit: BeforeCommit | None = None) -> int:
        """Store a batch, all or nothing: what `before_commit` raises undoes it. Returns how many events were new."""
        with self._lock:
            new, buried = self._write(batch, before_commit)
            if buried:
                # The write-ahead log holds the pages as they were before; emptied, it holds nothing.
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return new

    def _write(self, batch: Batch, before_commit: BeforeCommit | None) -> tuple[int, Mapping[str, Buried]]:
        with self._transaction():
            before = self._connection.total_changes
            self._connection.executemany(
                "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (event_id) DO NOTHING",
                [row_of(event) for event in batch.events],
            )
            new = self._connection.total_changes - before
            buried = self._bury(batch.events)
            self._connection.executemany(
                "INSERT INTO dead_letters VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                [
                    (dead.position.topic, dead.position.partition, dead.position.offset, dead.reason)
                    for dead in batch.dead_letters
                ],
            )
            self._connection.executemany(
                "INSERT INTO offsets VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET next_offset = excluded.next_offset",
                [(place.topic, place.partition, offset) for place, offset in batch.offsets.items()],
            )
            self._connection.executemany(
                "INSERT INTO lost VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                [(gap.partition.topic, gap.partition.partition, gap.first, gap.next) for gap in batch.gaps],
            )
            if before_commit is not None:
                before_commit(batch.events, buried)
        return new, buried

    def expire(self, before: Mapping[str, int]) -> dict[str, int]:
        """Drop facts and content of rows that came about before the moment (ms since the epoch) of their retention
        class; feedback and displays are of the class `standard`. Returns how many by class; classes not named stay.
        """
        dropped: dict[str, int] = {}
        with self._lock:
            with self._transaction():
                for name, at in before.items():
                    dropped[name] = self._connection.execute(
                        "INSERT INTO expired SELECT event_id FROM events WHERE facts IS NOT NULL AND at < ?"
                        " AND kind IN ('completion', 'feedback', 'imported', 'displayed')"
                        " AND COALESCE(json_extract(facts, '$.retention'), 'standard') = ?",
                        (at, name),
                    ).rowcount
                self._connection.execute(
                    "UPDATE events SET facts = NULL, content = NULL"
                    " WHERE facts IS NOT NULL AND event_id IN (SELECT event_id FROM expired)"
                )
            if any(dropped.values()):
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return dropped

    def known(self) -> Known:
        """Everything the join may know, as of one moment. What was read before is kept parsed in memory."""
        with self._lock, self._transaction():
            fresh = self._connection.execute(
                "SELECT rowid, event_id, kind, at, facts FROM events WHERE rowid > ?", (self._parsed_to,)
            ).fetchall()
            gone = self._connection.execute(
                "SELECT event_id, kind, completion_id, event_id IN (SELECT event_id FROM expired)"
                " FROM events WHERE facts IS NULL"
            ).fetchall()
            offsets = self._offsets()
            with _uncollected(len(fresh)):
                for rowid, event_id, kind, at, facts in fresh:
                    if facts is not None and kind in self._parsed:
                        try:
                            self._parsed[kind][event_id] = FACTS[kind].model_validate_json(facts)
                        except ValueError:  # written before its like became a dead letter; one row must not stop all
                            log.warning("the ledger's row of %s is not readable and is left out", event_id)
                    # Rows are never deleted, so SQLite counts them up by one.
                    self._places[event_id] = rowid
                    self._parsed_to, self._watermark = max(self._parsed_to, rowid), max(self._watermark, at)
            for event_id, kind, *_ in gone:
                self._parsed[kind].pop(event_id, None)
            return Known(
                completions=tuple(self._parsed["completion"].values()),
                feedback=tuple(self._parsed["feedback"].values()),
                displayed=tuple(self._parsed["displayed"].values()),
                consents=tuple(self._parsed["consent"].values()),
                raters=tuple(self._parsed["rater"].values()),
                erased_completions=frozenset(name for _, kind, name, old in gone if kind == "completion" and not old),
                erased_feedback=frozenset(name for name, kind, _, old in gone if kind == "feedback" and not old),
                expired_completions=frozenset(name for _, kind, name, old in gone if kind == "completion" and old),
                expired_feedback=frozenset(
                    name for name, kind, _, old in gone if kind in ("feedback", "imported") and old
                ),
                imported=tuple(self._parsed["imported"].values()),
                erased_imported=frozenset(name for name, kind, _, old in gone if kind == "imported" and not old),
                watermark=self._watermark,
                offsets=offsets,
                places=self._places.copy(),
                read=self._parsed_to,
            )

    def sealed(self, event_ids: Iterable[str]) -> dict[str, Sealed]:
        """The sealed content of these events, where they have one and it was not erased."""
        found: dict[str, Sealed] = {}
        with self._lock, self._transaction():
            for event_id in event_ids:
                row = self._connection.execute("SELECT content FROM events WHERE event_id = ?", (event_id,)).fetchone()
                if row is not None and row[0] is not None:
                    found[event_id] = Sealed.model_validate_json(row[0])
        return found

    def dead_letters(self) -> list[DeadLetter]:
        """All unreadable records met so far, by place."""
        with self._lock:
            rows = self._connection.execute("SELECT * FROM dead_letters ORDER BY 1, 2, 3").fetchall()
        return [DeadLetter(Position(topic, partition, offset), reason) for topic, partition, offset, reason in rows]

    def gaps(self) -> list[Gap]:
        """What the log deleted before it was read, by place."""
        with self._lock:
            rows = self._connection.execute("SELECT * FROM lost ORDER BY 1, 2, 3").fetchall()
        return [Gap(TopicPartition(topic, partition), first, after) for topic, partition, first, after in rows]

    def identities(self) -> dict[str, str]:
        """The names of the topics that the offsets are of, as `EventLog.identity` gave them."""
        with self._lock:
            return dict(self._connection.execute("SELECT topic, identity FROM topics").fetchall())

    def identify(self, identities: Mapping[str, str]) -> None:
        """Say which topics the offsets are of."""
        with self._lock, self._transaction():
            self._connection.executemany("INSERT OR REPLACE INTO topics VALUES (?, ?)", identities.items())

    def forget(self, topic: str) -> None:
        """Read a topic anew. Rows stay: an event that comes again is the same by its id."""
        with self._lock, self._transaction():
            self._connection.execute("DELETE FROM offsets WHERE topic = ?", (topic,))

    def close(self) -> None:
        with self._lock:
            self._connection.close()
            self._file_lock.close()

    def _offsets(self) -> dict[TopicPartition, int]:
        rows = self._connection.execute("SELECT topic, partition, next_offset FROM offsets").fetchall()
        return {TopicPartition(topic, partition): offset for topic, partition, offset in rows}

    def _bury(self, events: Iterable[Event]) -> Mapping[str, Buried]:
        """Make tombstones of what persons touched by this batch said or were told up to their erasure."""
        buried: dict[str, Buried] = {}
        subjects = sorted({subject_of(event) for event in events})
        # One question for all of them: few have been erased, and a batch may name a thousand people.
        erased = self._connection.execute(
            "SELECT subject, MAX(at) FROM events"
            " WHERE kind = 'erasure' AND subject IN (SELECT value FROM json_each(?)) GROUP BY subject",
            (json.dumps(subjects),),
        ).fetchall()
        for subject, at in erased:
            which = (
                "WHERE subject = ? AND facts IS NOT NULL AND at <= ?"
                " AND kind IN ('completion', 'feedback', 'imported', 'displayed')"
            )
            rows = self._connection.execute(f"SELECT content FROM events {which}", (subject, at)).fetchall()  # noqa: S608
            if rows:
                sealed = (Sealed.model_validate_json(content) for (content,) in rows if content is not None)
                buried[subject] = Buried(len(rows), frozenset(one.key_id for one in sealed))
                self._connection.execute(
                    f"UPDATE events SET facts = NULL, content = NULL {which}",  # noqa: S608
                    (subject, at),
                )
        return buried

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


@contextmanager
def _uncollected(facts: int) -> Iterator[None]:
    """So many facts are read and kept, and none refers to another: the collector need not walk them over and over."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if facts > _MANY:
            gc.freeze()
        if collects:
            gc.enable()


def _locked(path: Path) -> IO[bytes]:
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise ConfigError(
            f"another trainer works on the ledger {path.name.removesuffix('.lock')}",
            field="state_dir",
            remedy="Stop it, or give this one a state_dir of its own.",
        ) from error
    return file
