"""The key store in one SQLite file, shared by any number of processes of one machine.

Destroying a key must leave no copy: `secure_delete` overwrites it in the file, and a rollback journal is used rather
than WAL, because a WAL keeps old pages until somebody checkpoints. What the disk itself keeps of overwritten blocks,
and backups of the file, are beyond this module.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from exchange.keys.port import SubjectKey
from schemas.base import minted_by, new_id
from schemas.errors import ConfigError, Unavailable
from schemas.sealed import KEY_BYTES

LAYOUT = 1
_BUSY_S = 30.0
_ID = "key"
_AFTER_ALL = f"{_ID}`"  # "`" sorts right after "_"
_TABLE = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS keys (subject TEXT PRIMARY KEY, key_id TEXT NOT NULL UNIQUE, secret BLOB NOT NULL);
PRAGMA user_version = {LAYOUT};
COMMIT;
"""


class SqliteKeys:
    """A `KeyStore` in a file that only its owner may read. Thread-safe; open it anew in each process."""

    def __init__(self, path: Path) -> None:
        """Open the store, made if it is not there.

        Raises:
            Unavailable: the file cannot be opened or is no SQLite file.
            ConfigError: the file was laid out by another version of Attune.
        """
        self._path = path
        self._lock = threading.Lock()
        with self._translated():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Made here so that it, and the journal that takes its mode, is private from the first byte.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
            self._prepare()

    def _prepare(self) -> None:
        for pragma in ("secure_delete = ON", "journal_mode = DELETE", "synchronous = EXTRA"):
            self._connection.execute(f"PRAGMA {pragma}")
        layout = int(self._connection.execute("PRAGMA user_version").fetchone()[0])
        if layout not in (0, LAYOUT):
            self._connection.close()
            raise ConfigError(
                f"{self._path} is a key store of layout {layout}, and this is layout {LAYOUT}",
                field="keys",
                remedy="Use the version of Attune that wrote it, or another file.",
            )
        if layout == 0:
            self._connection.executescript(_TABLE)

    def key_for(self, subject: str) -> SubjectKey:
        return self.keys_for((subject,))[0]

    def keys_for(self, subjects: Sequence[str]) -> list[SubjectKey]:
        with self._lock, self._translated():
            found = {subject: self._of_subject(subject) for subject in subjects}
            missing = [subject for subject, key in found.items() if key is None]
            made = self._make(missing) if missing else {}
        return [found[subject] or made[subject] for subject in subjects]

    def _make(self, subjects: Sequence[str]) -> dict[str, SubjectKey]:
        rows = [(subject, new_id(_ID), secrets.token_bytes(KEY_BYTES)) for subject in subjects]
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            # Another process may have been faster: its key stands, and both read the same one back.
            self._connection.executemany("INSERT INTO keys VALUES (?, ?, ?) ON CONFLICT (subject) DO NOTHING", rows)
            keys = {subject: key for subject in subjects if (key := self._of_subject(subject)) is not None}
            self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        return keys

    def lookup(self, key_id: str) -> SubjectKey | None:
        with self._lock, self._translated():
            row = self._connection.execute("SELECT key_id, secret FROM keys WHERE key_id = ?", (key_id,)).fetchone()
        return None if row is None else SubjectKey(*row)

    def destroy(self, subject: str, *, until_ms: int | None = None) -> tuple[str, ...]:
        last = _AFTER_ALL if until_ms is None else minted_by(_ID, until_ms)
        with self._lock, self._translated():
            rows = self._connection.execute(
                "DELETE FROM keys WHERE subject = ? AND key_id < ? RETURNING key_id", (subject, last)
            ).fetchall()
        return tuple(row[0] for row in rows)

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _of_subject(self, subject: str) -> SubjectKey | None:
        row = self._connection.execute("SELECT key_id, secret FROM keys WHERE subject = ?", (subject,)).fetchone()
        return None if row is None else SubjectKey(*row)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise Unavailable(f"the key store {self._path} cannot be used: {error}") from error
