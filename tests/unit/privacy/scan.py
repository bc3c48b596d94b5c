"""Looks for planted words and token ids in every byte of every file under a folder, as an attacker with the disk would.

Plain, it tries the encodings that text and token ids could rest in. Sealed, it tries to open every sealed part with
every key that any file could hold: each 32-byte window of each key store (free pages, journals and backups included)
counts as a key. Compressed columns are read through Parquet, spilled SQLite values through SQL.
"""

from __future__ import annotations

import base64
import itertools
import json
import sqlite3
import struct
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from schemas.sealed import KEY_BYTES, Sealed

_SQLITE = b"SQLite format 3\0"


@dataclass(frozen=True)
class Plants:
    """What must not be found: words, and runs of token ids."""

    words: tuple[str, ...] = ()
    tokens: tuple[tuple[int, ...], ...] = ()

    def needles(self) -> dict[str, bytes]:
        """What to look for, by what it is."""
        found: dict[str, bytes] = {}
        for word in self.words:
            texts = {"utf-8": word.encode(), "utf-16": word.encode("utf-16-le"), "utf-16-be": word.encode("utf-16-be")}
            for name, raw in texts.items():
                found |= {f"{word} as {name}{how}": needle for how, needle in _encodings(raw).items()}
        for run in self.tokens:
            for name, layout in (("int32", f"<{len(run)}i"), ("int64", f"<{len(run)}q")):
                raw = struct.pack(layout, *run)
                found |= {f"tokens {run[:3]} as {name}{how}": needle for how, needle in _encodings(raw).items()}
            for glue in (",", ", "):
                found[f"tokens {run[:3]} as a list with {glue!r}"] = glue.join(map(str, run)).encode()
        return found


def _encodings(raw: bytes) -> dict[str, bytes]:
    """The bytes as they are, in hex, and in base64 at each of the three places they may start at."""
    made = {"": raw, " in hex": raw.hex().encode(), " in HEX": raw.hex().upper().encode()}
    for shift in range(3):
        whole = base64.b64encode(b"\0" * shift + raw + b"\0\0")
        # Only characters that depend on nothing but `raw`.
        inside = whole[-(-8 * shift // 6) : 8 * (shift + len(raw)) // 6]
        made[f" in base64 at {shift}"] = inside
        made[f" in base64url at {shift}"] = inside.translate(bytes.maketrans(b"+/", b"-_"))
    return made


@dataclass
class Found:
    """What the scan came upon."""

    readable: list[str] = field(default_factory=list)
    """Planted things that could be read, and where."""
    files: int = 0
    sealed: int = 0
    """Sealed parts that were tried."""
    opened: int = 0
    """Sealed parts that some key opened."""


def scan(folder: Path, plants: Plants) -> Found:
    """Scan every file under a folder."""
    needles, found = plants.needles(), Found()
    sealed: dict[tuple[str, str], Sealed] = {}
    windows: set[bytes] = set()
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        found.files += 1
        raw = path.read_bytes()
        _look(raw, needles, str(path.relative_to(folder)), found)
        if path.name.startswith(("keys.db", ".keys.db")):
            windows |= _windows(raw)
        for row in _rows(path, raw):
            for value in row.values():
                if isinstance(value, str | bytes):
                    data = value if isinstance(value, bytes) else value.encode()
                    _look(data, needles, f"{path.relative_to(folder)} (a value)", found)
            for event_id, part in _sealed_parts(row):
                sealed[event_id, part.data] = part
    found.sealed = len(sealed)
    ciphers = [AESGCM(window) for window in windows]
    for (event_id, _), part in sealed.items():
        plain = _opened(part, event_id, ciphers)
        if plain is not None:
            found.opened += 1
            _look(plain, needles, f"sealed content of {event_id}", found)
    return found


def _look(data: bytes, needles: dict[str, bytes], where: str, found: Found) -> None:
    found.readable += [f"{what} in {where}" for what, needle in needles.items() if needle in data]


def _windows(raw: bytes) -> set[bytes]:
    """Every 32 bytes that may be a key: random ones, so neither all text nor with a quarter of zeros."""
    every = (raw[at : at + KEY_BYTES] for at in range(len(raw) - KEY_BYTES + 1))
    return {one for one in every if one.count(0) < KEY_BYTES // 4 and not one.isascii()}


def _opened(part: Sealed, event_id: str, ciphers: Iterable[AESGCM]) -> bytes | None:
    data = base64.b64decode(part.data)
    for cipher in ciphers:
        try:
            return cipher.decrypt(data[:12], data[12:], event_id.encode())
        except InvalidTag:
            continue
    return None


def _rows(path: Path, raw: bytes) -> Iterator[dict[str, Any]]:
    """Every row of a SQLite or Parquet file."""
    if path.suffix == ".parquet":
        yield from pq.read_table(path).to_pylist()
    if raw.startswith(_SQLITE):
        # Read-only, so that looking changes no byte.
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            database.row_factory = sqlite3.Row
            for (table,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
                yield from (dict(row) for row in database.execute(f"SELECT * FROM {table}"))  # noqa: S608


def _sealed_parts(row: dict[str, Any]) -> Iterator[tuple[str, Sealed]]:
    """Sealed parts of a row of a snapshot, of a ledger, or of a log: each with the event it is bound to."""
    if {"event_id", "key_id", "data"} <= row.keys():
        yield row["event_id"], Sealed(subject=row["subject"], key_id=row["key_id"], data=row["data"])
    for name in ("content", "value"):
        try:
            body = json.loads(row.get(name) or "null")
        except (TypeError, ValueError):  # an aspect's value is a number
            continue
        if not isinstance(body, dict):
            continue
        if name == "content" and "data" in body:
            yield row["event_id"], Sealed.model_validate(body)
        elif isinstance(body.get("content"), dict):
            yield body["id"], Sealed.model_validate(body["content"])


def token_run(words: str, length: int = 8) -> tuple[int, ...]:
    """The first token ids of a text as the in-memory engine sees it: a token is a byte."""
    return tuple(itertools.islice(words.encode(), length))
