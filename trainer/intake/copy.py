"""A copy of a ledger for whoever looks at it beside a running trainer: the facts, without any content."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from schemas.errors import ConfigError
from trainer.intake.layout import LAYOUT, TABLES


def copy_facts(source: Path, target: Path) -> None:
    """A copy of a ledger without its content, as the file `target`, beside a trainer that works on it.

    Raises:
        ConfigError: `source` cannot be read as a ledger of this layout.
    """
    try:
        with closing(sqlite3.connect(source, isolation_level=None, timeout=30.0)) as connection:
            layout = connection.execute("PRAGMA user_version").fetchone()[0]
            if layout != LAYOUT:
                raise ConfigError(f"{source} has layout {layout}, not {LAYOUT}")
            with closing(sqlite3.connect(target, isolation_level=None)) as copy:
                copy.executescript(TABLES)
                copy.execute(f"PRAGMA user_version = {LAYOUT}")
            connection.execute("ATTACH ? AS copy", (str(target),))
            connection.execute("BEGIN")  # a reader's: rows and offsets as of one moment
            connection.execute(
                "INSERT INTO copy.events SELECT event_id, kind, subject, at, completion_id, facts, NULL FROM events"
            )
            there = {name for (name,) in connection.execute("SELECT name FROM main.sqlite_schema WHERE type = 'table'")}
            for table in ("offsets", "dead_letters", "expired", "owner", "topics", "lost"):
                if table not in there:
                    continue  # a ledger that no newer trainer has opened yet
                connection.execute(f"INSERT INTO copy.{table} SELECT * FROM main.{table}")  # noqa: S608 - fixed names
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise ConfigError(f"the ledger {source} cannot be read: {error}", field="state_dir") from error
