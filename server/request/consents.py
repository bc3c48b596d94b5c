"""Consent at its source: what people said may be done with their data, as this replica knows it.

Every replica follows the topic of consent changes and keeps the last word of each person in a small file, so memory
is bounded whatever the number of people, and a restart reads only what is new. Until a replica has read the topic once,
it knows nobody's word, and by default keeps nothing of anybody named. Knows pseudonyms and words, but no requests.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from exchange.log.port import EventLog, LogReader, LogReplaced, RecordsLost, StoredRecord, TopicPartition
from schemas.completion import Consent, ConsentLevel
from schemas.errors import InvalidInput, Unavailable
from schemas.events import ConsentChanged
from schemas.topics import CONSENTS
from schemas.wire import decode_event

log = logging.getLogger(__name__)

READ_S = 0.1
"""How long one read waits for news; the log answers as soon as there are any."""
YIELD_S = 0.002
RETRY_S = 1.0
"""Pause before the log is tried again after it could not be reached."""
SILENCE_S = 10.0
"""How long the log may say nothing while there is more of it, before it counts as away."""
_BATCH = 2_000
_ORDER = tuple(ConsentLevel)
_TABLES = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS words (end_user TEXT PRIMARY KEY, at INTEGER, id TEXT, level TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS offsets (partition INTEGER PRIMARY KEY, next_offset INTEGER);
"""


def narrowed(asked: Consent, said: ConsentLevel) -> Consent:
    """What a request may do: what it or its key allows, and never more than the person's own last word."""
    return asked if _ORDER.index(asked.level) <= _ORDER.index(said) else Consent(level=said, source="event")


