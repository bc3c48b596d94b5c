"""The event log in one SQLite file: durable, for one machine, shared by any number of its processes.

WAL with synchronous=FULL: a batch is one transaction and one fsync, and `append` returns after it. Give it a local
disk: WAL does not work over network file systems.

`drop` leaves gaps where it takes records of one retention class from among others; readers pass over those. Only a
reader that stands before everything that is left is told of its loss.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
import uuid
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from exchange.closeable import Closeable
from exchange.log.checks import check_records, topic_named
from exchange.log.memory import advance
from exchange.log.port import LogReplaced, Position, RecordsLost, StoredRecord, TopicPartition, partition_for
from schemas.base import now_ms
from schemas.errors import ConfigError, InvalidInput, Unavailable
from schemas.topics import TOPICS
from schemas.wire import LogRecord

LAYOUT = 1
_BUSY_S = 30.0
_POLL_S = 0.05
"""How often a reader that waits looks for news. A look costs a tenth of a millisecond of processor time, and every
server follows the policy journal for ever."""
_POLL_BYTES = 64 * 2**20
"""Of values that one poll gives, though always one record: a thousand long contexts would fill the memory."""
_TABLES = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS ends (
    topic TEXT NOT NULL, partition INTEGER NOT NULL, next_offset INTEGER NOT NULL, PRIMARY KEY (topic, partition)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS records (
    topic TEXT NOT NULL, partition INTEGER NOT NULL, "offset" INTEGER NOT NULL, timestamp_ms INTEGER NOT NULL,
    key BLOB NOT NULL, value BLOB NOT NULL, headers TEXT NOT NULL, UNIQUE (topic, partition, "offset")
);
PRAGMA user_version = {LAYOUT};
COMMIT;
"""
_IDENTITY = "CREATE TABLE IF NOT EXISTS identity (only INTEGER PRIMARY KEY CHECK (only = 1), id TEXT NOT NULL)"