class ConsentBook:
    """The last word of everybody who ever changed their mind. Thread-safe; lookups take microseconds."""

    def __init__(self, event_log: EventLog, path: Path, unread: ConsentLevel = ConsentLevel.NONE) -> None:
        """Open the file, made if it is not there.

        Args:
            unread: the most that named people are taken to allow until the topic has been read once.

        Raises:
            Unavailable: the file cannot be used.
        """
        self._log = event_log
        self._unread = unread
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Two connections: a lookup never waits for a commit.
            self._written, self._looked_up = (
                sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10.0) for _ in range(2)
            )
            self._written.executescript(_TABLES)
        except (OSError, sqlite3.Error) as error:
            raise Unavailable(f"the record of consents {path} cannot be used: {error}") from error
        self._writing, self._looking = threading.Lock(), threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._known = bool(self._offsets())

    @property
    def alive(self) -> bool:
        """Whether the thread runs; without it, changes that other replicas took would never be heard of here."""
        return self._thread is not None and self._thread.is_alive()

    def said_by(self, end_user: str | None) -> ConsentLevel:
        """The most that a person allows by their last word; `train` where they never said a word, or have no name."""
        if end_user is None:
            return ConsentLevel.TRAIN
        with self._looking:
            row = self._looked_up.execute("SELECT level FROM words WHERE end_user = ?", (end_user,)).fetchone()
        if row is not None:
            return ConsentLevel(row[0])
        return ConsentLevel.TRAIN if self._known else self._unread

    def note(self, changes: Iterable[ConsentChanged], offsets: Mapping[int, int] | None = None) -> None:
        """Take note of changes that are durable, and of how far the topic has been read with them. Blocks.

        A word that is older than the one that is known changes nothing, so the order in which they come does not
        matter.

        Raises:
            Unavailable: the disk refuses; nothing was noted.
        """
        with self._writes() as written:
            written.execute("BEGIN IMMEDIATE")
            written.executemany(
                "INSERT INTO words VALUES (?, ?, ?, ?) ON CONFLICT (end_user) DO UPDATE"
                " SET at = excluded.at, id = excluded.id, level = excluded.level"
                " WHERE (excluded.at, excluded.id) > (words.at, words.id)",
                [(change.end_user, change.at, change.id, change.level.value) for change in changes],
            )
            written.executemany(
                "INSERT INTO offsets VALUES (?, ?) ON CONFLICT DO UPDATE SET next_offset = excluded.next_offset",
                list((offsets or {}).items()),
            )

    async def start(self) -> None:
        """Read all changes that there are, then follow them in a thread.

        A log that is away is waited for beside the chats: what was known before holds until then.
        """
        try:
            await asyncio.to_thread(self._catch_up)
        except Unavailable as error:
            known = "what was known before holds" if self._known else f"the most that is kept is {self._unread.value!r}"
            log.warning("consents cannot be read yet; until then %s: %s", known, error)
        self._thread = threading.Thread(target=self._follow, name="attune-consents", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Stop following; returns when the thread has ended."""
        self._stop.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        self._written.close()
        self._looked_up.close()

    def _catch_up(self) -> None:
        with closing(self._reader()) as reader:
            ends = {place: self._log.end_offset(place) for place in reader.positions()}
            heard = time.monotonic()
            while any(reader.positions()[place] < end for place, end in ends.items()) and not self._stop.is_set():
                if records := reader.poll(max_records=_BATCH, timeout_s=READ_S):
                    self._take(reader, records)
                    heard = time.monotonic()
                elif time.monotonic() > heard + SILENCE_S:  # a broker that went away meanwhile says nothing
                    raise Unavailable(f"the topic {CONSENTS.name} could not be read to its end")
            self._take(reader, ())

    def _follow(self) -> None:
        reader: LogReader | None = None
        anew = told = False
        while not self._stop.is_set():
            pause = RETRY_S
            try:
                if anew:
                    self._forget_offsets()
                    anew = False
                if not self._known:
                    self._catch_up()
                reader = reader or self._reader()
                if records := reader.poll(max_records=_BATCH, timeout_s=READ_S):
                    self._take(reader, records)
                pause, told = YIELD_S, False
            except Unavailable as error:
                if not told:
                    log.warning("changes of consent cannot be followed, trying again: %s", error)
                told = True
            except (RecordsLost, LogReplaced) as error:
                # The topic is kept for ever, so this is not how it should be; what it holds now is read anew.
                log.error("consents may be incomplete: %s", error)
                anew = True
            if pause == RETRY_S and reader is not None:
                reader.close()  # it may stand behind words that were not kept
                reader = None
            self._stop.wait(pause)
        if reader is not None:
            reader.close()

    def _reader(self) -> LogReader:
        offsets = self._offsets()
        places = {TopicPartition(CONSENTS.name, number): 0 for number in self._log.partitions(CONSENTS.name)}
        for place in places:
            known = offsets.get(place.partition, 0)
            # A log that ends before is another one: all of it is read, and the words known so far still hold.
            places[place] = known if known <= self._log.end_offset(place) else 0
        return self._log.reader(places)

    def _take(self, reader: LogReader, records: Sequence[StoredRecord]) -> None:
        changes = [change for record in records if (change := _change_in(record)) is not None]
        self.note(changes, {place.partition: offset for place, offset in reader.positions().items()})
        self._known = True

    def _forget_offsets(self) -> None:
        with self._writes() as written:
            written.execute("DELETE FROM offsets")

    def _offsets(self) -> dict[int, int]:
        with self._writes() as written:
            return dict(written.execute("SELECT partition, next_offset FROM offsets").fetchall())

    @contextmanager
    def _writes(self) -> Iterator[sqlite3.Connection]:
        """The connection that writes, for one thread at a time; its transaction ends with the context."""
        try:
            with self._writing, self._written:
                yield self._written
        except sqlite3.Error as error:
            raise Unavailable(
                f"the record of consents cannot be used: {error}", remedy="Look at the disk of server.data_dir."
            ) from error


def _change_in(record: StoredRecord) -> ConsentChanged | None:
    try:
        event = decode_event(record.value, record.headers)
    except InvalidInput as error:
        log.warning("record %d of %s cannot be read: %s", record.position.offset, record.position.topic, error)
        return None
    return event if isinstance(event, ConsentChanged) else None