class SqliteLog(Closeable):
    """An `EventLog` in a file. Thread-safe; open it anew in each process, never across a fork."""

    def __init__(self, path: Path) -> None:
        """Open the log, made if it is not there.

        Raises:
            Unavailable: the file cannot be opened or is no SQLite file.
            ConfigError: the file was laid out by another version of Attune.
        """
        self._path = path
        self._lock = threading.Lock()
        with _translated(path):
            _make_folder(path)
            self._connection = _connect(path)
            _prepare(self._connection, path)
            self._identity = _identity(self._connection)

    def append(self, records: Sequence[LogRecord]) -> list[Position]:
        check_records(records)
        places = [TopicPartition(record.topic, _partition(record)) for record in records]
        with self._lock, _translated(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                positions = self._insert(records, places)
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
        return positions

    def _insert(self, records: Sequence[LogRecord], places: Sequence[TopicPartition]) -> list[Position]:
        now = now_ms()
        ends = {place: _end(self._connection, place) for place in set(places)}
        rows: list[tuple[str, int, int, int, bytes, bytes, str]] = []
        for record, place in zip(records, places, strict=True):
            headers = _headers_to_text(record.headers)
            rows.append((place.topic, place.partition, ends[place], now, record.key, record.value, headers))
            ends[place] += 1
        self._connection.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        self._connection.executemany(
            "INSERT INTO ends VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET next_offset = excluded.next_offset",
            [(place.topic, place.partition, end) for place, end in ends.items()],
        )
        return [Position(row[0], row[1], row[2]) for row in rows]

    def drop(self, topic: str, before_ms: int, header: str, value: str) -> int:
        """Delete the records of a topic that came before a moment (ms since the epoch) and have this header.

        Their offsets are never given again, and their bytes are overwritten. Returns how many there were.
        """
        pair = _headers_to_text(((header, value.encode()),))[1:-1]
        with self._lock, _translated(self._path):
            self._connection.execute("PRAGMA secure_delete = ON")
            dropped = self._connection.execute(
                "DELETE FROM records WHERE topic = ? AND timestamp_ms < ? AND instr(headers, ?) > 0",
                (topic, before_ms, pair),
            ).rowcount
            if dropped:
                # The write-ahead log holds the pages as they were before.
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return dropped

    def partitions(self, topic: str) -> tuple[int, ...]:
        return tuple(range(topic_named(topic).partitions))

    def identity(self, topic: str) -> str:
        return f"{self._identity}/{topic_named(topic).name}"

    def start_offset(self, partition: TopicPartition) -> int:
        self._check(partition)
        with self._lock, _translated(self._path):
            return _start(self._connection, partition)

    def end_offset(self, partition: TopicPartition) -> int:
        self._check(partition)
        with self._lock, _translated(self._path):
            return _end(self._connection, partition)

    def reader(self, offsets: Mapping[TopicPartition, int]) -> SqliteReader:
        for partition in offsets:
            self._check(partition)
        return SqliteReader(self._path, offsets)

    def note_offsets(self, reader: str, offsets: Mapping[TopicPartition, int]) -> None:
        pass

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _check(self, partition: TopicPartition) -> None:
        if partition.partition not in self.partitions(partition.topic):
            raise InvalidInput(f"there is no partition {partition}", field="partition")


class SqliteReader:
    """A `LogReader` of a SQLite log, on a connection of its own."""

    def __init__(self, path: Path, offsets: Mapping[TopicPartition, int]) -> None:
        self._path = path
        self._offsets = dict(offsets)
        with _translated(path):
            self._connection = _connect(path)

    def poll(self, *, max_records: int = 1000, timeout_s: float = 0.0) -> list[StoredRecord]:
        deadline = time.monotonic() + timeout_s
        with _translated(self._path):
            while True:
                # Read before the records, so that a commit in between is looked at again and not slept over.
                version = self._data_version()
                found, ends = self._read(max_records)
                if found or time.monotonic() >= deadline:
                    break
                while self._data_version() == version and (left := deadline - time.monotonic()) > 0:
                    time.sleep(min(_POLL_S, left))
        advance(self._offsets, found)
        for place, end in ends.items():
            self._offsets[place] = max(self._offsets[place], end)
        return found

    def _data_version(self) -> int:
        """A number that changes when another connection commits."""
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def _read(self, limit: int) -> tuple[list[StoredRecord], dict[TopicPartition, int]]:
        """The next records; and how far the partitions reach of which there are no more, as `drop` may have taken the
        last ones.
        """
        found: list[StoredRecord] = []
        ends: dict[TopicPartition, int] = {}
        room = _POLL_BYTES
        for place, offset in self._offsets.items():
            if len(found) >= limit or room <= 0:
                break
            end = _end(self._connection, place)  # before the records: whatever comes later lies behind it
            first = None
            for at, stamp, key, value, headers in self._connection.execute(
                'SELECT "offset", timestamp_ms, key, value, headers FROM records'
                ' WHERE topic = ? AND partition = ? AND "offset" >= ? ORDER BY "offset" LIMIT ?',
                (place.topic, place.partition, offset, limit - len(found)),
            ):
                first = at if first is None else first
                position = Position(place.topic, place.partition, at)
                found.append(StoredRecord(position, stamp, key, value, _headers_from_text(headers)))
                room -= len(value)
                if room <= 0:
                    break
            if offset > 0 and first != offset:
                self._check_gap(place, offset)
            if len(found) < limit and room > 0:
                ends[place] = end
        return found, ends

    def _check_gap(self, place: TopicPartition, wanted: int) -> None:
        """Raises where no record lies at `wanted` for a reason that its reader must be told."""
        if (end := _end(self._connection, place)) < wanted:
            raise LogReplaced(place, wanted=wanted, why=f"it ends at {end}")
        if (oldest := _start(self._connection, place)) > wanted:
            raise RecordsLost(place, wanted=wanted, oldest=oldest)

    def positions(self) -> Mapping[TopicPartition, int]:
        return dict(self._offsets)

    def close(self) -> None:
        self._connection.close()


def _partition(record: LogRecord) -> int:
    return partition_for(record.key, TOPICS[record.topic].partitions)


def _end(connection: sqlite3.Connection, place: TopicPartition) -> int:
    row = connection.execute(
        "SELECT next_offset FROM ends WHERE topic = ? AND partition = ?", (place.topic, place.partition)
    ).fetchone()
    return 0 if row is None else int(row[0])


def _start(connection: sqlite3.Connection, place: TopicPartition) -> int:
    row = connection.execute(
        'SELECT min("offset") FROM records WHERE topic = ? AND partition = ?', (place.topic, place.partition)
    ).fetchone()
    return _end(connection, place) if row[0] is None else int(row[0])


def _identity(connection: sqlite3.Connection) -> str:
    """The random name of this file's log, given when it is first opened."""
    if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'identity'").fetchone():
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(_IDENTITY)
        connection.execute("INSERT OR IGNORE INTO identity VALUES (1, ?)", (uuid.uuid4().hex,))
        connection.execute("COMMIT")
    return str(connection.execute("SELECT id FROM identity").fetchone()[0])


def _headers_to_text(headers: tuple[tuple[str, bytes], ...]) -> str:
    return json.dumps([(name, b64encode(value).decode("ascii")) for name, value in headers], separators=(",", ":"))


def _headers_from_text(text: str) -> tuple[tuple[str, bytes], ...]:
    return tuple((name, b64decode(value)) for name, value in json.loads(text))


def _make_folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"the folder of {path} cannot be made: {error}") from error


def _connect(path: Path) -> sqlite3.Connection:
    # Transactions are opened by hand; a reader may move from thread to thread, one at a time.
    connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    _use_wal(connection)
    layout = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if layout not in (0, LAYOUT):
        connection.close()
        raise ConfigError(
            f"{path} is an event log of layout {layout}, and this is layout {LAYOUT}",
            field="log",
            remedy="Use the version of Attune that wrote it, or another file.",
        )
    if layout == 0:
        connection.executescript(_TABLES)


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to WAL. SQLite does not wait here for other processes that open the file, so this does."""
    deadline = time.monotonic() + _BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_POLL_S)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """SQLite's errors as Attune's: locked for too long, disk full, no such folder, closed, no database."""
    try:
        yield
    except sqlite3.Error as error:
        raise Unavailable(f"the event log {path} cannot be used: {error}") from error
